"""A checkpoint small enough to be fine-tuned in a test."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tiny import write_checkpoint


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    write_checkpoint(folder, "hf")
    return folder
