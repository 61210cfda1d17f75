"""Family `stamps`: one named picture on a varied ground, or a grid of four to nine; naming, kind and choice questions.

The pictures are Tux Paint's stamps (photographs and drawings on transparent ground). A unit is a concept: all stamps
whose names end in the same word, or in words that may mean the same. Wrong options come from other concepts of the
same split, of another kind, with no word in common, so that only one option is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from nvila.data.build.cutouts_questions import scaled
from nvila.data.build.stamps_bank import (
    Bank,
    BankFamily,
    Stamp,
    apart,
    countable,
    grounded,
    names_for,
    outlined,
    varied,
    with_article,
)
from nvila.data.corpus.canvas import Turn, chance, damage, make_sample, number, pick
from nvila.types import LabelledBox, Sample

WORDINGS = {
    "name": "What is this?|What is in the picture?|What does the picture show?|Name the thing in the picture."
    "|What do you see?|what is it|Which thing is shown here?|Tell me what this is.|What object is this?"
    "|What can be seen here?",
    "kind": "What kind of thing is this: {options}?|Which of these fits: {options}?|What is this, {options}?"
    "|Pick the kind of thing shown: {options}.|What sort of thing do you see: {options}?|Classify it: {options}."
    "|The picture shows what: {options}?",
    "choice": "Which is it: {options}?|Which of these is shown: {options}?|What is in the picture, {options}?"
    "|Choose the right name: {options}.|Is the picture of {options}?|Pick what you see: {options}."
    "|Which of these names fits: {options}?",
    "is_it": "Is this {thing}?|Does the picture show {thing}?|Is {thing} shown here?|Do you see {thing}?"
    "|is that {thing}|Is there {thing} in the picture?|Can you see {thing} here?",
    "ground": "What color is the background?|Which color is behind it?|What is the background color?"
    "|What colour is the ground behind it?|Name the color of the background.|On which color does it stand?"
    "|background color?",
    "box": "Where is the {thing}? Give [left, top, right, bottom] from 0 to 1000."
    "|Give the box of the {thing} as [left, top, right, bottom], scaled to 0-1000."
    "|Locate the {thing}: [left, top, right, bottom] in thousandths of the picture."
    "|Draw a box around the {thing}: left, top, right, bottom from 0 to 1000."
    "|Bounding box of the {thing} on a scale of 0 to 1000, as [left, top, right, bottom]?"
    "|Which box, [left, top, right, bottom] from 0 to 1000, holds the {thing}?",
    "cell": "What is in the {row} row, {column} column?|Name the thing in row {r}, column {c}."
    "|What do you see in row {r}, column {c}?|Which thing is in the {column} cell of the {row} row?"
    "|What does the picture at row {r}, column {c} show?|Look at the {row} row, {column} column. What is there?",
    "where": "Where is the {thing}? Answer with row and column.|In which row and column is the {thing}?"
    "|Find the {thing}: which row and column?|Which cell shows the {thing}? Give row and column."
    "|Give row and column of the {thing}.|Tell me the row and the column of the {thing}.",
    "how_many": "How many pictures are in the grid?|How many things are shown?|Count the pictures."
    "|How many cells does the grid have?|Number of pictures?|How many different things do you see?",
}
ORDINALS = ("first", "second", "third")
CLEAR_KINDS = frozenset({"vehicle", "musical instrument", "road sign", "hat", "mammal", "fish", "building"})
"""Kinds whose members nobody would see in a stamp that has no kind."""


def ask(rng: np.random.Generator, task: str, **slots: str) -> str:
    """A random wording of `task` with its slots filled in."""
    return str(pick(rng, WORDINGS[task].split("|"))).format(**slots)


def one_of(names: Sequence[str], rng: np.random.Generator) -> str:
    """ "a, b, c or d" in random order."""
    order = [names[int(index)] for index in rng.permutation(len(names))]
    return f"{', '.join(order[:-1])} or {order[-1]}"


@dataclass
class Stamps:
    """Opened material of the family."""

    bank: Bank
    units: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        self.units = sorted(self.bank.by_concept)

    def make(self, rng: np.random.Generator, unit: str, same_side: Sequence[str]) -> Sample:
        """One stamp of `unit` on a ground, or (one in four) a grid in which it is one of four, six or nine."""
        stamp = pick(rng, self.bank.by_concept[unit])
        others = self._others(rng, stamp, same_side, 8)
        if len(others) >= 3 and chance(rng, 0.25):
            return self._grid(rng, stamp, others)
        return self._single(rng, stamp, others)

    def _others(self, rng: np.random.Generator, stamp: Stamp, same_side: Sequence[str], count: int) -> list[Stamp]:
        """Up to `count` stamps of this side, apart from `stamp` and from each other, with clear kinds.

        Where the kind of `stamp` itself is open, they are of kinds that it is surely not.
        """
        kinds = CLEAR_KINDS if stamp.kind is None else None
        found = [stamp]
        for _ in range(6 * count):
            concept = pick(rng, same_side)
            other = pick(rng, self.bank.by_concept[concept])
            clear = other.kind is not None if kinds is None else other.kind in kinds
            if clear and all(apart(other, one) for one in found):
                found.append(other)
            if len(found) > count:
                break
        return found[1:]

    def _single(self, rng: np.random.Generator, stamp: Stamp, others: list[Stamp]) -> Sample:
        width = number(rng, 14, 42) * 16
        height = min(672, max(224, round(width * float(rng.uniform(0.75, 1.33)))))
        image, ground = grounded(rng, (width, height), [stamp.mean])
        side = round(min(width, height) * float(rng.uniform(0.45, 0.92)))
        drawing = varied(rng, self.bank.picture(stamp), stamp, side, tilt=12)
        left = number(rng, 0, max(0, width - drawing.width))
        top = number(rng, 0, max(0, height - drawing.height))
        image.paste(drawing, (left, top), drawing)
        box = LabelledBox(label=stamp.name, box=(left, top, left + drawing.width, top + drawing.height))
        turns = self._questions(rng, stamp, others, ground, scaled(box.box, image.size))
        return make_sample(
            damage(rng, image),
            *turns,
            task="stamps",
            objects=(box,),
            unit=stamp.concept,
            kind=stamp.kind,
            ground=ground,
        )

    def _questions(
        self, rng: np.random.Generator, stamp: Stamp, others: list[Stamp], ground: str | None, box: str
    ) -> list[Turn]:
        """The name first, then one to three others; `box` is the answer to where it is."""
        turns = [Turn(question=ask(rng, "name"), answers=names_for(stamp))]
        later = []
        kinds = list(dict.fromkeys(other.kind for other in others if other.kind))[:3]
        if stamp.kind is not None and kinds:
            options = one_of([with_article(kind) for kind in (stamp.kind, *kinds)], rng)
            later.append(
                Turn(question=ask(rng, "kind", options=options), answers=(stamp.kind, with_article(stamp.kind)))
            )
        if others:
            options = one_of([one.name for one in (stamp, *others[:3])], rng)
            choice = Turn(question=ask(rng, "choice", options=options), answers=names_for(stamp))
            thing, answer = (stamp, "yes") if chance(rng, 0.5) else (others[-1], "no")
            if countable(thing.name):
                is_it = ask(rng, "is_it", thing=with_article(thing.name))
                later.append(Turn(question=is_it, answers=(answer,)))
            if chance(rng, 0.5):
                turns = [choice]
        if ground is not None:
            accepted = ("gray", "grey") if ground == "gray" else (ground,)
            later.append(Turn(question=ask(rng, "ground"), answers=accepted))
        if countable(stamp.name):
            later.append(Turn(question=ask(rng, "box", thing=stamp.name), answers=(box,)))
        order = rng.permutation(len(later))[: number(rng, 1, 3)]
        return turns + [later[int(index)] for index in order]

    def _grid(self, rng: np.random.Generator, stamp: Stamp, others: list[Stamp]) -> Sample:
        rows, columns = pick(
            rng, [shape for shape in ((2, 2), (2, 3), (3, 2), (3, 3)) if shape[0] * shape[1] <= len(others) + 1]
        )
        shown = [stamp, *others[: rows * columns - 1]]
        shown = [shown[int(index)] for index in rng.permutation(len(shown))]
        cell = number(rng, 100, 220)
        size = (columns * cell, rows * cell)
        image, ground = grounded(rng, size, [one.mean for one in shown])
        boxes = []
        for index, one in enumerate(shown):
            drawing = varied(rng, self.bank.picture(one), one, round(cell * float(rng.uniform(0.6, 0.85))), tilt=6)
            drawing.thumbnail((cell - 8, cell - 8))
            left = index % columns * cell + (cell - drawing.width) // 2
            top = index // columns * cell + (cell - drawing.height) // 2
            image.paste(drawing, (left, top), drawing)
            boxes.append(LabelledBox(label=one.name, box=(left, top, left + drawing.width, top + drawing.height)))
        if chance(rng, 0.6):
            corners = [(index % columns * cell, index // columns * cell) for index in range(len(shown))]
            outlined(image, [(x, y, x + cell, y + cell) for x, y in corners], (90, 90, 90))
        turns = self._grid_questions(rng, shown, columns, ground)
        return make_sample(
            damage(rng, image), *turns, task="stamps", objects=boxes, unit=stamp.concept, ground=ground, columns=columns
        )

    def _grid_questions(
        self, rng: np.random.Generator, shown: list[Stamp], columns: int, ground: str | None
    ) -> list[Turn]:
        """Two cells by place, one by name, and the number of pictures."""
        first, second, sought = (int(index) for index in rng.permutation(len(shown))[:3])
        turns = []
        for index in (first, second):
            row, column = divmod(index, columns)
            slots = {"row": ORDINALS[row], "column": ORDINALS[column], "r": str(row + 1), "c": str(column + 1)}
            turns.append(Turn(question=ask(rng, "cell", **slots), answers=names_for(shown[index])))
        if countable(shown[sought].name):
            row, column = divmod(sought, columns)
            places = (f"row {row + 1}, column {column + 1}", f"{ORDINALS[row]} row, {ORDINALS[column]} column")
            turns.append(Turn(question=ask(rng, "where", thing=shown[sought].name), answers=places))
        if chance(rng, 0.5):
            turns.append(Turn(question=ask(rng, "how_many"), answers=(str(len(shown)),)))
        if ground is not None and chance(rng, 0.3):
            accepted = ("gray", "grey") if ground == "gray" else (ground,)
            turns.append(Turn(question=ask(rng, "ground"), answers=accepted))
        return turns


FAMILY = BankFamily(name="stamps", picture_side=384, over=Stamps)
