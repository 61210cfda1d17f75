"""Slices of a made-up head of boxes: the places of its regions and tissues are formulas, which check the answers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nvila.data.build.slices import FAMILY, SliceMaterial
from nvila.data.build.slices.names import READABLE, parse_label_table
from nvila.data.build.slices.view import MARK_COLOURS
from nvila.data.build.slices.volumes import COLIN_FOLDER, MNI_FOLDER, MNI_NAME, load_volume
from nvila.data.corpus.canvas import NAMED_COLOURS
from nvila.data.corpus.preview import media_of
from nvila.errors import DataError
from nvila.types import Sample, TextPart

nibabel = pytest.importorskip("nibabel")

SHAPE, OFFSET = (112, 128, 112), (-56, -64, -56)
BRAIN = 50
"""The brain is a cube from -50 to 50 mm."""
WHITE_BELOW = 0
"""White matter where y is below this, grey matter from there on."""
REGIONS: dict[tuple[str, str], tuple[tuple[int, int], ...]] = {
    ("insula", "left"): ((-40, -10), (2, 30), (-40, -10)),
    ("insula", "right"): ((10, 40), (2, 30), (-40, -10)),
    ("cuneus", "left"): ((-45, -25), (2, 45), (15, 45)),
    ("cuneus", "right"): ((25, 45), (2, 45), (15, 45)),
    ("amygdala", "left"): ((-20, -8), (32, 46), (-5, 12)),
    ("amygdala", "right"): ((8, 20), (32, 46), (-5, 12)),
}
"""(name, side) -> for x, y and z the first and the last mm of a box."""
SHORT = {"insula": "Insula", "cuneus": "Cuneus", "amygdala": "Amygdala"}
AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}


def grids() -> list[NDArray[np.int64]]:
    return np.meshgrid(*(np.arange(size) + offset for size, offset in zip(SHAPE, OFFSET, strict=True)), indexing="ij")  # type: ignore[return-value]


def save(path: Path, array: NDArray[np.uint8], *, flipped: bool = False) -> None:
    """A NIfTI file at 1 mm; `flipped` stores x from right to left, as some packages do."""
    affine = np.eye(4)
    affine[:3, 3] = OFFSET
    if flipped:
        array, affine[0, 0], affine[0, 3] = array[::-1], -1.0, OFFSET[0] + SHAPE[0] - 1
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> SliceMaterial:
    fetched = tmp_path_factory.mktemp("fetched")
    colin, mni = fetched / COLIN_FOLDER, fetched / MNI_FOLDER
    colin.mkdir(parents=True)
    mni.mkdir(parents=True)
    x, y, z = grids()
    brain = (np.abs(x) <= BRAIN) & (np.abs(y) <= BRAIN) & (np.abs(z) <= BRAIN)
    t1 = np.where(brain, np.where(y < WHITE_BELOW, 115, 80), 20).astype(np.uint8)
    atlas = np.zeros(SHAPE, dtype=np.uint8)
    lines = []
    for label, ((name, side), spans) in enumerate(REGIONS.items(), start=1):
        inside = np.logical_and.reduce(
            [(g >= low) & (g <= high) for g, (low, high) in zip((x, y, z), spans, strict=True)]
        )
        atlas[inside] = label
        lines.append(f"{label} {SHORT[name]}_{side[0].upper()} {2000 + label}")
    save(colin / "ch2.nii.gz", t1)
    save(colin / "ch2bet.nii.gz", (t1 * brain).astype(np.uint8))
    save(colin / "aal.nii.gz", atlas, flipped=True)
    (colin / "aal.nii.txt").write_text("\n".join(lines))
    save(mni / MNI_NAME.format("t1"), t1)
    save(mni / MNI_NAME.format("gm"), (255 * (brain & (y >= WHITE_BELOW))).astype(np.uint8))
    save(mni / MNI_NAME.format("wm"), (255 * (brain & (y < WHITE_BELOW))).astype(np.uint8))
    made = tmp_path_factory.mktemp("made")
    FAMILY.prepare(fetched, made)
    opened = FAMILY.open(made)
    assert isinstance(opened, SliceMaterial)
    return opened


def make(material: SliceMaterial, seed: int, name: str = "colin27") -> Sample:
    rng = np.random.default_rng(seed)
    units = [unit for unit in material.units if unit.startswith(name)]
    return material.make(rng, units[int(rng.integers(len(units)))], units)


def turns(sample: Sample) -> list[tuple[str, str, str]]:
    texts = [message.content[-1] for message in sample.messages]
    words = [part.text for part in texts if isinstance(part, TextPart)]
    return list(zip(sample.meta["kinds"], words[::2], words[1::2], strict=True))


def place(sample: Sample, u: float, v: float) -> list[float]:
    """Millimetres of a point (u, v) of the picture (corner of pixel 0 is 0), by hand from the matrix in `meta`."""
    a, b, c, d, e, f = sample.meta["matrix"]
    axes = [axis for axis in range(3) if axis != AXIS[sample.meta["plane"]]]
    found = [0.0, 0.0, 0.0]
    found[axes[0]] = a * u + b * v + c - 0.5 + OFFSET[axes[0]]
    found[axes[1]] = d * u + e * v + f - 0.5 + OFFSET[axes[1]]
    found[AXIS[sample.meta["plane"]]] = sample.meta["mm"]
    return found


def regions_at(mm: list[float]) -> list[tuple[str, str]]:
    return [
        key
        for key, spans in REGIONS.items()
        if all(low - 0.6 <= value <= high + 0.6 for value, (low, high) in zip(mm, spans, strict=True))
    ]


def section(sample: Sample, key: tuple[str, str]) -> float:
    """The area in mm2 that a region has in the slice, wholly inside the picture or not."""
    axis = AXIS[sample.meta["plane"]]
    spans = REGIONS[key]
    if not spans[axis][0] <= sample.meta["mm"] <= spans[axis][1]:
        return 0.0
    return float(np.prod([high - low + 1 for other, (low, high) in enumerate(spans) if other != axis]))


def pointed_at(sample: Sample, question: str) -> list[float]:
    """The place in mm that a question's mark or outline means; an outline's is the middle of its coloured pixels."""
    outlined = re.search(r"outlined in (\w+)", question)
    if not outlined:
        return place(sample, sample.meta["marked"][0] + 0.5, sample.meta["marked"][1] + 0.5)
    pixels = np.asarray(media_of(sample)[0]).astype(int)
    ys, xs = np.nonzero((pixels == NAMED_COLOURS[outlined[1]]).all(axis=-1))
    return place(sample, (xs.min() + xs.max() + 1) / 2, (ys.min() + ys.max() + 1) / 2)


def check_view(sample: Sample, question: str) -> None:
    """What a question says of left and right against how x runs in the picture."""
    said = re.search(r"patient's (left|right) is on the (?:picture's )?left", question)
    if said:
        assert (said[1] == "left") == (sample.meta["matrix"][0] > 0)
    if "radiological" in question or "neurological" in question:
        assert ("radiological" in question) == (sample.meta["matrix"][0] < 0)
    said = re.search(r"(\d+) mm to the (left|right) of the midline", question)
    if said:
        assert sample.meta["mm"] == (1 if said[2] == "right" else -1) * int(said[1])


def check_box(sample: Sample, question: str, answer: str) -> None:
    """The answer against the region's corners taken through the inverse of the view."""
    name, side = next(key for key in REGIONS if f"{key[1]} {key[0]}" in question)
    axes = [axis for axis in range(3) if axis != AXIS[sample.meta["plane"]]]
    spans = [REGIONS[name, side][axis] for axis in axes]
    a, b, c, d, e, f = sample.meta["matrix"]
    corners = [
        np.linalg.solve([[a, b], [d, e]], [first - OFFSET[axes[0]] + 0.5 - c, second - OFFSET[axes[1]] + 0.5 - f])
        for first in (spans[0][0] - 0.5, spans[0][1] + 0.5)
        for second in (spans[1][0] - 0.5, spans[1][1] + 0.5)
    ]
    width, height = media_of(sample)[0].size
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    truth = [1000 * low[0] / width, 1000 * low[1] / height, 1000 * high[0] / width, 1000 * high[1] / height]
    found = [int(value) for value in re.findall(r"\d+", answer)]
    assert np.abs(np.asarray(found) - truth).max() <= 12, (question, answer, truth)


def check(sample: Sample) -> None:
    plane, mm = sample.meta["plane"], sample.meta["mm"]
    for kind, question, answer in turns(sample):
        check_view(sample, question)
        if kind == "plane":
            assert answer == plane
        elif kind in ("region", "region_side"):
            found = regions_at(pointed_at(sample, question))
            assert answer in [name if kind == "region" else f"{side} {name}" for name, side in found], question
        elif kind == "hemisphere":
            assert answer == ("right" if pointed_at(sample, question)[0] > 0 else "left")
        elif kind == "tissue":
            assert answer == ("grey matter" if pointed_at(sample, question)[1] >= WHITE_BELOW else "white matter")
        elif kind == "visible":
            name = next(name for name in SHORT if name in question)
            assert (answer == "Yes") == any(section(sample, (name, side)) > 0 for side in ("left", "right"))
        elif kind == "larger":
            named = re.findall("|".join(SHORT), question)
            assert answer == max(
                named, key=lambda name: section(sample, (name, "left")) + section(sample, (name, "right"))
            )
        elif kind == "box":
            check_box(sample, question, answer)
        elif kind == "sagittal_level":
            assert answer == ("near the midline" if abs(mm) < 18 else "far out to the side")
        elif kind in ("axial_level", "coronal_level"):
            words = {"axial_level": ("lower", "middle", "upper"), "coronal_level": ("back", "middle", "front")}
            assert answer == words[kind][min(2, (mm + BRAIN) * 3 // (2 * BRAIN))]
        else:
            assert kind == "facing"
            assert plane == "sagittal"
            assert (answer == "right") == (place(sample, 200, 100)[1] > place(sample, 20, 100)[1])


def test_answers_follow_from_the_formulas(material: SliceMaterial) -> None:
    seen = set()
    for seed in range(90):
        sample = make(material, seed, ("colin27", "colin27", "mni152")[seed % 3])
        assert 2 <= len(sample.meta["kinds"]) <= 5
        assert min(media_of(sample)[0].size) >= 224
        check(sample)
        seen |= set(sample.meta["kinds"])
    assert len(seen) >= 11, sorted(seen)


def test_boxes_of_regions_lie_where_the_regions_are(material: SliceMaterial) -> None:
    for seed in range(20):
        sample = make(material, seed)
        for item in sample.objects:
            middle = place(sample, (item.box[0] + item.box[2]) / 2, (item.box[1] + item.box[3]) / 2)
            cut = item.box[0] <= 0 or item.box[1] <= 0
            assert cut or item.label in [f"{side} {name}" for name, side in regions_at(middle)]


def test_one_seed_makes_one_sample(material: SliceMaterial) -> None:
    for seed in range(6):
        first, second = make(material, seed), make(material, seed)
        assert turns(first) == turns(second)
        assert media_of(first)[0].tobytes() == media_of(second)[0].tobytes()


def test_training_slices_keep_away_from_held_out_slabs(material: SliceMaterial) -> None:
    by_side: dict[str, dict[str, set[int]]] = {"train": {}, "heldout": {}}
    for unit, indices in material.slices.items():
        name, plane, _ = unit.split("/")
        if name == "mni152":
            assert FAMILY.side(unit) == "heldout"
            continue
        by_side[FAMILY.side(unit)].setdefault(plane, set()).update(indices)
    for plane in AXIS:
        gaps = [abs(a - b) for a in by_side["train"][plane] for b in by_side["heldout"][plane]]
        assert min(gaps) >= 5
        assert by_side["train"][plane]


def test_every_slice_is_of_its_slab(material: SliceMaterial) -> None:
    for seed in range(10):
        sample = make(material, seed)
        start = int(sample.meta["unit"].split("/")[2])
        assert start <= sample.meta["mm"] < start + 10


def test_marks_have_different_colours() -> None:
    assert len({NAMED_COLOURS[name] for name in MARK_COLOURS}) == len(MARK_COLOURS)


def test_label_table_is_read_with_its_sides() -> None:
    table = parse_label_table(
        "1 Precentral_L 2001\n2 Precentral_R 2002\n\nVermis\n109 Vermis_1_2 9100\n7 Odd_Name_L 3\n"
    )
    assert table[1] == ("precentral gyrus", "left")
    assert table[2] == ("precentral gyrus", "right")
    assert table[109] == ("vermis lobules I and II", "")
    assert table[7] == ("Odd Name", "left")
    assert len(set(READABLE.values())) == len(READABLE)


def test_other_voxel_sizes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "coarse.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), dtype=np.uint8), np.diag([2.0, 2.0, 2.0, 1.0])), path)
    with pytest.raises(DataError, match=r"coarse.nii.gz.*2\.0.*not of 1 mm"):
        load_volume(path)


def test_missing_material_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"heads\.json"):
        FAMILY.open(tmp_path)
    with pytest.raises(DataError, match=r"ch2\.nii\.gz is missing"):
        FAMILY.prepare(tmp_path, tmp_path)
