"""The scripts' folder on the path, as when they are run, and a checkpoint of nano size with nvila-mini's tokenizer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from nvila.layouts import read_settings, resolve
from nvila.train.export import export
from nvila.train.recipe import ModelRecipe
from nvila.train.start import build_learner

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "reproduction"))


@pytest.fixture(scope="session")
def packaged(root: Path) -> Path:
    """The small corpus that comes with the package."""
    return root / "src" / "nvila" / "assets" / "corpus"


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles of 56 pixels with 8 x 8 patches, as many as nvila-mini's; two layers each, 32 wide."""
    sizes = ModelRecipe(
        tile_size=56,
        patch_size=7,
        vision_width=32,
        vision_layers=2,
        vision_heads=2,
        text_width=32,
        text_layers=2,
        text_heads=2,
        text_intermediate=64,
    )
    tokenizer = AutoTokenizer.from_pretrained(read_settings(resolve("nvila-mini")).tokenizer_dir)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("nano")
    export(build_learner(sizes, tokenizer, ()).model, tokenizer, folder)
    return folder
