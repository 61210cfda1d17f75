"""Charts: the answer follows from the values, and the values from the drawn pixels."""

from __future__ import annotations

import numpy as np
import pytest
from tests.data.corpus.tiny_corpus import many

from nvila.data.corpus import Assets
from nvila.data.corpus.preview import media_of
from nvila.types import TextPart


@pytest.mark.parametrize("name", ["bar", "pie", "line_chart"])
def test_extremes_follow_from_the_values_and_stand_out(assets: Assets, name: str) -> None:
    asked = set()
    for sample in many(assets, name, 80):
        labels, values, ask = sample.meta["labels"], sample.meta["values"], sample.meta["ask"]
        asked.add(ask)
        assert len(set(labels)) == len(labels) == len(values)
        ranked = sorted(values)
        if ask in ("highest", "biggest", "largest"):
            assert sample.meta["answer"] == labels[int(np.argmax(values))]
            assert ranked[-1] > ranked[-2] * 1.04
        elif ask in ("lowest", "smallest"):
            assert sample.meta["answer"] == labels[int(np.argmin(values))]
            assert ranked[0] < ranked[1]
        elif ask == "value":
            question = sample.messages[0].content[1]
            assert isinstance(question, TextPart)
            matching = [v for label, v in zip(labels, values, strict=True) if label in question.text]
            assert int(sample.meta["answer"]) in matching
        elif ask == "count":
            assert sample.meta["answer"] == str(len(labels))
        else:
            assert sample.meta["answer"] == ("up" if values[-1] > values[0] else "down")
    assert len(asked) >= 3


def test_the_highest_bar_is_the_highest_in_pixels(assets: Assets) -> None:
    checked = 0
    for sample in many(assets, "bar", 60):
        frame = np.asarray(media_of(sample)[0]).astype(int)
        labels, values = sample.meta["labels"], sample.meta["values"]
        paper = np.median(frame[:3].reshape(-1, 3), axis=0)
        differs = np.abs(frame - paper).sum(-1) > 90
        centres = [(index + 0.5) / len(labels) * 98 + 7 for index in range(len(labels))]
        heights = [int(differs[: 112 - 20, int(x) - 2 : int(x) + 3].all(axis=1).sum()) for x in centres]
        checked += int(np.argmax(heights)) == int(np.argmax(values))
    assert checked >= 55
