"""A stand-in family with its material, for tests of the builder."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.build.stand_in import StandIn

from nvila.data.build.fetch import BuildFolder, fetch


@pytest.fixture
def folder(tmp_path: Path) -> BuildFolder:
    """A build folder in which the stand-in's material is prepared."""
    place = BuildFolder(tmp_path / "build")
    assert fetch([StandIn()], place) == ["stand_in"]
    return place
