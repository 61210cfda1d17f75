"""The two brain volumes as plain arrays: T1 pictures with region labels (Colin27) or tissue (both).

Arrays are (X, Y, Z) uint8 at 1 mm, x to the patient's right, y to the front, z upwards; `offset` is the position in mm
of voxel (0, 0, 0) in MNI space. Tissue of MNI152 comes from its probability maps (at least 0.9). Colin27 has none, so
there it is read off the brightness, and only where all 27 voxels around agree; grey matter has to lie in a region of
the atlas besides. Everything else is 0, "not sure".
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvila.data.build.slices.names import parse_label_table
from nvila.errors import DataError

COLIN_FOLDER = "mricron-data/usr/share/mricron/templates"
MNI_FOLDER = "nilearn/nilearn/datasets/data"
MNI_NAME = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
GREY, WHITE = 1, 2
GREY_BAND, WHITE_BAND = (66, 94), (105, 135)
"""Brightness of Colin27's grey and white matter, 0..255: around the two peaks of its histogram inside the brain."""
SURE = 230
"""Probability 0.9 of 255."""
DEEP_NUCLEI = ("thalamus", "pallidum", "putamen", "caudate nucleus")

Volume = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Head:
    """What is known of a volume besides its arrays. `brain`: per axis the first and last index that holds brain.

    `regions`: label -> (readable name, side); empty where there is no atlas. `spans`: label -> per axis the first and
    last index that holds the region.
    """

    name: str
    offset: tuple[int, int, int]
    brain: tuple[tuple[int, int], ...]
    regions: dict[int, tuple[str, str]]
    spans: dict[int, tuple[tuple[int, int], ...]]


def write_volumes(fetched: Path, dest: Path) -> None:
    """Write the arrays and `heads.json` of both volumes. Raises DataError naming a file that is missing or unlike."""
    heads = [_write_colin(fetched / COLIN_FOLDER, dest), _write_mni(fetched / MNI_FOLDER, dest)]
    (dest / "heads.json").write_text(json.dumps([asdict(head) for head in heads]), encoding="utf-8")


def read_heads(folder: Path) -> dict[str, Head]:
    """The heads of a material folder by name."""
    heads = {}
    for record in json.loads((folder / "heads.json").read_text(encoding="utf-8")):
        heads[record["name"]] = Head(
            name=record["name"],
            offset=(record["offset"][0], record["offset"][1], record["offset"][2]),
            brain=_spans(record["brain"]),
            regions={int(label): (name, side) for label, (name, side) in record["regions"].items()},
            spans={int(label): _spans(spans) for label, spans in record["spans"].items()},
        )
    return heads


def _spans(value: list[list[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((low, high) for low, high in value)


def load_volume(path: Path) -> tuple[Volume, tuple[int, int, int]]:
    """A NIfTI file as uint8 with axes right, front, up, and its offset in mm. Raises DataError unless it is at 1 mm."""
    import nibabel

    if not path.is_file():
        raise DataError(f"{path} is missing; fetch it with: nvila data fetch --families slices")
    image: Any = nibabel.as_closest_canonical(nibabel.load(path))
    affine = np.asarray(image.affine)
    if not np.allclose(affine[:3, :3], np.eye(3), atol=1e-3):
        raise DataError(f"{path} has voxels of {np.diag(affine)[:3].tolist()} mm, not of 1 mm; fetch the package anew")
    volume = np.asarray(image.dataobj)
    volume = volume.reshape(volume.shape[:3])
    x, y, z = (round(float(value)) for value in affine[:3, 3])
    return np.ascontiguousarray(np.clip(volume, 0, 255).astype(np.uint8)), (x, y, z)


def _write_colin(folder: Path, dest: Path) -> Head:
    t1, offset = load_volume(folder / "ch2.nii.gz")
    brain, _ = load_volume(folder / "ch2bet.nii.gz")
    atlas, _ = load_volume(folder / "aal.nii.gz")
    if not t1.shape == brain.shape == atlas.shape:
        raise DataError(f"{folder}: ch2, ch2bet and aal are {t1.shape}, {brain.shape} and {atlas.shape}; fetch anew")
    table = parse_label_table((folder / "aal.nii.txt").read_text(encoding="utf-8", errors="replace"))
    mask = (brain > 0).astype(np.uint8)
    _save(dest, "colin27", t1=t1, brain=mask, tissue=_tissue_by_brightness(t1, mask, atlas, table), atlas=atlas)
    present = {label: table[label] for label in sorted(table) if (atlas == label).any()}
    spans = {label: extent(atlas == label) for label in present}
    return Head(name="colin27", offset=offset, brain=extent(mask > 0), regions=present, spans=spans)


def _write_mni(folder: Path, dest: Path) -> Head:
    t1, offset = load_volume(folder / MNI_NAME.format("t1"))
    grey, _ = load_volume(folder / MNI_NAME.format("gm"))
    white, _ = load_volume(folder / MNI_NAME.format("wm"))
    tissue = np.where(grey >= SURE, GREY, np.where(white >= SURE, WHITE, 0)).astype(np.uint8)
    mask = (grey.astype(np.int16) + white > 127).astype(np.uint8)
    _save(dest, "mni152", t1=t1, brain=mask, tissue=tissue, atlas=np.zeros((1, 1, 1), dtype=np.uint8))
    return Head(name="mni152", offset=offset, brain=extent(mask > 0), regions={}, spans={})


def _save(dest: Path, name: str, **arrays: Volume) -> None:
    for kind, array in arrays.items():
        np.save(dest / f"{name}_{kind}.npy", array, allow_pickle=False)


def extent(mask: NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    """Per axis the first and the last index at which a mask that is not empty holds anything."""
    found = []
    for axis in range(3):
        where = np.nonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))[0]
        found.append((int(where[0]), int(where[-1])))
    return tuple(found)


def _tissue_by_brightness(t1: Volume, brain: Volume, atlas: Volume, table: dict[int, tuple[str, str]]) -> Volume:
    """Grey and white matter where the 27 voxels around lie in one band; deep nuclei are left out, being in between."""
    deep = [label for label, (name, _) in table.items() if name in DEEP_NUCLEI]
    inside = brain > 0
    is_grey = (t1 >= GREY_BAND[0]) & (t1 <= GREY_BAND[1]) & inside & (atlas > 0) & ~np.isin(atlas, deep)
    is_white = (t1 >= WHITE_BAND[0]) & (t1 <= WHITE_BAND[1]) & inside & ~np.isin(atlas, deep)
    return np.where(_all_around(is_grey), GREY, np.where(_all_around(is_white), WHITE, 0)).astype(np.uint8)


def _all_around(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where a mask holds in all 27 voxels around; false at the edge."""
    inner = np.zeros_like(mask)
    size = mask.shape
    core = np.ones((size[0] - 2, size[1] - 2, size[2] - 2), dtype=bool)
    for dx, dy, dz in product(range(3), repeat=3):
        core &= mask[dx : size[0] - 2 + dx, dy : size[1] - 2 + dy, dz : size[2] - 2 + dz]
    inner[1:-1, 1:-1, 1:-1] = core
    return inner
