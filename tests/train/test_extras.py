"""Captions and dense labels of a mixture's samples beside their tokens."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image
from tests.train.conftest import Backbones
from transformers import AutoTokenizer

from nvila.data.encode import Encoded, SampleEncoder
from nvila.errors import ConfigError
from nvila.layouts import VisualSettings
from nvila.processing import NVILAProcessor
from nvila.train.dense import UNLABELLED, DenseRaster, dense_kinds
from nvila.train.extras import Extras, windows
from nvila.train.start import build_processor
from nvila.types import ImagePart, LabelledBox, Message, Sample, TextPart

KINDS = dense_kinds(["name:cat", "name:dog"])


def make_processor(backbones: Backbones, **changes: Any) -> NVILAProcessor:
    settings: dict[str, Any] = {"image_mode": "dynamic", "tile_size": 28, "patch_size": 7, "max_tiles": 4, **changes}
    return build_processor(VisualSettings(**settings), AutoTokenizer.from_pretrained(backbones.language))


def make_sample(name: str, size: tuple[int, int] | None, *objects: LabelledBox) -> Sample:
    question = TextPart(text="What is it?")
    content = (question,) if size is None else (ImagePart(image=Image.new("RGB", size)), question)
    answer = Message(role="assistant", content=(TextPart(text=name),))
    return Sample(id=name, source="s", messages=(Message(role="user", content=content), answer), objects=objects)


def test_labels_lie_in_the_tiles_that_show_them(backbones: Backbones) -> None:
    """A picture twice as wide as high is cut in two, with the whole behind them."""
    processor = make_processor(backbones)
    extras = Extras(processor, captions=False, raster=DenseRaster(KINDS, 28, 7), seed=0)
    dog = LabelledBox(label="name:dog", box=(100.0, 0.0, 160.0, 80.0))
    sample = make_sample("dog", (160, 80), dog)
    encoded = SampleEncoder(processor)(sample)
    assert encoded.block_sizes == ((1, 2),)
    dense = extras.of(sample, encoded, 0).dense
    assert dense is not None
    shown = (dense[..., 0] == 2).reshape(3, 4, 4)
    assert not shown[0].any()
    assert shown[1].tolist() == [[False, True, True, True]] * 4
    assert shown[2].tolist() == [[False, False, True, True]] * 4


def test_nothing_is_said_of_pictures_without_known_labels(backbones: Backbones) -> None:
    processor = make_processor(backbones)
    extras = Extras(processor, captions=False, raster=DenseRaster(KINDS, 28, 7), seed=0)
    sample = make_sample("dog", (28, 28), LabelledBox(label="breed:poodle", box=(0.0, 0.0, 28.0, 28.0)))
    dense = extras.of(sample, SampleEncoder(processor)(sample), 0).dense
    assert dense is not None
    assert (dense == UNLABELLED).all()


def test_the_windows_of_a_grid_make_up_the_picture() -> None:
    parts = windows(90, 40, (2, 3))
    assert parts[0] == (0.0, 0.0, 30.0, 20.0)
    assert parts[5] == (60.0, 20.0, 90.0, 40.0)
    assert parts[6] == (0.0, 0.0, 90.0, 40.0)
    assert windows(90, 40, (1, 1)) == [(0.0, 0.0, 90.0, 40.0)]


def test_captions_know_their_tiles(backbones: Backbones) -> None:
    processor = make_processor(backbones)
    extras = Extras(processor, captions=True, raster=None, seed=0)
    samples = [make_sample("cat", (80, 80)), make_sample("word", None), make_sample("dog", (160, 80))]
    encoded: list[Encoded] = [SampleEncoder(processor)(sample) for sample in samples]
    found = [extras.of(sample, one, 7) for sample, one in zip(samples, encoded, strict=True)]
    assert found[1].caption is None
    batch = extras.collate(encoded, found)
    tiles = [0 if one.pixel_values is None else len(one.pixel_values) for one in encoded]
    assert batch["tile_owner"].tolist() == [0] * tiles[0] + [1] * tiles[2]
    texts = [
        processor.tokenizer.decode(ids[mask])
        for ids, mask in zip(batch["caption_ids"], batch["caption_mask"], strict=True)
    ]
    assert ["cat" in texts[0], "dog" in texts[1]] == [True, True]
    assert extras.collate(encoded[1:2], found[1:2]) == {}


def test_dense_labels_want_a_plain_grid(backbones: Backbones) -> None:
    processor = make_processor(backbones, image_mode="dynamic_s2", s2_scales=(28, 56))
    with pytest.raises(ConfigError, match="dynamic_s2"):
        Extras(processor, captions=False, raster=DenseRaster(KINDS, 28, 7), seed=0)
