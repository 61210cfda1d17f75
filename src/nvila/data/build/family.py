"""The contract between the builder and a family of samples (documents, charts, maps, ...).

A family names the packages it is made from, turns them once into material (a folder that opens fast), and makes one
sample from one unit of it. Units are what is split: a document, a table, a concept, an asset, a volume. No two splits
ever share a unit. Everything random comes from the generator that the builder hands in, so that a sample depends on
(family, split, seed, index) and the material alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from nvila.data.corpus.splits import Split, bucket
from nvila.types import Sample

HELD_OUT_ONE_IN = 10


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package that a family is made from. `version` is pinned where the origin keeps old versions."""

    name: str
    origin: Literal["debian", "npm", "pypi"]
    licence: str
    megabytes: float
    """Size of the download."""
    version: str | None = None


class Material(Protocol):
    """Prepared material, opened once a process: cheap to open, memory-mapped or lazy."""

    units: Sequence[str]
    """Names of all units, sorted, each stable under additions."""

    def make(self, rng: np.random.Generator, unit: str, same_side: Sequence[str]) -> Sample:
        """A sample about `unit`: one picture or clip and at least one question with its answer.

        `same_side`: the units of the same split, from which distractors and further objects may come.
        """
        ...


class Family(Protocol):
    """One kind of sample."""

    name: str
    packages: tuple[Package, ...]

    def prepare(self, fetched: Path, dest: Path) -> None:
        """Turns the unpacked packages, `fetched / package.name`, into material in the new, empty folder `dest`."""
        ...

    def open(self, material: Path) -> Material:
        """Opens what `prepare` made. Raises DataError naming the missing file and the command that makes it."""
        ...

    def side(self, unit: str) -> Split:
        """Which split a unit belongs to; most families say `one_in_ten(self.name, unit)`."""
        ...


def one_in_ten(family: str, unit: str) -> Split:
    """The usual split: a tenth of the units, by a hash of their names, is held out."""
    return "heldout" if bucket(f"build/{family}", unit, HELD_OUT_ONE_IN) == 0 else "train"
