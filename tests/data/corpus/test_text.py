"""Text: the boxes hold the letters of the answer in order, ink is where they say, and receipts add up."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tests.data.corpus.tiny_corpus import many

from nvila.data.corpus import Assets, generate
from nvila.data.corpus.faces import Face
from nvila.data.corpus.preview import media_of
from nvila.data.corpus.text import rotate
from nvila.errors import DataError
from nvila.types import LabelledBox, Sample, TextPart


def letters(sample: Sample) -> str:
    return "".join(item.label.removeprefix("char:") for item in sample.objects)


@pytest.mark.parametrize("name", ["word", "strip", "line", "paragraph", "sign"])
def test_labels_spell_the_answer(assets: Assets, name: str) -> None:
    for sample in many(assets, name, 60):
        expected = re.sub(r"\s", "", sample.meta["answer"])
        if name == "word":
            assert letters(sample) == expected
        spelled, position = letters(sample), 0
        for letter in spelled:
            position = expected.index(letter, position) + 1
        assert len(spelled) >= 0.9 * len(expected), "at most a letter cut by the edge may lack a box"


def test_a_letter_box_holds_its_ink(assets: Assets) -> None:
    for index in range(30):
        sample = generate("word", assets, split="train", seed=3, index=index, size=(112, 112), difficulty=0.0)
        frame = np.asarray(media_of(sample)[0]).astype(int).sum(-1)
        for item in sample.objects:
            left, top, right, bottom = (int(value) for value in item.box)
            assert frame[top:bottom, left:right].min() < 350, "dark ink inside"
        outside = frame.copy()
        for item in sample.objects:
            left, top, right, bottom = (int(value) for value in item.box)
            outside[top:bottom, left:right] = 765
        assert outside.min() > 500, "no ink outside of the boxes"


def test_difficulty_zero_is_dark_on_light(assets: Assets) -> None:
    for index in range(20):
        sample = generate("line", assets, split="train", seed=3, index=index, size=(112, 112), difficulty=0.0)
        frame = np.asarray(media_of(sample)[0])
        assert np.median(frame) > 200
        assert 14 <= sample.meta["font_size"] <= 20


def test_easy_words_stand_at_the_left_edge_in_one_row_of_visual_tokens(assets: Assets) -> None:
    for index in range(20):
        sample = generate("word", assets, split="train", seed=3, index=index, size=(112, 112), difficulty=0.0)
        boxes = [item.box for item in sample.objects]
        middles = [(box[1] + box[3]) / 2 for box in boxes]
        assert min(box[0] for box in boxes) <= 8
        assert all(50 <= middle <= 90 for middle in middles)


def test_rotation_moves_the_boxes_with_the_ink() -> None:
    mask = np.zeros((60, 100), dtype=np.uint8)
    mask[10:20, 70:80] = 255
    turned, boxes = rotate(mask, [LabelledBox(label="char:x", box=(70, 10, 80, 20))], 3.0)
    rows, columns = np.nonzero(turned > 128)
    left, top, right, bottom = boxes[0].box
    assert abs(columns.mean() + 0.5 - (left + right) / 2) < 0.6
    assert abs(rows.mean() + 0.5 - (top + bottom) / 2) < 0.6


def test_receipts_add_up(assets: Assets) -> None:
    kinds = set()
    for sample in many(assets, "receipt", 80):
        goods, cents, kind = sample.meta["items"], sample.meta["cents"], sample.meta["kind"]
        kinds.add(kind)
        total = f"{sum(cents) // 100}.{sum(cents) % 100:02d}"
        spelled = letters(sample)
        assert spelled.lower().endswith(f"total{total}")
        if kind == "total":
            assert sample.meta["answer"] == total
        elif kind == "items":
            assert sample.meta["answer"] == str(len(goods))
        else:
            question = sample.messages[0].content[1]
            assert isinstance(question, TextPart)
            rows = [f"{name}{c // 100}.{c % 100:02d}" for name, c in zip(goods, cents, strict=True)]
            row = next(
                row
                for row, name in zip(rows, goods, strict=True)
                if row.endswith(sample.meta["answer"]) and name in question.text
            )
            assert row in spelled
    assert kinds == {"total", "price", "items"}


def test_a_broken_font_is_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("fonts") / "broken.ttf"
    path.write_bytes(b"not a font")
    with pytest.raises(DataError, match=r"broken\.ttf: cannot be read as a font"):
        Face(path, 12)
