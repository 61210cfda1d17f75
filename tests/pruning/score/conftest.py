"""Models written once for all tests of scoring."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.pruning.score.little import mixed_records, write_pair, write_records


@pytest.fixture(autouse=True, scope="session")
def _index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Indexes of data files go to a folder of the tests'."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NVILA_INDEX", str(tmp_path_factory.mktemp("index")))
        yield


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The folders of a large and a small NVILA."""
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twenty records with and without pictures."""
    return write_records(tmp_path / "data" / "shop.jsonl", mixed_records())
