"""One checkpoint for the tests of the engine that do not care for the family."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.engine.tiny_engines import FAMILIES, write_lively_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2 with grouped-query attention."""
    return write_lively_checkpoint(tmp_path_factory.mktemp("engine") / "model", **FAMILIES["qwen2"])
