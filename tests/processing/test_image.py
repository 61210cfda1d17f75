"""Tiles: modes, order, exact values, limits per call and per image, options, saving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from nvila.errors import ConfigError, MediaError
from nvila.processing import NVILAImageProcessor

S = 28


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def as_u8(pixels: np.ndarray) -> np.ndarray:
    return np.rint((pixels * 0.5 + 0.5) * 255).astype(np.uint8)


def tile(image: Image.Image, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
    return np.asarray(image.crop(box) if box else image).transpose(2, 0, 1)


def make(image_mode: str, **options: object) -> NVILAImageProcessor:
    scales = (S, 2 * S, 3 * S) if image_mode == "dynamic_s2" else ()
    return NVILAImageProcessor(image_mode=image_mode, size=S, s2_scales=scales, **options)  # type: ignore[arg-type]


def test_resize_stretches_the_whole_image() -> None:
    image = noise(50, 31)
    result = make("resize")(image)
    assert result["block_sizes"] == [(1, 1)]
    assert np.array_equal(as_u8(result["pixel_values"][0]), tile(image.resize((S, S))))


def test_values_are_the_published_formula() -> None:
    ramp = Image.fromarray(np.arange(S * S * 3, dtype=np.int64).reshape(S, S, 3).astype(np.uint8))
    u8 = tile(ramp)
    expected = ((u8.astype(np.float64) * (1 / 255)).astype(np.float32) - np.float32(0.5)) / np.float32(0.5)
    pixels = make("resize")(ramp)["pixel_values"][0]
    assert pixels.dtype == np.float32
    assert np.array_equal(pixels, expected)


def test_every_channel_has_its_own_mean_and_deviation() -> None:
    processor = make("resize", image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 1.0, 2.0])
    pixels = processor(Image.new("RGB", (S, S), (255, 255, 255)))["pixel_values"][0]
    assert pixels[:, 0, 0] == pytest.approx([1.8, 0.8, 0.35])


def test_pad_centres_on_the_mean_colour() -> None:
    result = as_u8(make("pad")(Image.new("RGB", (S, S // 2), (255, 0, 0)))["pixel_values"][0])
    assert result[:, 0, 0].tolist() == [127, 127, 127]
    assert result[:, S // 2, S // 2].tolist() == [255, 0, 0]
    assert result[:, -1, -1].tolist() == [127, 127, 127]


def test_dynamic_cuts_row_by_row_and_ends_with_the_thumbnail() -> None:
    image = noise(90, 60)
    result = make("dynamic")(image)
    assert result["block_sizes"] == [(2, 3)]
    canvas = image.resize((3 * S, 2 * S))
    boxes = [(x * S, y * S, x * S + S, y * S + S) for y in range(2) for x in range(3)]
    expected = [*(tile(canvas, box) for box in boxes), tile(image.resize((S, S)))]
    assert np.array_equal(as_u8(result["pixel_values"]), np.stack(expected))


def test_dynamic_s2_gives_every_scale() -> None:
    image = noise(90, 60)
    result = make("dynamic_s2")(image)
    assert result["block_sizes"] == [(3, 4)]
    assert result["pixel_values"].shape == (1 + 4 + 12, 3, S, S)
    tiles = as_u8(result["pixel_values"])
    assert np.array_equal(tiles[0], tile(image.resize((S, S))))
    assert np.array_equal(tiles[2], tile(image.resize((2 * S, 2 * S)), (S, 0, 2 * S, S)))
    assert np.array_equal(tiles[-1], tile(image.resize((4 * S, 3 * S)), (3 * S, 2 * S, 4 * S, 3 * S)))


@pytest.mark.parametrize("image_mode", ["resize", "pad", "dynamic", "dynamic_s2"])
def test_one_tile_is_untiled_in_every_mode(image_mode: str) -> None:
    result = make(image_mode)(noise(90, 60), max_tiles=1)
    assert result["block_sizes"] == [(1, 1)]
    assert result["pixel_values"].shape == (1, 3, S, S)


def test_dynamic_s2_below_its_fewest_tiles() -> None:
    result = make("dynamic_s2")(noise(90, 60), max_tiles=6)
    assert result["block_sizes"] == [(2, 3)]
    assert result["pixel_values"].shape[0] == 1 + 4 + 6


def test_limits_per_image_leave_the_others_alone() -> None:
    images = [noise(90, 60), noise(90, 60, 1), noise(20, 80, 2)]
    processor = make("dynamic")
    together = processor(images, max_tiles=[1, None, 2])
    assert together["block_sizes"] == [(1, 1), (2, 3), (2, 1)]
    alone = [processor(image, max_tiles=limit) for image, limit in zip(images, (1, None, 2), strict=True)]
    assert np.array_equal(together["pixel_values"], np.concatenate([item["pixel_values"] for item in alone]))


def test_tiling_never_depends_on_the_other_images() -> None:
    images = [noise(90, 60), noise(60, 90)]
    processor = make("dynamic")
    assert processor(images)["block_sizes"] == [processor(image)["block_sizes"][0] for image in images]


def test_what_an_image_may_be() -> None:
    image = noise(40, 30)
    array = np.asarray(image)
    processor = make("resize")
    expected = processor(image)["pixel_values"]
    for same in (array, array.transpose(2, 0, 1), [[image]], array[None], np.dstack([array, array[..., :1]])):
        assert np.array_equal(processor(same)["pixel_values"], expected)
    gray = image.convert("L")
    for same in (gray, np.asarray(gray), np.asarray(gray)[..., None]):
        assert np.array_equal(processor(same)["pixel_values"], processor(gray.convert("RGB"))["pixel_values"])


def test_tensors() -> None:
    result = make("dynamic")([noise(90, 60)], return_tensors="pt")
    assert tuple(result["pixel_values"].shape) == (7, 3, S, S)
    assert result["block_sizes"] == [(2, 3)]  # a list, not a tensor: engines split it by image


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3)), np.zeros((5, 6, 7), np.uint8), np.zeros(4, np.uint8)])
def test_no_image(image: np.ndarray) -> None:
    with pytest.raises(MediaError, match="an image given as"):
        make("resize")([image])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_mode": "dynamics"}, "did you mean 'dynamic'"),
        ({"size": {"height": 28, "width": 14}}, "square"),
        ({"size": 0}, "square"),
        ({"min_tiles": 5, "max_tiles": 4}, "min_tiles is 5 and max_tiles 4"),
        ({"image_mode": "dynamic_s2", "s2_scales": (28, 60)}, r"\[28, 60\]"),
        ({"image_mode": "dynamic_s2", "s2_scales": ()}, "s2_scales"),
        ({"max_tile": 4}, "did you mean 'max_tiles'"),
    ],
)
def test_wrong_options(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        NVILAImageProcessor(**{"size": S, **options})  # type: ignore[arg-type]


def test_wrong_limits() -> None:
    with pytest.raises(ConfigError, match="max_tiles has 3 entries for 2 images"):
        make("dynamic")([noise(9, 9), noise(9, 9)], max_tiles=[1, 1, 1])
    with pytest.raises(ConfigError, match="max_tiles is 0"):
        make("dynamic")(noise(9, 9), max_tiles=0)


def test_options_of_one_call() -> None:
    processor = make("dynamic")
    assert processor(noise(90, 60), image_mode="resize")["block_sizes"] == [(1, 1)]
    assert processor(noise(90, 60))["block_sizes"] == [(2, 3)]


def test_saving(tmp_path: Path) -> None:
    processor = make("dynamic_s2", max_tiles=10, image_mean=[0.4, 0.5, 0.6])
    processor.save_pretrained(tmp_path)
    for cls in (NVILAImageProcessor, AutoImageProcessor):
        loaded = cls.from_pretrained(tmp_path)
        assert type(loaded) is NVILAImageProcessor
        assert loaded.to_dict() == processor.to_dict()
    image = noise(90, 60)
    assert np.array_equal(loaded(image)["pixel_values"], processor(image)["pixel_values"])
