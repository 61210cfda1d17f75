"""The asset folder: missing and damaged parts are named, names map to concepts, superfamilies gather designs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.data.corpus.tiny_corpus import write_tiny_assets

from nvila.data.corpus import Assets
from nvila.data.corpus.assets import default_asset_dir
from nvila.data.corpus.concepts import SYNONYMS, accepted_names, concept_of_emoji, flag_concept
from nvila.data.corpus.sources import FONT_PACKAGES, superfamily_of
from nvila.errors import DataError


def test_missing_folder_names_the_file_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"fonts\.json is missing; .*nvila data assets"):
        Assets.load(tmp_path)


def test_disagreeing_pictures_name_both_numbers(tmp_path: Path) -> None:
    write_tiny_assets(tmp_path)
    np.save(tmp_path / "pictures.npy", np.zeros((3, 96, 96, 4), dtype=np.uint8))
    assets = Assets.load(tmp_path)
    with pytest.raises(DataError, match=r"lists 16 pictures but pictures\.npy holds 3"):
        assets.pixels(assets.pictures[0])


def test_default_folder_follows_the_environment_when_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVILA_ASSETS", "/somewhere/else")
    assert default_asset_dir() == Path("/somewhere/else")
    monkeypatch.delenv("NVILA_ASSETS")
    assert default_asset_dir().parts[-2:] == ("nvila", "assets")


def test_everyday_names() -> None:
    assert concept_of_emoji("dog face", "animal-mammal") == concept_of_emoji("dog", "animal-mammal") == "dog"
    assert concept_of_emoji("red apple", "food-fruit") == "apple"
    assert concept_of_emoji("grinning squinting face", "face-smiling") is None
    assert concept_of_emoji("guide dog", "animal-mammal") is None
    assert flag_concept("fr") == "flag of France"
    assert flag_concept("td") is None
    assert accepted_names("flag of the Netherlands")[:2] == ["flag of the Netherlands", "flag of Netherlands"]
    assert "Netherlands" in accepted_names("flag of the Netherlands")
    assert accepted_names("donut") == ["donut", "doughnut"]
    assert all(name not in synonyms for name, synonyms in SYNONYMS.items())


def test_derived_designs_share_a_superfamily() -> None:
    assert superfamily_of("Carlito", "fonts-crosextra-carlito") == superfamily_of("Lato Medium", "fonts-lato")
    assert superfamily_of("Arimo", "fonts-croscore") == superfamily_of("Liberation Mono", "fonts-liberation")
    assert superfamily_of("TeX Gyre Heros", "fonts-texgyre") == superfamily_of("FreeSans", "fonts-freefont-ttf")
    assert superfamily_of("Jura", "fonts-jura") == "jura"
    assert len(set(FONT_PACKAGES)) == len(FONT_PACKAGES) >= 80
