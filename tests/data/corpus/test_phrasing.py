"""Questions: held-out ones are the wordings kept for them, to the letter; training's vary, and never become those."""

from __future__ import annotations

import numpy as np
import pytest

from nvila.data.corpus.phrasing import LEADS, phrase, phrasings


@pytest.mark.parametrize("task", ["count", "relation", "where", "motion", "word"])
def test_training_adds_words_before_some_questions_and_held_out_ones_stay(task: str) -> None:
    names = {name: name for name in ("things", "thing", "a", "b", "relation")}
    known = {template.format(**names) for template in phrasings(task, "train")}
    hidden = {template.format(**names) for template in phrasings(task, "heldout")}
    rng = np.random.default_rng(0)
    train = [phrase(rng, "train", task, **names) for _ in range(400)]
    bare = [question for question in train if question in known]
    led = [question for question in train if question.startswith(LEADS) and question not in known]
    assert len(bare) + len(led) == len(train)
    assert 0.25 < len(led) / len(train) < 0.45
    assert not hidden & set(train)
    assert {phrase(rng, "heldout", task, **names) for _ in range(100)} == hidden
