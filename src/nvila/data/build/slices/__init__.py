"""The family `slices`: slices of two brain volumes (MRI, T1) with questions. Not for clinical use.

Colin27 is one person's brain, MNI152 an average of many; AAL's regions are those of an atlas, and grey and white matter
of Colin27 is read off its brightness. A unit is a slab of a plane, 10 mm thick, such as `colin27/axial/+020` for 20 to
29 mm. The volume MNI152 is held out wholly, and of Colin27 every fifth slab of each plane; training slices keep 5 mm
from a held-out slab of their plane. What stays: slices of different planes cross, and left and right halves are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nvila.data.build.family import Family, Package
from nvila.data.build.slices.pictures import make_slice_sample
from nvila.data.build.slices.view import PLANES
from nvila.data.build.slices.volumes import Head, read_heads, write_volumes
from nvila.data.corpus.canvas import pick
from nvila.data.corpus.splits import Split
from nvila.errors import DataError
from nvila.types import Sample

SLAB_MM = 10
HELD_OUT_SLAB_OF_FIVE = 2
GAP_MM = 5
LEAST_BRAIN_MM2 = 3000

Arrays = dict[str, NDArray[np.uint8]]


class SliceMaterial:
    """The two volumes, memory-mapped, and the usable slices of each slab."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.heads = read_heads(root)
        self.arrays: dict[str, Arrays] = {name: _open_arrays(root, name) for name in self.heads}
        self.slices: dict[str, list[int]] = {}
        for name, head in self.heads.items():
            for plane in PLANES:
                self._add_slabs(head, plane, self.arrays[name]["brain"])
        self.units: Sequence[str] = tuple(sorted(self.slices))

    def _add_slabs(self, head: Head, plane: str, brain: NDArray[np.uint8]) -> None:
        axis = PLANES[plane]
        areas = brain.sum(axis=tuple(other for other in range(3) if other != axis), dtype=np.int64)
        for index in np.nonzero(areas >= LEAST_BRAIN_MM2)[0].tolist():
            mm = index + head.offset[axis]
            unit = f"{head.name}/{plane}/{SLAB_MM * (mm // SLAB_MM):+04d}"
            if _side(unit) == "heldout" or not _is_near_held_out(head.name, plane, mm):
                self.slices.setdefault(unit, []).append(index)

    def make(self, rng: np.random.Generator, unit: str, same_side: Sequence[str]) -> Sample:
        """A slice of the slab `unit` with two to five questions. Nothing of other slabs is used."""
        name, plane, _ = unit.split("/")
        index = pick(rng, self.slices[unit])
        return make_slice_sample(rng, self.heads[name], self.arrays[name], plane, index, unit)


def _open_arrays(root: Path, name: str) -> Arrays:
    return {
        kind: np.load(root / f"{name}_{kind}.npy", mmap_mode="r", allow_pickle=False)
        for kind in ("t1", "brain", "tissue", "atlas")
    }


@cache
def _side(unit: str) -> Split:
    name, _, start = unit.split("/")
    is_held_out = int(start) // SLAB_MM % 5 == HELD_OUT_SLAB_OF_FIVE
    return "heldout" if name == "mni152" or is_held_out else "train"


def _is_near_held_out(name: str, plane: str, mm: int) -> bool:
    near = (mm - GAP_MM + 1, mm + GAP_MM - 1)
    return any(_side(f"{name}/{plane}/{SLAB_MM * (other // SLAB_MM):+04d}") == "heldout" for other in near)


class SliceFamily:
    """The builder's entry to the brain slices."""

    name: str = "slices"
    packages: tuple[Package, ...] = (
        Package(name="mricron-data", origin="debian", licence="BSD-3-Clause", megabytes=16.1),
        Package(name="nilearn", origin="pypi", licence="BSD-3-Clause", megabytes=11.5, version="0.14.1"),
    )

    def prepare(self, fetched: Path, dest: Path) -> None:
        """The volumes as arrays. Raises DataError for files that are missing or unlike; needs nibabel."""
        write_volumes(fetched, dest)

    def open(self, material: Path) -> SliceMaterial:
        """The material. Raises DataError naming the missing file."""
        if not (material / "heads.json").is_file():
            raise DataError(f"{material / 'heads.json'} is missing; make it with: nvila data fetch --families slices")
        return SliceMaterial(material)

    def side(self, unit: str) -> Split:
        """MNI152 and every fifth slab of Colin27 are held out."""
        return _side(unit)


FAMILY: Family = SliceFamily()
