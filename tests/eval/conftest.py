"""Tiny corpus assets for the tests of evaluation."""

from __future__ import annotations

import pytest
from tests.data.corpus.tiny_corpus import write_tiny_assets

from nvila.data.corpus import Assets


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    """A hundred words, a few fonts, four concepts."""
    root = tmp_path_factory.mktemp("assets")
    write_tiny_assets(root)
    return Assets.load(root)
