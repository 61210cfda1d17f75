"""Every test has a cache of its own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where hashed ids and indices go."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("NVILA_INDEX", str(folder))
    return folder
