"""Metrics: exact and accepted answers, and the character error rate against a plain recursion."""

from __future__ import annotations

import random
from functools import cache

import pytest

from nvila.eval.metrics import accepted, anls, cer, edit_distance, exact, overlap, overlap_half, relaxed


def slow_distance(first: str, second: str) -> int:
    @cache
    def distance(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        return min(
            distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (first[i - 1] != second[j - 1])
        )

    return distance(len(first), len(second))


def test_edit_distance_equals_the_recursion() -> None:
    rng = random.Random(1)
    for _ in range(60):
        first, second = ("".join(rng.choices("abc", k=rng.randrange(8))) for _ in range(2))
        assert edit_distance(first, second) == slow_distance(first, second)


@pytest.mark.parametrize(
    ("answer", "truths", "right"),
    [("OPEN", ["OPEN"], 1), ("open", ["OPEN"], 0), (" two \n words ", ["two words"], 1), ("b", ["a", "b"], 1)],
)
def test_exact_minds_case_but_not_spaces(answer: str, truths: list[str], right: int) -> None:
    assert exact(answer, truths) == right


@pytest.mark.parametrize(
    ("answer", "truths", "right"),
    [("A Cat.", ["cat"], 1), ("the red heart", ["red heart", "heart"], 1), ("cat", ["cats"], 0), ("", ["no"], 0)],
)
def test_accepted_minds_neither_case_nor_articles(answer: str, truths: list[str], right: int) -> None:
    assert accepted(answer, truths) == right


def test_cer_is_edits_over_the_truths_length_and_at_most_one() -> None:
    assert cer("kitten", ["sitting"]) == pytest.approx(3 / 7)
    assert cer("same", ["same"]) == 0
    assert cer("far too long", ["x"]) == 1
    assert cer("", [""]) == 0


def test_anls_forgives_up_to_half() -> None:
    assert anls("The Report.", ["report"]) == 1.0
    assert anls("reqort", ["other", "report"]) == pytest.approx(5 / 6)
    assert anls("repxxx", ["report"]) == 0.5
    assert anls("rexxxx", ["report"]) == 0.0
    assert anls("", ["report"]) == 0.0


def test_relaxed_forgives_five_percent() -> None:
    assert relaxed("$1,049", ["1000"]) == 1.0
    assert relaxed("94.9 %", ["100"]) == 0.0
    assert relaxed("Norway", ["norway"]) == 1.0
    assert relaxed("about 10", ["10"]) == 0.0
    assert relaxed("0", ["0.0"]) == 1.0


def test_overlap_of_stretches_of_time() -> None:
    assert overlap("<1.00> <3.00>", ["<1.00> <3.00>"]) == pytest.approx(1.0)
    assert overlap("It is <2> <4>.", ["<1.00> <3.00> A dog."]) == pytest.approx(1 / 3)
    assert [overlap(given, ["<1.00> <3.00>"]) for given in ("<5> <6>", "<3> <1>", "one")] == [0.0, 0.0, 0.0]
    assert [overlap_half(given, ["<0> <2>"]) for given in ("<0> <1>", "<0> <0.9>")] == [1.0, 0.0]
