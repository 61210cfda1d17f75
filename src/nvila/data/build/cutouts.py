"""Family `cutouts`: scenes of cut-out pictures on a ground; counting, place, order, size and box questions.

A scene is laid out so that every question asked of it has one answer: relations are only asked where the boxes are
clear of each other, "biggest" only where the biggest is half again as big as the next, and at most a quarter of a
thing is covered. Things of one scene are apart in name and kind. A unit is a concept of the stamps; all other things
come from the same split. Boxes are (left, top, right, bottom) in pixels and count covered parts too; in questions
and answers they are whole numbers from 0 to 1000, of the picture's width and height.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nvila.data.build.cutouts_questions import Placed, questions
from nvila.data.build.stamps_bank import (
    Bank,
    BankFamily,
    Stamp,
    apart,
    countable,
    grounded,
    plural_of,
    varied,
)
from nvila.data.corpus.canvas import Size, chance, damage, make_sample, number, pick
from nvila.types import LabelledBox, Sample

MOST_COVERED = 0.25
NUM_TRIES = 40
UNCLEAR = frozenset({"explosion", "docks", "graveyard", "cave", "farm", "circle"})
"""Pictures of more than one thing, of which it would be unclear how many there are."""
LAYOUTS = ("mixed", "mixed", "singles", "singles", "row", "odd", "one kind")


def usable(stamp: Stamp) -> bool:
    """Whether there can be three of them: a cut-out with a short, countable name."""
    return stamp.cut_out and countable(stamp.name) and len(stamp.name.split()) <= 2 and stamp.concept not in UNCLEAR


@dataclass
class Cutouts:
    """Opened material of the family."""

    bank: Bank
    units: Sequence[str] = field(init=False)
    by_unit: dict[str, list[Stamp]] = field(init=False)

    def __post_init__(self) -> None:
        kept = {concept: list(filter(usable, stamps)) for concept, stamps in self.bank.by_concept.items()}
        self.by_unit = {concept: stamps for concept, stamps in kept.items() if stamps}
        self.units = sorted(self.by_unit)

    def make(self, rng: np.random.Generator, unit: str, same_side: Sequence[str]) -> Sample:
        """A scene in which `unit` occurs, and three to five questions about it."""
        while True:
            layout = pick(rng, LAYOUTS)
            names = self._cast(rng, unit, same_side, layout)
            size = (number(rng, 16, 42) * 16, number(rng, 14, 36) * 16)
            drawn = self._draw(rng, names, size, layout)
            if drawn is None:
                continue
            image, placed, ground = drawn
            absent = self._absent(rng, names, same_side)
            turns = questions(rng, placed, size, ground=ground, absent=absent, odd=layout == "odd")
            if len(turns) >= 2:
                break
        objects = [LabelledBox(label=item.name, box=item.box) for item in placed]
        return make_sample(
            damage(rng, image), *turns, task="cutouts", objects=objects, unit=unit, layout=layout, ground=ground
        )

    def _cast(self, rng: np.random.Generator, unit: str, same_side: Sequence[str], layout: str) -> list[Stamp]:
        """The stamps to place, one entry a thing, in random order; `unit` is among them."""
        cast = self._ordered_cast(rng, unit, same_side, layout)
        return [cast[int(index)] for index in rng.permutation(len(cast))]

    def _ordered_cast(self, rng: np.random.Generator, unit: str, same_side: Sequence[str], layout: str) -> list[Stamp]:
        first = pick(rng, self.by_unit[unit])
        most = {"mixed": 4, "singles": 6, "row": 5, "odd": 2, "one kind": 1}[layout]
        least = {"mixed": 2, "singles": 3, "row": 3, "odd": 2, "one kind": 1}[layout]
        kinds = [first]
        wanted = number(rng, least, most)
        for _ in range(60):
            if len(kinds) == wanted:
                break
            other = pick(rng, self.by_unit[pick(rng, same_side)])
            if all(apart(other, one) for one in kinds):
                kinds.append(other)
        if layout in ("singles", "row"):
            return kinds
        if layout == "odd" and len(kinds) == 2:
            common, odd = kinds if chance(rng, 0.5) else kinds[::-1]
            return [common] * number(rng, 3, 8) + [odd]
        limit = 10 if len(kinds) == 1 else 5
        return [one for one in kinds for _ in range(number(rng, 1, limit))][:14]

    def _absent(self, rng: np.random.Generator, cast: list[Stamp], same_side: Sequence[str]) -> str | None:
        """The name of a stamp that is not in the scene and could not be taken for anything in it."""
        for _ in range(20):
            other = pick(rng, self.by_unit[pick(rng, same_side)])
            if other.kind is not None and all(apart(other, one) and one.kind is not None for one in cast):
                return other.name
        return None

    def _draw(
        self, rng: np.random.Generator, cast: list[Stamp], size: Size, layout: str
    ) -> tuple[Image.Image, list[Placed], str | None] | None:
        """The picture and what is where; None when the things do not fit without covering each other too much."""
        span = min(size)
        crowd = max(0.14, 0.8 / len(cast) ** 0.5)
        drawings = []
        for stamp in cast:
            side = span * crowd * float(rng.uniform(0.6, 1.15)) if layout != "row" else size[0] / (len(cast) + 1) * 0.9
            one = self._variant(rng, stamp)
            drawings.append(varied(rng, self.bank.picture(one), one, max(24, round(side)), tilt=15))
        spots = _row(rng, drawings, size) if layout == "row" else _scatter(rng, drawings, size)
        if spots is None:
            return None
        image, ground = grounded(rng, size, [stamp.mean for stamp in cast])
        owner_HW = np.full((size[1], size[0]), -1, np.int16)
        areas = []
        for index, (drawing, (left, top)) in enumerate(zip(drawings, spots, strict=True)):
            image.paste(drawing, (left, top), drawing)
            mask_HW = np.asarray(drawing.getchannel("A")) > 128
            owner_HW[top : top + drawing.height, left : left + drawing.width][mask_HW] = index
            areas.append(int(mask_HW.sum()))
        if _most_covered(owner_HW, areas) > MOST_COVERED:
            return None
        placed = [
            Placed(
                name=stamp.name,
                plural=plural_of(stamp.name),
                box=(left, top, left + drawing.width, top + drawing.height),
                area=area,
            )
            for stamp, drawing, (left, top), area in zip(cast, drawings, spots, areas, strict=True)
        ]
        return image, placed, ground

    def _variant(self, rng: np.random.Generator, stamp: Stamp) -> Stamp:
        """Another picture of the same name, now and then."""
        same = [one for one in self.by_unit[stamp.concept] if one.name == stamp.name]
        return pick(rng, same) if chance(rng, 0.3) else stamp


def _most_covered(owner_HW: NDArray[np.int16], areas: list[int]) -> float:
    seen = np.bincount(owner_HW[owner_HW >= 0], minlength=len(areas))
    return max(1 - int(count) / max(1, area) for count, area in zip(seen, areas, strict=True))


def _scatter(rng: np.random.Generator, drawings: list[Image.Image], size: Size) -> list[tuple[int, int]] | None:
    """A place for each such that boxes share at most a tenth of the smaller; None when there is no room."""
    spots: list[tuple[int, int]] = []
    for index, drawing in enumerate(drawings):
        if drawing.width >= size[0] or drawing.height >= size[1]:
            return None
        for _ in range(NUM_TRIES):
            left, top = number(rng, 0, size[0] - drawing.width), number(rng, 0, size[1] - drawing.height)
            if all(
                _shared(left, top, drawing, *spot, other) <= 0.1
                for spot, other in zip(spots, drawings[:index], strict=True)
            ):
                spots.append((left, top))
                break
        else:
            return None
    return spots


def _shared(left: int, top: int, drawing: Image.Image, x: int, y: int, other: Image.Image) -> float:
    """The share of the smaller box that both boxes cover."""
    wide = min(left + drawing.width, x + other.width) - max(left, x)
    high = min(top + drawing.height, y + other.height) - max(top, y)
    least = min(drawing.width * drawing.height, other.width * other.height)
    return max(0, wide) * max(0, high) / least


def _row(rng: np.random.Generator, drawings: list[Image.Image], size: Size) -> list[tuple[int, int]] | None:
    """Places in one row from left to right with clear gaps; None when they are too wide or too tall."""
    free = size[0] - sum(drawing.width for drawing in drawings)
    gap = free // (len(drawings) + 1)
    if gap < 8 or max(drawing.height for drawing in drawings) > 0.6 * size[1]:
        return None
    middle = float(rng.uniform(0.35, 0.65)) * size[1]
    spots, left = [], gap
    for drawing in drawings:
        top = round(middle - drawing.height / 2 + float(rng.uniform(-0.03, 0.03)) * size[1])
        spots.append((left, min(max(0, top), size[1] - drawing.height)))
        left += drawing.width + gap
    return spots


FAMILY = BankFamily(name="cutouts", picture_side=224, over=Cutouts)
