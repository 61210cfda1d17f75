"""Fonts of the maps and of the words shown in clips: copied out of Debian packages once, opened at a size on demand.

Fonts are chosen by name from a few families that hold all accented Latin letters of place names. Leaves out the
hundreds of faces of the text generators: here the place matters, not the letterform.
"""

from __future__ import annotations

import shutil
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from nvila.data.build.family import Package
from nvila.errors import DataError

FONT_PACKAGES = (
    Package(name="fonts-dejavu-core", origin="debian", licence="Bitstream-Vera", megabytes=1.1),
    Package(name="fonts-liberation", origin="debian", licence="OFL-1.1", megabytes=0.9),
    Package(name="fonts-lato", origin="debian", licence="OFL-1.1", megabytes=2.8),
)
FONT_FILES = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSerif.ttf",
    "LiberationSans-Regular.ttf",
    "LiberationSans-Bold.ttf",
    "LiberationSerif-Regular.ttf",
    "LiberationSansNarrow-Regular.ttf",
    "Lato-Regular.ttf",
    "Lato-Bold.ttf",
)


def copy_fonts(fetched: Path, dest: Path) -> None:
    """Copy the chosen font files into `dest / "fonts"`. Raises DataError naming a file that no package holds."""
    (dest / "fonts").mkdir()
    for name in FONT_FILES:
        roots = [fetched / package.name for package in FONT_PACKAGES]
        found = next((path for root in roots for path in sorted(root.rglob(name))), None)
        if found is None:
            raise DataError(f"font {name} is in none of {', '.join(map(str, roots))}; run: nvila data fetch")
        shutil.copyfile(found, dest / "fonts" / name)


@lru_cache(maxsize=256)
def open_font(folder: Path, name: str, size: int) -> ImageFont.FreeTypeFont:
    """The font `name` of a material folder at `size` pixels, cached."""
    return ImageFont.truetype(str(folder / "fonts" / name), size)
