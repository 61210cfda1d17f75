"""The tiny corpus assets, once for all tests of the corpus."""

from __future__ import annotations

import pytest
from tests.data.corpus.tiny_corpus import write_tiny_assets

from nvila.data.corpus import Assets


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    """Twelve superfamilies, a hundred words, four concepts with four renderings each."""
    root = tmp_path_factory.mktemp("assets")
    write_tiny_assets(root)
    return Assets.load(root)
