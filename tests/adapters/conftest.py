"""A tiny checkpoint, and models with adapters whose weights are no longer those that they started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import write_checkpoint

from nvila.adapters.options import AdapterOptions
from nvila.adapters.tune import attach, train_parts
from nvila.model import NVILAForConditionalGeneration

RANK = 4


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of the tower that run and one that does not, two of the decoder; float32."""
    folder = tmp_path_factory.mktemp("base") / "model"
    write_checkpoint(folder, "hf")
    return folder


def parts(model: Any) -> dict[str, Any]:
    return {"vision": model.vision_tower, "projector": model.mm_projector, "llm": model.llm}


def trained(base: Path, options: AdapterOptions, *train: str, seed: int = 1) -> Any:
    """The base with adapters, everything that learns moved at random."""
    model = NVILAForConditionalGeneration.from_pretrained(base, dtype="auto")
    torch.manual_seed(seed)
    attach(model, options)
    train_parts(parts(model), train or ("vision", "projector", "llm"), options)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += 0.05 * torch.randn_like(weight)
    return model.eval()


def logits(model: Any, seed: int = 0) -> torch.Tensor:
    """Of one picture of one tile between some tokens."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(1, 3, 56, 56, generator=generator)
    ids = torch.tensor([[1, 2, 262, 262, 262, 262, 5, 7, 9, 11]])
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=ids, pixel_values=pixels, block_sizes=[(1, 1)]).logits
    return found
