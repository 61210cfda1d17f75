"""The architectures that recipes name: their parameters, counted without memory for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from nvila.errors import ConfigError
from nvila.layouts import MINI, resolve
from nvila.model import NVILAForConditionalGeneration
from nvila.train.plan.published import ARCHITECTURES, architecture


def counts(name: str) -> dict[str, int]:
    """Numbers of the weights of each part, on a model without memory."""
    with torch.device("meta"):
        model = NVILAForConditionalGeneration(architecture(name).config())
    parts = {"vision": model.vision_tower, "projector": model.mm_projector, "llm": model.llm}
    return {part: sum(weight.numel() for weight in module.parameters()) for part, module in parts.items()}


@pytest.mark.parametrize(
    ("name", "vision", "projector", "llm"),
    [
        ("2b", 413_327_088, 23_623_680, 1_543_271_936),
        ("8b", 413_327_088, 62_425_088, 7_612_634_624),
        ("15b", 413_327_088, 97_031_168, 14_765_773_824),
        ("lite-2b", 413_327_088, 43_533_696, 1_543_271_936),
        ("lite-8b", 413_327_088, 61_101_440, 7_612_634_624),
        ("lite-15b", 413_327_088, 79_782_272, 14_765_773_824),
    ],
)
def test_published_architectures(name: str, vision: int, projector: int, llm: int) -> None:
    assert counts(name) == {"vision": vision, "projector": projector, "llm": llm}
    visual = architecture(name).config().visual
    if name.startswith("lite"):
        assert (visual.image_mode, visual.min_tiles, visual.max_tiles) == ("dynamic", 1, 12)
    else:
        assert (visual.image_mode, visual.s2_scales) == ("dynamic_s2", (448, 896, 1344))
    assert visual.tokens_per_tile == (121 if name.startswith("lite") else 256)


def test_mini_is_what_the_package_ships() -> None:
    with safe_open(Path(resolve(MINI)) / "model.safetensors", "pt") as file:
        shipped = sum(torch.Size(file.get_slice(name).get_shape()).numel() for name in file.keys())  # noqa: SIM118
    assert sum(counts("mini").values()) == shipped


def test_nano_is_tiny() -> None:
    assert sum(counts("nano").values()) < 500_000
    config = architecture("nano").config()
    assert (config.tile_size, config.visual.tokens_per_tile) == (56, 4)


def test_an_unknown_architecture_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown architecture 'lite8b' .did you mean 'lite-8b'"):
        architecture("lite8b")
    assert set(ARCHITECTURES) == {"2b", "8b", "15b", "lite-2b", "lite-8b", "lite-15b", "mini", "nano"}
