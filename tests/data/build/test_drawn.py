"""Family `drawn`: what is added to the generators' samples is right by their boxes, texts and frames."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.data.corpus.tiny_corpus import write_tiny_assets

from nvila.data.build.drawn import CLIPS, FAMILY, MAX_QUESTIONS, SIZES, Drawn
from nvila.data.build.drawn_questions import ORDINALS, WORDINGS
from nvila.data.build.shards import accepted_answers, generator
from nvila.data.corpus.splits import word_split
from nvila.errors import DataError
from nvila.types import ImagePart, Sample, TextPart, VideoPart

SEEDS = range(50)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    root = tmp_path_factory.mktemp("assets")
    write_tiny_assets(root)
    return FAMILY.open(root)


def made(drawn: Drawn, unit: str, seed: int) -> Sample:
    side = FAMILY.side(unit)
    same_side = [other for other in drawn.units if FAMILY.side(other) == side]
    return drawn.make(generator("drawn", side, 0, seed), unit, same_side)


def turns(sample: Sample) -> list[tuple[str, list[str]]]:
    """Each question with its accepted answers."""
    texts = [
        "".join(part.text for part in message.content if isinstance(part, TextPart))
        for message in sample.messages
        if message.role == "user"
    ]
    return list(zip(texts, accepted_answers(sample), strict=True))


def asked(drawn: Drawn, name: str, *kinds: str) -> Iterator[tuple[Sample, str, re.Match[str], list[str]]]:
    """Every question of these kinds about samples of a generator, at all its sizes and on both sides."""
    patterns = [
        (kind, re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+?)", re.escape(wording))))
        for kind in kinds
        for wording in WORDINGS[kind].split("|")
    ]
    for seed in SEEDS:
        side = "heldout" if seed % 4 == 0 else "train"
        width, height = SIZES[name][seed % len(SIZES[name])]
        sample = made(drawn, f"{side}/{name}/{width}x{height}", seed)
        for question, answers in turns(sample):
            for kind, pattern in patterns:
                if match := pattern.fullmatch(question):
                    yield sample, kind, match, answers
                    break


def letters(sample: Sample) -> list[tuple[str, tuple[float, float, float, float]]]:
    """The characters that were drawn, with their boxes, in reading order."""
    return [(item.label.removeprefix("char:"), item.box) for item in sample.objects if item.label.startswith("char:")]


def test_characters_are_those_that_were_drawn(drawn: Drawn) -> None:
    kinds = set()
    for sample, kind, _, answers in asked(drawn, "word", "first_character", "last_character", "num_characters"):
        seen = [character for character, _ in sorted(letters(sample), key=lambda item: item[1][0])]
        right = {"first_character": seen[0], "last_character": seen[-1], "num_characters": str(len(seen))}
        assert answers[0] == right[kind], (kind, seen)
        kinds.add(kind)
    assert kinds == {"first_character", "last_character", "num_characters"}


@pytest.mark.parametrize("name", ["strip", "paragraph"])
def test_lines_are_those_that_were_drawn(drawn: Drawn, name: str) -> None:
    kinds = set()
    for sample, kind, match, answers in asked(drawn, name, "num_lines", "line"):
        text = sample.meta["answer"]
        if kind == "num_lines":
            assert answers[0] == str(text.count("\n") + 1)
        else:
            given = match.groupdict()
            if given.get("nth") == "whole":
                continue  # "Read the whole line." is how generators ask for everything
            place = int(given["n"]) if "n" in given else ORDINALS.index(given["nth"]) + 1
            assert answers[0] == text.split("\n")[place - 1]
        kinds.add(kind)
    assert kinds == {"num_lines", "line"} or name == "strip"


def test_words_are_words(drawn: Drawn) -> None:
    kinds = set()
    for sample, kind, _, answers in asked(drawn, "line", "first_word", "last_word", "num_words"):
        text = sample.meta["answer"]
        assert not re.search(r"\d", text), "numbers are no words"
        right = {"first_word": text.partition(" ")[0], "last_word": text.rpartition(" ")[2]}
        assert answers[0] == right.get(kind, str(text.count(" ") + 1))
        kinds.add(kind)
    assert kinds == {"first_word", "last_word", "num_words"}


def test_prices_and_goods(drawn: Drawn) -> None:
    kinds = set()
    for sample, kind, _, answers in asked(drawn, "receipt", "dearest", "cheapest"):
        bill = dict(zip(sample.meta["cents"], sample.meta["items"], strict=False))
        extreme = sorted(sample.meta["cents"])[-1 if kind == "dearest" else 0]
        assert sample.meta["cents"].count(extreme) == 1
        assert answers[0] == bill[extreme]
        kinds.add(kind)
    assert kinds == {"dearest", "cheapest"}
    for seed in SEEDS:
        sample = made(drawn, "train/receipt/336x448", seed)
        found = [answers for _, answers in turns(sample)]
        total = sum(sample.meta["cents"])
        assert [f"{total / 100:.2f}", f"${total / 100:.2f}"] in found or len(found) == MAX_QUESTIONS


def test_charts(drawn: Drawn) -> None:
    for sample, _, _, answers in asked(drawn, "pie", "num_slices"):
        assert answers[0] == str(len(sample.meta["values"]))
    for sample, _, _, answers in asked(drawn, "line_chart", "num_points"):
        assert answers[0] == str(len(sample.meta["values"]))
    for name, low, high in (("pie", "smallest", "(biggest|largest)"), ("line_chart", "lowest", "highest")):
        checked = 0
        for seed in SEEDS:
            sample = made(drawn, f"train/{name}/224x224", seed)
            ranked = sorted(zip(sample.meta["values"], sample.meta["labels"], strict=True))
            for question, answers in turns(sample):
                if re.search(low, question):
                    assert answers[0] == ranked[0][1], question
                    checked += 1
                elif re.search(high, question):
                    assert answers[0] == ranked[-1][1], question
                    checked += 1
        assert checked > 50


def test_times_of_clips_are_those_of_the_frames(drawn: Drawn) -> None:
    seen = set()
    for sample, kind, _, answers in asked(drawn, "order", "appears", "duration", "num_appearing"):
        part = sample.messages[0].content[0]
        assert isinstance(part, VideoPart)
        frames = [np.asarray(frame) for frame in part.video or ()]
        changes = [index for index in range(1, len(frames)) if not np.array_equal(frames[index], frames[index - 1])]
        fps = sample.meta["fps"]
        if kind == "duration":
            assert float(answers[0]) == len(frames) / fps
        elif kind == "appears":
            assert float(answers[0]) == changes[-1] / fps
        else:
            assert answers[0] == str(len(changes) + 1)
        seen.add(kind)
    assert seen == {"appears", "duration", "num_appearing"}


@pytest.mark.parametrize("name", SIZES)
def test_samples_keep_the_contract_at_every_size_and_side(drawn: Drawn, name: str) -> None:
    for side in ("train", "heldout"):
        for seed, (width, height) in enumerate(SIZES[name]):
            unit = f"{side}/{name}/{width}x{height}"
            sample, again = made(drawn, unit, seed), made(drawn, unit, seed)
            assert turns(sample) == turns(again)
            assert 1 <= len(turns(sample)) <= MAX_QUESTIONS
            assert len({question for question, _ in turns(sample)}) == len(turns(sample)), "a question comes twice"
            part, other = sample.messages[0].content[0], again.messages[0].content[0]
            if name in CLIPS:
                assert isinstance(part, VideoPart)
                assert isinstance(other, VideoPart)
                assert sample.meta["fps"] in (1, 2, 4)
                first, second = list(part.video or ()), list(other.video or ())
            else:
                assert isinstance(part, ImagePart)
                assert isinstance(other, ImagePart)
                assert part.image is not None
                assert other.image is not None
                first, second = [part.image], [other.image]
            assert {frame.size for frame in first} == {(width, height)}
            assert [frame.tobytes() for frame in first] == [frame.tobytes() for frame in second]


def test_sides_have_their_own_units_and_words(drawn: Drawn) -> None:
    sides = {side: [unit for unit in drawn.units if FAMILY.side(unit) == side] for side in ("train", "heldout")}
    assert len(sides["train"]) == len(sides["heldout"]) == sum(map(len, SIZES.values()))
    assert all(unit.startswith(f"{side}/") for side, units in sides.items() for unit in units)
    assert list(drawn.units) == sorted(drawn.units)
    for seed in SEEDS:
        word = made(drawn, "heldout/word/224x112", seed).meta["answer"]
        assert word_split(word) == "heldout"


def test_wordings_and_missing_material(tmp_path: Path) -> None:
    for kind, wordings in WORDINGS.items():
        assert len(set(wordings.split("|"))) >= 6, kind
    with pytest.raises(DataError, match="nvila data fetch --families drawn"):
        FAMILY.open(tmp_path)
