"""Questions about a scene of named boxes, each with one right answer; those that the scene leaves open are not asked.

Everything here is computed from names, boxes and areas alone: no pixels, no drawing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np

from nvila.data.build.stamps_bank import plural_of, with_article
from nvila.data.corpus.canvas import Size, Turn, chance, number, pick
from nvila.data.corpus.listing import listed
from nvila.data.corpus.scenes import OPPOSITE

Box = tuple[float, float, float, float]
NUMBER_WORDS = listed("zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen")
ORDINALS = ("first", "second", "third", "fourth", "fifth")
CORNERS = ("top left", "top right", "bottom left", "bottom right")
SIZE_MARGIN = 1.5
GAP = 0.02
"""Least gap between two things whose order is asked for, as a share of the picture's side."""

WORDINGS = {
    "count": "How many {things} are there?|How many {things} do you see?|Count the {things}."
    "|How many {things} are in the picture?|What is the number of {things}?|how many {things}"
    "|How many {things} can you count?|Tell me the number of {things}.",
    "count_all": "How many things are in the picture in all?|How many objects are there?|Count all the objects."
    "|How many things do you see altogether?|What is the total number of objects?"
    "|How many objects can you count in all?|Number of things in the picture?",
    "count_half": "How many {things} are in the {half} half of the picture?|Count the {things} in the {half} half."
    "|In the {half} half, how many {things} are there?|How many {things} do you see in the {half} half?"
    "|What is the number of {things} in the {half} half of the image?|{half} half: how many {things}?",
    "more": "Are there more {a} or more {b}?|Which are there more of, {a} or {b}?|More {a} or more {b}?"
    "|Do you see more {a} or more {b}?|What is there more of: {a} or {b}?|Which is more numerous, {a} or {b}?",
    "fewer": "Are there fewer {a} or fewer {b}?|Which are there fewer of, {a} or {b}?|Fewer {a} or fewer {b}?"
    "|Do you see fewer {a} or fewer {b}?|What is there less of: {a} or {b}?|Which is less numerous, {a} or {b}?",
    "present": "Is there {thing} in the picture?|Do you see {thing}?|Does the picture show {thing}?"
    "|Can you find {thing} here?|is there {thing}|Is {thing} among the things shown?|Does {thing} appear here?",
    "side": "Is the {a} to the left or to the right of the {b}?|On which side of the {b} is the {a}: left or right?"
    "|Left or right of the {b}: where is the {a}?|Does the {a} stand left or right of the {b}?"
    "|Seen from the {b}, is the {a} on the left or on the right?|Where is the {a}, left or right of the {b}?",
    "height": "Is the {a} above or below the {b}?|Where is the {a}, above or below the {b}?"
    "|Above or below the {b}: where is the {a}?|Is the {a} higher up or further down than the {b}: above or below?"
    "|Compared with the {b}, is the {a} above or below?|Does the {a} lie above or below the {b}?",
    "relation": "Is the {a} {relation} the {b}?|Can the {a} be found {relation} the {b}?|Is it true that the {a} is"
    " {relation} the {b}?|Do you see the {a} {relation} the {b}?|the {a} is {relation} the {b}, right?"
    "|Does the {a} lie {relation} the {b}?",
    "neighbour": "What is {relation} the {b}?|Which thing is {relation} the {b}?|Name the thing {relation} the {b}."
    "|What do you see {relation} the {b}?|What can be found {relation} the {b}?|Look {relation} the {b}: what is it?",
    "between": "What is between the {a} and the {b}?|Which thing stands between the {a} and the {b}?"
    "|Name what is between the {a} and the {b}.|What do you see between the {a} and the {b}?"
    "|Between the {a} and the {b}, what is there?|Which object is in the middle of the {a} and the {b}?",
    "biggest": "Which thing is the {most} in the picture?|What is the {most} thing?|Which object is drawn {most}?"
    "|Name the {most} object.|Which of the things takes up the {most} area?|Of all things here, which is the {most}?",
    "corner": "What is in the {corner} corner?|Which thing is in the {corner} corner of the picture?"
    "|Name the thing in the {corner} corner.|What do you see in the {corner} corner?"
    "|{corner} corner: what is there?|Which object is nearest to the {corner} corner?",
    "box": "Where is the {thing}? Give [left, top, right, bottom] from 0 to 1000."
    "|Give the box of the {thing} as [left, top, right, bottom], scaled to 0-1000."
    "|Locate the {thing}: [left, top, right, bottom] in thousandths of the picture."
    "|What are the bounding box coordinates (0-1000) of the {thing}?|Box of the {thing}, 0-1000?"
    "|Find the {thing} and answer with its box, left, top, right, bottom, from 0 to 1000.",
    "at_box": "What is at {box} (left, top, right, bottom; 0-1000)?|Which thing is inside the box {box}, scaled 0-1000?"
    "|Name the object at {box} on a scale from 0 to 1000.|The box {box} in thousandths holds what?"
    "|What do you see inside {box} (0-1000)?|Which object has the box {box} (0-1000)?",
    "odd": "Which is the odd one out?|Which thing is different from the others?|What does not belong with the rest?"
    "|Name the one thing that is not like the others.|Which of these is unlike the rest?|odd one out?",
    "ordinal": "What is the {nth} thing from the {end}?|Which object is {nth} from the {end}?"
    "|Name the {nth} thing counted from the {end}.|Counting from the {end}, what comes {nth}?"
    "|From the {end}, what is the {nth} object?|Which thing is the {nth} one from the {end}?",
    "ground": "What color is the background?|Which color is behind the things?|What is the background color?"
    "|Name the color of the background.|What colour is the ground?|background color?",
}
RELATIONS = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One thing in a scene."""

    name: str
    plural: str
    box: Box
    area: int
    """Its own opaque pixels, covered ones included."""

    @property
    def middle(self) -> tuple[float, float]:
        """The middle of its box."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the questions are asked about."""

    placed: list[Placed]
    size: Size
    ground: str | None
    absent: str | None
    """The name of something that is not there, nor could be taken for anything that is."""
    odd: bool = False

    @property
    def counts(self) -> Counter[str]:
        """How many there are of each name."""
        return Counter(item.name for item in self.placed)

    @property
    def singles(self) -> list[Placed]:
        """The things whose name is theirs alone."""
        return [item for item in self.placed if self.counts[item.name] == 1]


SceneT = TypeVar("SceneT", bound=Scene)
AskT = TypeVar("AskT", bound=Callable[..., Turn | None])


def questions(
    rng: np.random.Generator, placed: list[Placed], size: Size, *, ground: str | None, absent: str | None, odd: bool
) -> list[Turn]:
    """Up to five questions of different sorts, in random order."""
    scene = Scene(placed=placed, size=size, ground=ground, absent=absent, odd=odd)
    first = ask_odd(rng, scene)
    others = shuffled_asks(rng, ASKS)
    return first_answerable(rng, scene, others, number(rng, 3, 5), [] if first is None else [first])


def shuffled_asks(rng: np.random.Generator, asks: Sequence[AskT]) -> list[AskT]:
    """All of `asks` in random order, less one of the two about boxes: each would give the other's answer away."""
    left_out = pick(rng, (ask_box, ask_at_box))
    return [asks[int(index)] for index in rng.permutation(len(asks)) if asks[int(index)] is not left_out]


def first_answerable(
    rng: np.random.Generator,
    scene: SceneT,
    asks: Sequence[Callable[[np.random.Generator, SceneT], Turn | None]],
    wanted: int,
    turns: list[Turn],
) -> list[Turn]:
    """`turns` and then the questions of `asks` that the scene answers, until there are `wanted`."""
    turns = list(turns)
    for ask in asks:
        if len(turns) >= wanted:
            break
        turn = ask(rng, scene)
        if turn is not None:
            turns.append(turn)
    return turns


def worded(rng: np.random.Generator, task: str, **slots: str) -> str:
    """A random wording of `task` with its slots filled in, its first letter raised where a slot opens it."""
    template = str(pick(rng, WORDINGS[task].split("|")))
    text = template.format(**slots)
    return text[0].upper() + text[1:] if template.startswith("{") else text


def number_answers(count: int) -> tuple[str, ...]:
    """ "3", "three"; nothing is "0", "zero", "none"."""
    return (str(count), *NUMBER_WORDS[count : count + 1], *(("none",) if count == 0 else ()))


def scaled(box: Box, size: Size) -> str:
    """The box as "[left, top, right, bottom]" in whole thousandths of the picture."""
    width, height = size
    values = (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
    return f"[{', '.join(str(round(1000 * value)) for value in values)}]"


def relation_of(first: Placed, second: Placed, size: Size) -> dict[str, str]:
    """Where `first` is seen from `second`: {"x": "left", "y": "above"}, each only where the boxes are clear."""
    found = {}
    for axis, extent, names in (("x", 0, ("left", "right")), ("y", 1, ("above", "below"))):
        gap = GAP * size[extent]
        if first.box[extent + 2] + gap <= second.box[extent]:
            found[axis] = names[0]
        elif second.box[extent + 2] + gap <= first.box[extent]:
            found[axis] = names[1]
    return found


def ask_count(rng: np.random.Generator, scene: Scene) -> Turn | None:
    """How many of a name there are; now and then of one that is absent."""
    if scene.absent is not None and chance(rng, 0.12):
        things, count = plural_of(scene.absent), 0
    else:
        item = pick(rng, scene.placed)
        things, count = item.plural, scene.counts[item.name]
    return Turn(question=worded(rng, "count", things=things), answers=number_answers(count))


def ask_count_all(rng: np.random.Generator, scene: Scene) -> Turn | None:
    """How many things there are in all."""
    return Turn(question=worded(rng, "count_all"), answers=number_answers(len(scene.placed)))


def ask_count_half(rng: np.random.Generator, scene: Scene) -> Turn | None:
    """How many of a name are in one half; none of that name may touch the line between the halves."""
    item = pick(rng, scene.placed)
    axis = number(rng, 0, 1)
    line = scene.size[axis] / 2
    boxes = [one.box for one in scene.placed if one.name == item.name]
    if len(boxes) < 2 or any(box[axis] - 4 < line < box[axis + 2] + 4 for box in boxes):
        return None
    first = chance(rng, 0.5)
    half = (("left", "right"), ("top", "bottom"))[axis][0 if first else 1]
    count = sum((box[axis] < line) == first for box in boxes)
    return Turn(question=worded(rng, "count_half", things=item.plural, half=half), answers=number_answers(count))


def ask_more(rng: np.random.Generator, scene: Scene) -> Turn | None:
    """Of which of two names there are more or fewer."""
    plurals = {item.name: item.plural for item in scene.placed}
    names = [str(name) for name in rng.permutation(sorted(plurals))[:2]]
    if len(names) < 2 or scene.counts[names[0]] == scene.counts[names[1]]:
        return None
    task = pick(rng, ("more", "fewer"))
    order = sorted(names, key=lambda name: scene.counts[name], reverse=task == "more")
    a, b = (plurals[name] for name in names)
    return Turn(question=worded(rng, task, a=a, b=b), answers=(plurals[order[0]], order[0]))


def ask_present(rng: np.random.Generator, scene: Scene) -> Turn | None:
    """Whether something is there."""
    if scene.absent is not None and chance(rng, 0.5):
        return Turn(question=worded(rng, "present", thing=with_article(scene.absent)), answers=("no",))
    if scene.absent is None:
        return None
    item = pick(rng, scene.placed)
    return Turn(question=worded(rng, "present", thing=with_article(item.name)), answers=("yes",))


def ask_relation(rng: np.random.Generator, scene: Scene) -> Turn | None:
    """Left or right, above or below, or whether it is so, of two things that are each the only one of their name."""
    pair = _pair(rng, scene)
    if pair is None:
        return None
    first, second, found = pair
    axis = pick(rng, sorted(found))
    where = found[axis]
    if chance(rng, 0.5):
        task = "side" if axis == "x" else "height"
        answers = (where, f"{RELATIONS[where]} the {second.name}")
        return Turn(question=worded(rng, task, a=first.name, b=second.name), answers=answers)
    asked = where if chance(rng, 0.5) else OPPOSITE[where]
    question = worded(rng, "relation", a=first.name, b=second.name, relation=RELATIONS[asked])
    return Turn(question=question, answers=("yes" if asked == where else "no",))


def _pair(rng: np.random.Generator, scene: Scene) -> tuple[Placed, Placed, dict[str, str]] | None:
    singles = scene.singles
    if len(singles) < 2:
        return None
    for _ in range(6):
        first, second = (singles[int(index)] for index in rng.permutation(len(singles))[:2])
        found = relation_of(first, second, scene.size)
        if found:
            return first, second, found
    return None


def ask_neighbour(rng: np.random.Generator, scene: Scene) -> Turn | None:
    """The only thing on one side of another: all the rest must clearly be on the other side."""
    singles = scene.singles
    if len(singles) < 2:
        return None
    anchor = pick(rng, singles)
    where = pick(rng, tuple(RELATIONS))
    axis = "x" if where in ("left", "right") else "y"
    others = [item for item in scene.placed if item is not anchor]
    places = [relation_of(item, anchor, scene.size).get(axis) for item in others]
    there = [item for item, place in zip(others, places, strict=True) if place == where]
    if len(there) != 1 or any(place not in (where, OPPOSITE[where]) for place in places):
        return None
    question = worded(rng, "neighbour", relation=RELATIONS[where], b=anchor.name)
    return Turn(question=question, answers=(there[0].name,))


def ask_between(rng: np.random.Generator, scene: Scene) -> Turn | None:
    """What stands between two things of about the same height in the picture, with nothing else in between."""
    singles = sorted(scene.singles, key=lambda item: item.middle[0])
    triples = []
    for a, b, c in zip(singles, singles[1:], singles[2:], strict=False):
        level = max(item.middle[1] for item in (a, b, c)) - min(item.middle[1] for item in (a, b, c))
        clear = "x" in relation_of(a, b, scene.size) and "x" in relation_of(b, c, scene.size)
        inside = [item for item in scene.placed if item.box[2] > a.box[2] and item.box[0] < c.box[0] and item is not b]
        if clear and level < 0.2 * scene.size[1] and not [item for item in inside if item not in (a, c)]:
            triples.append((a, b, c))
    if not triples:
        return None
    a, b, c = pick(rng, triples)
    first, last = (a, c) if chance(rng, 0.5) else (c, a)
    return Turn(question=worded(rng, "between", a=first.name, b=last.name), answers=(b.name,))


def ask_biggest(rng: np.random.Generator, scene: Scene) -> Turn | None:
    """The biggest or the smallest, by its box and by its opaque pixels alike, by a clear margin."""
    if len(scene.placed) < 2:
        return None
    largest = chance(rng, 0.5)
    order = sorted(scene.placed, key=lambda item: item.area, reverse=largest)
    boxes = [(item.box[2] - item.box[0]) * (item.box[3] - item.box[1]) for item in order]
    for extreme, *rest in (boxes, [item.area for item in order]):
        clear = extreme >= SIZE_MARGIN * max(rest) if largest else SIZE_MARGIN * extreme <= min(rest)
        if not clear:
            return None
    if scene.counts[order[0].name] > 1:
        return None
    word = pick(rng, ("biggest", "largest") if largest else ("smallest",))
    return Turn(question=worded(rng, "biggest", most=word), answers=(order[0].name,))


def ask_corner(rng: np.random.Generator, scene: Scene) -> Turn | None:
    """The only thing that reaches into a corner's sixteenth, its middle being within the corner's ninth."""
    width, height = scene.size
    found = []
    for corner in CORNERS:
        low_x, low_y = "left" in corner, "top" in corner
        near, inside = [], []
        for item in scene.placed:
            left, top, right, bottom = item.box
            x0, x1 = (left / width, right / width) if low_x else (1 - right / width, 1 - left / width)
            y0, y1 = (top / height, bottom / height) if low_y else (1 - bottom / height, 1 - top / height)
            if x0 < 0.36 and y0 < 0.36:
                near.append(item)
            if (x0 + x1) / 2 < 0.3 and (y0 + y1) / 2 < 0.3:
                inside.append(item)
        if len(near) == 1 and near == inside:
            found.append((corner, inside[0]))
    if not found:
        return None
    corner, item = pick(rng, found)
    return Turn(question=worded(rng, "corner", corner=corner), answers=(item.name,))


def ask_box(rng: np.random.Generator, scene: Scene) -> Turn | None:
    """The box of a thing that is the only one of its name."""
    if not scene.singles:
        return None
    item = pick(rng, scene.singles)
    return Turn(question=worded(rng, "box", thing=item.name), answers=(scaled(item.box, scene.size),))


def ask_at_box(rng: np.random.Generator, scene: Scene) -> Turn | None:
    """What is inside a box."""
    item = pick(rng, scene.placed)
    return Turn(question=worded(rng, "at_box", box=scaled(item.box, scene.size)), answers=(item.name,))


def ask_odd(rng: np.random.Generator, scene: Scene) -> Turn | None:
    """The one that is not like the others."""
    if not scene.odd or len(scene.counts) != 2 or len(scene.singles) != 1:
        return None
    return Turn(question=worded(rng, "odd"), answers=(scene.singles[0].name,))


def ask_ordinal(rng: np.random.Generator, scene: Scene) -> Turn | None:
    """The n-th thing from the left or the right, when no two share a column."""
    order = sorted(scene.placed, key=lambda item: item.box[0])
    pairs = pairwise(order)
    if not 3 <= len(order) <= 5 or any("x" not in relation_of(a, b, scene.size) for a, b in pairs):
        return None
    index = number(rng, 0, len(order) - 1)
    end = pick(rng, ("left", "right"))
    item = order[index] if end == "left" else order[::-1][index]
    return Turn(question=worded(rng, "ordinal", nth=ORDINALS[index], end=end), answers=(item.name,))


def ask_ground(rng: np.random.Generator, scene: Scene) -> Turn | None:
    """The colour of a plain ground."""
    if scene.ground is None or not chance(rng, 0.4):
        return None
    return Turn(question=worded(rng, "ground"), answers=("gray", "grey") if scene.ground == "gray" else (scene.ground,))


Ask = Callable[[np.random.Generator, Scene], Turn | None]
ASKS: tuple[Ask, ...] = (
    ask_count,
    ask_count_all,
    ask_count_half,
    ask_more,
    ask_present,
    ask_relation,
    ask_neighbour,
    ask_between,
    ask_biggest,
    ask_corner,
    ask_box,
    ask_at_box,
    ask_ordinal,
    ask_ground,
)
