"""Questions about a slice, each answered from voxels, or none where the answer would not be certain.

Margins: a region counts as visible from 60 mm2 on and as absent when its nearest slice is 8 mm away; of two areas one
is at least 1.6 times the other; levels stay 5 mm away from the borders between thirds, hemispheres 8 mm from the
midline. A box is `[left, top, right, bottom]` in thousandths of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nvila.data.build.slices.view import PLANES, View
from nvila.data.build.slices.volumes import GREY, WHITE, Head
from nvila.data.build.slices.wordings import WORDINGS
from nvila.data.corpus.canvas import Turn, chance, pick

LEAST_AREA_MM2 = 60.0
LEAST_RATIO = 1.6
ABSENT_MM = 8
MIDLINE_MM, LATERAL_MM = 8, 28
HEMISPHERE_MM = 8
THIRD_MARGIN_MM = 5
EDGE = 6
"""Pixels at the edge of the picture that carry no mark."""
LEVELS = {"axial": ("lower", "middle", "upper"), "coronal": ("back", "middle", "front")}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A turn and which kind of question it is."""

    kind: str
    turn: Turn


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A slice as it is shown: the labels seen through its window, and area and box of each in pixels."""

    view: View
    atlas_HW: NDArray[np.uint8]
    tissue_HW: NDArray[np.uint8]
    areas: NDArray[np.int64] = field(repr=False)
    boxes: NDArray[np.int64] = field(repr=False)

    @property
    def head(self) -> Head:
        """The volume that is shown."""
        return self.view.head

    def square_mm(self, label: int) -> float:
        """The visible area of a region in mm2."""
        return float(self.areas[label]) / self.view.millimetre**2

    def visible(self, least: float = LEAST_AREA_MM2) -> list[int]:
        """The regions that show at least an area, in mm2."""
        return [label for label in self.head.regions if self.square_mm(label) >= least]


def ask(rng: np.random.Generator, wording: str, answers: Sequence[str], **slots: str) -> Asked:
    """A question of the kind `wording` with its answers."""
    text = pick(rng, WORDINGS[wording]).format(**slots)
    return Asked(kind=wording, turn=Turn(question=text[0].upper() + text[1:], answers=tuple(answers)))


def say_view(rng: np.random.Generator, view: View) -> str:
    """The plane and how left and right lie, as a sentence before a question; sagittal slices name their hemisphere."""
    if view.plane == "sagittal":
        return f"This sagittal slice is {abs(view.mm)} mm to the {side_of(view.mm)} of the midline. "
    name, side = ("radiological", "right") if view.is_mirrored else ("neurological", "left")
    if chance(rng, 0.5):
        return f"This {view.plane} slice is in {name} convention (the patient's {side} is on the picture's left). "
    return f"The patient's {side} is on the left of this {view.plane} slice. "


def side_of(x_mm: float) -> str:
    """The patient's side of a place; x grows to the right."""
    return "right" if x_mm > 0 else "left"


def deep_point(rng: np.random.Generator, mask_HW: NDArray[np.bool_]) -> tuple[int, int] | None:
    """A random pixel whose surroundings of 7 x 7 pixels all belong to the mask."""
    rows = np.logical_and.reduce([mask_HW[at : len(mask_HW) - 6 + at] for at in range(7)])
    inner = np.logical_and.reduce([rows[:, at : rows.shape[1] - 6 + at] for at in range(7)])
    places = np.flatnonzero(inner[EDGE:-EDGE, EDGE:-EDGE])
    if not len(places):
        return None
    y, x = divmod(int(places[int(rng.integers(len(places)))]), inner.shape[1] - 2 * EDGE)
    return x + EDGE + 3, y + EDGE + 3


def ask_plane(rng: np.random.Generator, view: View) -> Asked:
    """Which plane it is."""
    others = {"axial": ("axial", "transverse", "horizontal"), "coronal": ("coronal", "frontal")}
    return ask(rng, "plane", others.get(view.plane, (view.plane,)))


def ask_region(rng: np.random.Generator, shown: Shown, label: int, mark: str) -> Asked:
    """Which region a mark or an outline points out, with its side or without."""
    name, side = shown.head.regions[label]
    view = say_view(rng, shown.view)
    if side and shown.view.plane != "sagittal" and chance(rng, 0.5):
        return ask(rng, "region_side", [f"{side} {name}"], view=view, mark=mark)
    return ask(rng, "region", [name, f"{side} {name}".strip()], view=view, mark=mark)


def ask_visible(rng: np.random.Generator, shown: Shown) -> Asked | None:
    """Whether some region is in the slice: clearly there, or clearly elsewhere; both equally often."""
    names: dict[str, list[int]] = {}
    for label, (name, _) in shown.head.regions.items():
        names.setdefault(name, []).append(label)
    there = [shown.head.regions[label][0] for label in shown.visible()]
    axis, index = PLANES[shown.view.plane], shown.view.index
    absent = [
        name
        for name, labels in names.items()
        if all(_distance(shown.head.spans[label][axis], index) >= ABSENT_MM for label in labels)
    ]
    wanted = there if chance(rng, 0.5) else absent
    if not wanted:
        return None
    name = pick(rng, wanted)
    return ask(rng, "visible", ["Yes" if name in there else "No"], region=name)


def _distance(span: tuple[int, int], index: int) -> int:
    return max(span[0] - index, index - span[1], 0)


def ask_larger(rng: np.random.Generator, shown: Shown) -> Asked | None:
    """Which of two regions, both hemispheres taken together, has the larger area."""
    areas: dict[str, float] = {}
    for label in shown.head.regions:
        name = shown.head.regions[label][0]
        areas[name] = areas.get(name, 0.0) + shown.square_mm(label)
    names = [name for name, area in areas.items() if area >= LEAST_AREA_MM2]
    if len(names) < 2:
        return None
    first, second = (names[int(index)] for index in rng.permutation(len(names))[:2])
    if max(areas[first], areas[second]) < LEAST_RATIO * min(areas[first], areas[second]):
        return None
    return ask(rng, "larger", [max((first, second), key=areas.__getitem__)], a=first, b=second)


def ask_box(rng: np.random.Generator, shown: Shown) -> Asked | None:
    """The box of one region of one hemisphere that lies inside the picture and is compact."""
    label = pick(rng, shown.visible(2 * LEAST_AREA_MM2) or [0])
    if not label:
        return None
    left, top, right, bottom = shown.boxes[label].tolist()
    width, height = shown.view.size
    is_cut = left == 0 or top == 0 or right == width or bottom == height
    if is_cut or int(shown.areas[label]) < 0.35 * (right - left) * (bottom - top):
        return None
    shares = (left / width, top / height, right / width, bottom / height)
    answer = "[" + ", ".join(str(round(1000 * share)) for share in shares) + "]"
    name, side = shown.head.regions[label]
    return ask(rng, "box", [answer], view=say_view(rng, shown.view), region=f"{side} {name}".strip())


def ask_tissue(rng: np.random.Generator, tissue: int, mark: str) -> Asked:
    """Grey or white matter."""
    assert tissue in (GREY, WHITE), tissue
    answers = ("grey matter", "gray matter", "grey") if tissue == GREY else ("white matter", "white")
    return ask(rng, "tissue", answers, mark=mark)


def ask_level(rng: np.random.Generator, view: View) -> Asked | None:
    """Where along its axis the slice lies: in thirds of the brain, or near the midline or far from it."""
    low, high = view.head.brain[PLANES[view.plane]]
    if view.plane == "sagittal":
        distance = abs(view.mm)
        if MIDLINE_MM < distance < LATERAL_MM:
            return None
        return ask(rng, "sagittal_level", ["near the midline" if distance <= MIDLINE_MM else "far out to the side"])
    share = 3 * (view.index - low) / (high - low)
    margin = 3 * THIRD_MARGIN_MM / (high - low)
    if min(abs(share - 1), abs(share - 2)) < margin:
        return None
    level = LEVELS[view.plane][min(2, max(0, int(share)))]
    return ask(rng, f"{view.plane}_level", [level, f"{level} third"])


def ask_hemisphere(rng: np.random.Generator, view: View, at: tuple[int, int], mark: str) -> Asked | None:
    """On which side of the patient a place of an axial or coronal slice lies."""
    x = view.world(at)[0]
    if view.plane == "sagittal" or abs(x) < HEMISPHERE_MM:
        return None
    return ask(rng, "hemisphere", [side_of(x)], view=say_view(rng, view), mark=mark)


def ask_facing(rng: np.random.Generator, view: View) -> Asked | None:
    """To which side a sagittal slice faces."""
    return ask(rng, "facing", ["left" if view.is_mirrored else "right"]) if view.plane == "sagittal" else None
