"""The corpus's raw material once it is on disk: fonts, words and rasterised pictures, opened lazily.

A folder of assets holds `manifest.json` (sources, versions, licences), `fonts.json` with the files it names,
`words.txt` (most frequent first), `pictures.json` and `pictures.npy`: (num_pictures, S, S, 4) uint8 RGBA,
memory-mapped so that worker processes share it. `nvila data assets` makes one; see `fetch.py`.
Nothing here draws; glyph masks are cached per face because rendering text is the generators' hot step.
"""

from __future__ import annotations

import json
import os
import re
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvila.data.corpus.faces import Face
from nvila.data.corpus.splits import Split, held_out_of, superfamily_split, word_split
from nvila.errors import DataError

MAX_CACHED_FACES = 4096
EASY_SUPERFAMILIES = ("dejavu", "liberation", "courier-prime", "go", "firacode")


@dataclass(frozen=True, kw_only=True)
class Font:
    """One font file: `path` relative to the asset folder, and the superfamily it is split by."""

    path: str
    family: str
    style: str
    superfamily: str
    mono: bool


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One rendering of a concept: `row` of `pictures.npy`, `name` unique over the art sources."""

    concept: str
    name: str
    source: str
    row: int
    mirrors: bool
    """Whether a mirror image still shows the same thing (false for flags, letters, clocks)."""


def default_asset_dir() -> Path:
    """`$NVILA_ASSETS`, or `~/.cache/nvila/assets`."""
    return Path(os.environ.get("NVILA_ASSETS") or Path.home() / ".cache" / "nvila" / "assets")


class Assets:
    """Everything that generators draw from, split by name. Cheap to make and to send to a worker process."""

    def __init__(self, root: Path) -> None:
        """`root`: the asset folder. Raises DataError naming the missing file and the command that makes it."""
        self.root = root
        self._faces: OrderedDict[tuple[str, int], Face] = OrderedDict()
        for name in ("fonts.json", "words.txt", "pictures.json", "pictures.npy"):
            if not (root / name).is_file():
                raise DataError(
                    f"corpus asset {root / name} is missing; make the folder with: nvila data assets --dest {root}"
                )

    @classmethod
    def load(cls, root: str | Path | None = None) -> Assets:
        """The assets in `root`, or in the default folder. Raises DataError when a file is missing."""
        return cls(default_asset_dir() if root is None else Path(root))

    def __reduce__(self) -> tuple[Any, ...]:
        """Only the path travels between processes; caches and the memory map are made anew."""
        return (Assets, (self.root,))

    @cached_property
    def fonts(self) -> tuple[Font, ...]:
        """All fonts, in the order of `fonts.json`."""
        return tuple(Font(**record) for record in self._read_json("fonts.json"))

    @cached_property
    def _superfamilies(self) -> dict[Split, tuple[tuple[Font, ...], ...]]:
        families: dict[str, list[Font]] = {}
        for font in self.fonts:
            families.setdefault(font.superfamily, []).append(font)
        sides: dict[Split, list[tuple[Font, ...]]] = {"train": [], "heldout": []}
        for name in sorted(families):
            sides[superfamily_split(name)].append(tuple(families[name]))
        return {side: tuple(groups) for side, groups in sides.items()}

    @cached_property
    def _easy_superfamilies(self) -> tuple[tuple[Font, ...], ...]:
        """Upright monospaced training faces: of the few superfamilies to start with, or of all when none is there."""
        upright = [
            tuple(font for font in group if font.mono and not re.search("Italic|Oblique", font.style + font.path))
            for group in self.superfamilies("train")
        ]
        first = tuple(group for group in upright if group and group[0].superfamily in EASY_SUPERFAMILIES)
        return first or tuple(group for group in upright if group)

    def superfamilies(self, split: Split) -> tuple[tuple[Font, ...], ...]:
        """The fonts of one side, grouped by superfamily. Raises DataError when that side has none."""
        groups = self._superfamilies[split]
        if not groups:
            raise DataError(f"{self.root / 'fonts.json'} has 0 superfamilies for split {split!r}; add fonts")
        return groups

    def choose_font(self, rng: np.random.Generator, split: Split, *, easy: bool = False) -> Font:
        """A random font: superfamily first, so that large families do not crowd out small ones.

        `easy` keeps to a few upright monospaced faces of training, where there are any.
        """
        groups = self._easy_superfamilies if easy and split == "train" else ()
        groups = groups or self.superfamilies(split)
        group = groups[int(rng.integers(len(groups)))]
        return group[int(rng.integers(len(group)))]

    def face(self, font: Font, size: int) -> Face:
        """The cached face of a font at `size` pixels."""
        key = (font.path, size)
        face = self._faces.get(key)
        if face is None:
            face = self._faces[key] = Face(self.root / font.path, size)
            if len(self._faces) > MAX_CACHED_FACES:
                self._faces.popitem(last=False)
        return face

    @cached_property
    def _words(self) -> dict[Split, tuple[str, ...]]:
        words = (self.root / "words.txt").read_text(encoding="utf-8").split()
        sides: dict[Split, list[str]] = {"train": [], "heldout": []}
        for word in words:
            sides[word_split(word)].append(word)
        return {side: tuple(group) for side, group in sides.items()}

    def words(self, split: Split) -> tuple[str, ...]:
        """Lower-case words of one side, most frequent first. Raises DataError when that side has none."""
        words = self._words[split]
        if not words:
            raise DataError(f"{self.root / 'words.txt'} has 0 words for split {split!r}; add words")
        return words

    @cached_property
    def pictures(self) -> tuple[Picture, ...]:
        """All renderings, in the order of `pictures.npy`."""
        return tuple(Picture(row=row, **record) for row, record in enumerate(self._read_json("pictures.json")))

    @cached_property
    def concepts(self) -> tuple[str, ...]:
        """The names of all concepts, sorted."""
        return tuple(sorted({picture.concept for picture in self.pictures}))

    @cached_property
    def _renderings(self) -> dict[Split, tuple[tuple[Picture, ...], ...]]:
        by_concept: dict[str, list[Picture]] = {}
        for picture in self.pictures:
            by_concept.setdefault(picture.concept, []).append(picture)
        sides: dict[Split, list[tuple[Picture, ...]]] = {"train": [], "heldout": []}
        for concept in sorted(by_concept):
            group = by_concept[concept]
            hidden = held_out_of("picture", (picture.name for picture in group), 1 if len(group) >= 3 else 0)
            sides["train"].append(tuple(picture for picture in group if picture.name not in hidden))
            if hidden:
                sides["heldout"].append(tuple(picture for picture in group if picture.name in hidden))
        return {side: tuple(groups) for side, groups in sides.items()}

    def renderings(self, split: Split) -> tuple[tuple[Picture, ...], ...]:
        """The renderings of one side, grouped by concept. Raises DataError when that side has none."""
        groups = self._renderings[split]
        if not groups:
            raise DataError(f"{self.root / 'pictures.json'} has 0 renderings for split {split!r}; add pictures")
        return groups

    @cached_property
    def _pixels(self) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = np.load(self.root / "pictures.npy", mmap_mode="r", allow_pickle=False)
        if len(pixels) != len(self.pictures):
            raise DataError(
                f"{self.root}: pictures.json lists {len(self.pictures)} pictures but pictures.npy holds {len(pixels)};"
                f" make the folder anew with: nvila data assets --dest {self.root}"
            )
        return pixels

    def pixels(self, picture: Picture) -> NDArray[np.uint8]:
        """The picture as (S, S, 4) uint8 RGBA, transparent around the drawing."""
        return self._pixels[picture.row]

    def _read_json(self, name: str) -> Any:
        return json.loads((self.root / name).read_text(encoding="utf-8"))
