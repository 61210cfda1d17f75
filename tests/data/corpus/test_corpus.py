"""Every generator: the same arguments give the same sample, boxes lie inside, contracts of the sample hold."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image
from tests.data.corpus.tiny_corpus import CLIPS, SIZES, many, pixels

from nvila.data.corpus import GENERATORS, Assets, dense_labels, generate, tokenizer_words
from nvila.data.corpus.preview import cell_of, contact_sheet, media_of
from nvila.errors import DataError
from nvila.types import TextPart


@pytest.mark.parametrize("name", GENERATORS)
def test_same_arguments_give_the_same_sample_in_another_process_too(assets: Assets, name: str) -> None:
    travelled = pickle.loads(pickle.dumps(assets))
    first, second = many(assets, name, 4), many(travelled, name, 4)
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(pixels(a), pixels(b))
        assert (a.id, a.meta, a.objects, a.messages[0].content[1]) == (
            b.id,
            b.meta,
            b.objects,
            b.messages[0].content[1],
        )
    assert len({pixels(sample).tobytes() for sample in many(assets, name, 8)}) == 8, "indices repeat a picture"
    others = many(assets, name, 4, seed=6)
    assert not any(np.array_equal(pixels(a), pixels(b)) for a, b in zip(first, others, strict=True))


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_boxes_labels_and_answers_keep_their_contract(assets: Assets, name: str, split: str) -> None:
    known = set(dense_labels(assets))
    width, height = SIZES.get(name, (112, 112))
    for sample in many(assets, name, 25, split):
        frames = media_of(sample)
        assert len(frames) == (8 if name in CLIPS else 1)
        assert all(frame.size == (width, height) and frame.mode == "RGB" for frame in frames)
        answer = sample.messages[1].content[0]
        assert isinstance(answer, TextPart)
        assert answer.text == sample.meta["answer"] == sample.meta["answers"][0] != ""
        assert sample.objects, "no dense labels"
        for item in sample.objects:
            left, top, right, bottom = item.box
            assert 0 <= left < right <= width, (sample.id, item)
            assert 0 <= top < bottom <= height, (sample.id, item)
            assert item.label in known


@pytest.mark.parametrize("size", [(112, 112), (224, 112), (336, 224), (112, 336)])
def test_every_generator_fills_any_size(assets: Assets, size: tuple[int, int]) -> None:
    for name in GENERATORS:
        for index in range(3):
            sample = generate(name, assets, split="train", seed=1, index=index, size=size, difficulty=0.0)
            assert media_of(sample)[0].size == size


def test_lists_are_stable_and_without_duplicates(assets: Assets) -> None:
    labels, words = dense_labels(assets), tokenizer_words(assets)
    assert labels == dense_labels(assets)
    assert len(set(labels)) == len(labels)
    assert len(set(words)) == len(words)
    assert {"char:A", "char:~", "name:apple", "shape:circle", "color:red"} <= set(labels)
    assert {"red", "circle", "what", "apple", "three", "left"} <= set(words)


def test_unknown_generator_names_the_nearest(assets: Assets) -> None:
    with pytest.raises(DataError, match="did you mean 'paragraph'"):
        generate("paragraf", assets, split="train", seed=0, index=0, size=(112, 112))


def test_contact_sheet_shows_every_cell(assets: Assets) -> None:
    cells = [cell_of(sample, boxes=True) for name in ("word", "motion") for sample in many(assets, name, 2)]
    sheet = contact_sheet(cells, 2)
    assert isinstance(sheet, Image.Image)
    assert sheet.height >= 2 * cells[0].height
    assert sheet.width >= 2 * max(cell.width for cell in cells)
