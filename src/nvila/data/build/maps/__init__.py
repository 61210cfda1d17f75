"""The family `maps`: political maps of countries, states and continents, coloured, marked and labelled anew.

A unit is a map. Maps of the same place at two levels of detail are always on the same side of the split. The maps are
drawn as KGeography drew them: names, borders and capitals are that package's and may be disputed or out of date.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nvila.data.build.family import Family, Package, one_in_ten
from nvila.data.build.maps.atlas import MapSheet, read_atlas, write_atlas
from nvila.data.build.maps.fonts import FONT_PACKAGES, copy_fonts
from nvila.data.build.maps.pictures import make_map_sample
from nvila.data.corpus.splits import Split
from nvila.errors import DataError
from nvila.types import Sample

MAP_PACKAGE = Package(name="kgeography-data", origin="debian", licence="GPL-2.0-or-later", megabytes=10.9)
_SAME_PLACE = {"italyprovince": "italy", "republic": "ireland"} | dict.fromkeys(
    ("africa", "asia", "caribbean", "europe", "ncamerica", "oceania", "southamerica"), "world"
)


class MapMaterial:
    """All maps of a material folder; label pictures are read when asked for, the last few kept."""

    def __init__(self, root: Path, sheets: dict[str, MapSheet]) -> None:
        self.root = root
        self.sheets = sheets
        self.units: Sequence[str] = tuple(sorted(unit for unit, sheet in sheets.items() if _num_divisions(sheet) >= 3))
        self._labels = lru_cache(maxsize=16)(self._read_labels)

    def make(self, rng: np.random.Generator, unit: str, same_side: Sequence[str]) -> Sample:
        """A picture of the map `unit` with two to five questions. Nothing of other maps is used."""
        return make_map_sample(rng, self.sheets[unit], self._labels(unit), self.root)

    def _read_labels(self, unit: str) -> NDArray[np.uint8]:
        with Image.open(self.root / f"{unit}.png") as image:
            return np.asarray(image)


def _num_divisions(sheet: MapSheet) -> int:
    return sum(region.place == "division" and region.area > 0 for region in sheet.regions)


class MapFamily:
    """The builder's entry to the maps."""

    name: str = "maps"
    packages: tuple[Package, ...] = (MAP_PACKAGE, *FONT_PACKAGES)

    def prepare(self, fetched: Path, dest: Path) -> None:
        """Label pictures and `atlas.json` from the map package, and the fonts. Raises DataError for what is missing."""
        write_atlas(fetched / MAP_PACKAGE.name / "usr/share/kgeography", dest)
        copy_fonts(fetched, dest)

    def open(self, material: Path) -> MapMaterial:
        """The material. Raises DataError naming the missing file."""
        if not (material / "atlas.json").is_file():
            raise DataError(f"{material / 'atlas.json'} is missing; make it with: nvila data fetch --families maps")
        return MapMaterial(material, read_atlas(material))

    def side(self, unit: str) -> Split:
        """A tenth of the places is held out, all maps of one place together."""
        return one_in_ten(self.name, place_of(unit))


def place_of(unit: str) -> str:
    """The place that a map shows: `france` and `france_regions` are one, and so are the world and the continents."""
    stem = unit.split("_")[0]
    return _SAME_PLACE.get(stem, stem)


FAMILY: Family = MapFamily()
