"""Questions: held-out ones are the wordings kept for them, to the letter; training's vary, and never become those."""

from __future__ import annotations

import numpy as np
import pytest

from nvila.data.corpus.phrasing import LEADS, phrase, phrasings


@pytest.mark.parametrize("task", ["count", "relation", "where", "motion", "word"])
def test_training_varies_its_questions_and_held_out_ones_stay_to_the_letter(task: str) -> None:
    names = {name: name.upper() for name in ("things", "thing", "a", "b", "relation")}
    known = {template.format(**names) for template in phrasings(task, "train")}
    hidden = {template.format(**names) for template in phrasings(task, "heldout")}
    used = {name for name in names.values() if all(f" {name}" in f" {question}" for question in known)}
    rng = np.random.default_rng(0)
    train = [phrase(rng, "train", task, **names) for _ in range(600)]
    bare = [question for question in train if question in known]
    led = [question for question in train if question.startswith(LEADS)]
    loose = [question for question in train if question not in known and not question.startswith(LEADS)]
    assert 0.38 < len(bare) / len(train) < 0.62
    assert 0.22 < len(led) / len(train) < 0.38
    assert 0.1 < len(loose) / len(train) < 0.3
    assert all(name in question for question in train for name in used)
    assert not hidden & set(train)
    assert {phrase(rng, "heldout", task, **names) for _ in range(100)} == hidden


def test_a_loosened_question_keeps_two_words() -> None:
    rng = np.random.default_rng(0)
    assert all(len(phrase(rng, "train", "naming").split()) >= 2 for _ in range(300))
