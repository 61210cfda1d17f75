"""An index cache of its own for every test, a reader of records, and a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nvila.data.formats import to_sample
from nvila.types import Sample


@pytest.fixture(autouse=True)
def index_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index-cache"
    monkeypatch.setenv("NVILA_INDEX", str(folder))
    return folder


@pytest.fixture
def read() -> Callable[..., Sample]:
    """A record as a sample of line 7 of a file."""

    def run(record: Mapping[str, Any], **options: Any) -> Sample:
        return to_sample(record, place="data.jsonl:7", source="set", **options)

    return run


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A red picture of 40 x 20 pixels."""
    path = tmp_path / "red.png"
    Image.new("RGB", (40, 20), (255, 0, 0)).save(path)
    return path
