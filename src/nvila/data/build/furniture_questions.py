"""Questions about furniture in a room, from the true geometry: side, depth, nearest, tallest, colour, number, box.

Left and right are the viewer's, asked where the outlines are clear of each other. "In front of" means nearer to the
camera along its view, asked where the bodies' stretches along the view are clear of each other. Sizes are true ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nvila.data.build.cutouts_questions import (
    Placed,
    Scene,
    ask_at_box,
    ask_box,
    ask_count,
    ask_count_all,
    ask_more,
    ask_neighbour,
    ask_ordinal,
    ask_present,
    first_answerable,
    relation_of,
    shuffled_asks,
)
from nvila.data.build.cutouts_questions import worded as flat_worded
from nvila.data.corpus.canvas import Size, Turn, chance, number, pick

NEAR_MARGIN = 1.15
TALL_MARGIN = 1.3
COLOUR_SHARE = 0.85
DEPTH_GAP = 0.05

WORDINGS = {
    "name": "What is this?|What is in the picture?|What does the picture show?|Name the thing in the picture."
    "|What do you see?|Which object is shown?|Tell me what this is.|What stands on the floor?",
    "room": "Where does this belong: {options}?|Where would you expect this: {options}?|Which place fits: {options}?"
    "|Is this at home in {options}?|Choose the place for it: {options}.|Where is such a thing usually: {options}?",
    "choice": "Which is it: {options}?|Which of these is shown: {options}?|What is in the picture, {options}?"
    "|Choose the right name: {options}.|Is the picture of {options}?|Pick what you see: {options}.",
    "color": "What color is the {thing}?|Which color does the {thing} have?|What is the color of the {thing}?"
    "|Name the color of the {thing}.|The {thing} is of which color?|What colour is the {thing}?",
    "depth": "Is the {a} in front of or behind the {b}?|Where is the {a}: in front of or behind the {b}?"
    "|Does the {a} stand in front of or behind the {b}?|In front of or behind the {b}: where is the {a}?"
    "|Seen from the camera, is the {a} in front of or behind the {b}?|Is the {a} placed in front of or behind the {b}?",
    "nearer": "Which is closer to the camera, the {a} or the {b}?|Which is nearer to us, the {a} or the {b}?"
    "|What is closer, the {a} or the {b}?|Of the {a} and the {b}, which is closer to the camera?"
    "|The {a} or the {b}: which stands nearer to the viewer?|Which one is nearer to the camera: {a} or {b}?",
    "nearest": "Which thing is {most} to the camera?|What stands {most} to the viewer?|Which object is {most} to us?"
    "|Name the object {most} to the camera.|Of all things here, which is {most} to the camera?"
    "|What is {most} to the camera?",
    "farthest": "Which thing is {most} from the camera?|What stands {most} from the viewer?"
    "|Which object is {most} from us?|Name the object {most} from the camera."
    "|Of all things here, which is {most} from the camera?"
    "|What is {most} from the camera?",
    "tallest": "Which thing is the tallest?|What is the tallest object in the room?|Name the tallest thing."
    "|Which of these things is the tallest in reality?|Which object stands highest?|What is the tallest thing here?",
}


@dataclass(frozen=True, kw_only=True)
class Standing(Placed):
    """A thing on the floor as the camera sees it."""

    near: float
    far: float
    """Least and greatest distance of its body from the camera along the floor, in metres."""
    distance: float
    """From the camera to the middle of its body, in metres."""
    tall: float
    """Its height in metres."""
    color: str | None
    """The name of its colour when most of what is seen of it has that one."""


@dataclass(frozen=True, kw_only=True)
class Room(Scene):
    """A scene whose things stand on a floor."""

    standing: list[Standing]

    def alone(self) -> list[Standing]:
        """The things whose name is theirs alone."""
        return [item for item in self.standing if self.counts[item.name] == 1]


def worded(rng: np.random.Generator, task: str, **slots: str) -> str:
    """A random wording of `task` with its slots filled in."""
    return str(pick(rng, WORDINGS[task].split("|"))).format(**slots)


def scene_questions(rng: np.random.Generator, standing: list[Standing], size: Size, absent: str | None) -> list[Turn]:
    """Up to five questions of different sorts, the ones that need depth first."""
    room = Room(placed=list(standing), size=size, ground=None, absent=absent, standing=standing)
    deep, flat = shuffled_asks(rng, DEEP), shuffled_asks(rng, FLAT)
    turns = first_answerable(rng, room, deep, number(rng, 1, 2), [])
    turns = first_answerable(rng, room, flat, number(rng, 3, 5), turns)
    return [turns[int(index)] for index in rng.permutation(len(turns))]


def ask_depth(rng: np.random.Generator, room: Room) -> Turn | None:
    """In front of or behind, of two whose stretches along the view are clear of each other."""
    pairs = [
        (a, b) for a in room.alone() for b in room.alone() if a.far + DEPTH_GAP < b.near and a.distance < b.distance
    ]
    if not pairs:
        return None
    front, back = pick(rng, pairs)
    if chance(rng, 0.4):
        a, b = (front, back) if chance(rng, 0.5) else (back, front)
        answers = (front.name, f"the {front.name}")
        return Turn(question=worded(rng, "nearer", a=a.name, b=b.name), answers=answers)
    if chance(rng, 0.5):
        return Turn(question=worded(rng, "depth", a=front.name, b=back.name), answers=("in front of", "in front"))
    return Turn(question=worded(rng, "depth", a=back.name, b=front.name), answers=("behind",))


def ask_nearest(rng: np.random.Generator, room: Room) -> Turn | None:
    """The nearest or the farthest of all, both by its middle and by its nearest (farthest) point."""
    if len(room.standing) < 2:
        return None
    nearest = chance(rng, 0.6)
    order = sorted(room.standing, key=lambda item: item.distance, reverse=not nearest)
    first, rest = order[0], order[1:]
    if nearest:
        clear = all(NEAR_MARGIN * first.distance < one.distance and first.near < one.near for one in rest)
    else:
        clear = all(first.distance > NEAR_MARGIN * one.distance and first.far > one.far for one in rest)
    if not clear or room.counts[first.name] > 1:
        return None
    if nearest:
        question = worded(rng, "nearest", most=pick(rng, ("nearest", "closest")))
    else:
        question = worded(rng, "farthest", most=pick(rng, ("farthest", "furthest")))
    return Turn(question=question, answers=(first.name, f"the {first.name}"))


def ask_tallest(rng: np.random.Generator, room: Room) -> Turn | None:
    """The tallest by its true height, by a clear margin."""
    order = sorted(room.standing, key=lambda item: -item.tall)
    if len(order) < 2 or order[0].tall < TALL_MARGIN * order[1].tall or room.counts[order[0].name] > 1:
        return None
    return Turn(question=worded(rng, "tallest"), answers=(order[0].name, f"the {order[0].name}"))


def ask_color(rng: np.random.Generator, room: Room) -> Turn | None:
    """The colour of something of which most is of one colour."""
    known = [item for item in room.alone() if item.color is not None]
    if not known:
        return None
    item = pick(rng, known)
    return Turn(question=worded(rng, "color", thing=item.name), answers=color_answers(str(item.color)))


def ask_side(rng: np.random.Generator, room: Room) -> Turn | None:
    """Left or right, of two whose outlines share no column."""
    alone = room.alone()
    pairs = [(a, b) for a in alone for b in alone if "x" in relation_of(a, b, room.size)]
    if not pairs:
        return None
    a, b = pick(rng, pairs)
    where = relation_of(a, b, room.size)["x"]
    return Turn(
        question=flat_worded(rng, "side", a=a.name, b=b.name), answers=(where, f"to the {where} of the {b.name}")
    )


def ask_beside(rng: np.random.Generator, room: Room) -> Turn | None:
    """What is left or right of something; what is above in the picture is farther in the room, and not asked."""
    turn = ask_neighbour(rng, room)
    return None if turn is None or any(word in turn.question for word in (" above ", " below ")) else turn


def color_answers(color: str) -> tuple[str, ...]:
    """The accepted spellings."""
    return ("gray", "grey") if color == "gray" else (color,)


def main_colour(paint_N3: NDArray[np.uint8]) -> str | None:
    """The name that most of the colours share, or None. Doubtful colours have no name."""
    if len(paint_N3) < 60:
        return None
    names, counts = np.unique(named_colours(paint_N3), return_counts=True)
    best = int(counts.argmax())
    return str(names[best]) if names[best] != "" and counts[best] >= COLOUR_SHARE * len(paint_N3) else None


def named_colours(paint_N3: NDArray[np.uint8]) -> NDArray[np.str_]:
    """A name for each colour, by hue, saturation and brightness with wide gaps between names; "" in the gaps."""
    rgb = paint_N3.astype(np.float64) / 255
    high, low = rgb.max(1), rgb.min(1)
    chroma = high - low
    saturation = chroma / np.maximum(high, 1e-6)
    red, green, blue = rgb.T
    safe = np.maximum(chroma, 1e-6)
    hue = np.where(
        high == red,
        ((green - blue) / safe) % 6,
        np.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    hue *= 60
    vivid = (saturation > 0.45) & (high > 0.35)
    dull = saturation < 0.16
    conditions = {
        "black": high < 0.2,
        "white": dull & (low > 0.82),
        "gray": dull & (high > 0.32) & (high < 0.72),
        "brown": (hue > 14) & (hue < 42) & (saturation > 0.35) & (high > 0.25) & (high < 0.6),
        "red": vivid & ((hue < 10) | (hue > 346)),
        "orange": vivid & (hue > 20) & (hue < 38) & (high > 0.8) & (saturation > 0.6),
        "yellow": vivid & (hue > 47) & (hue < 64) & (high > 0.7),
        "green": vivid & (hue > 80) & (hue < 155),
        "blue": vivid & (hue > 200) & (hue < 250),
    }
    names: NDArray[np.str_] = np.select(list(conditions.values()), list(conditions), default="")
    return names


Ask = Callable[[np.random.Generator, Room], Turn | None]
DEEP: tuple[Ask, ...] = (ask_depth, ask_nearest, ask_tallest)
FLAT: tuple[Ask, ...] = (
    ask_count,
    ask_count_all,
    ask_more,
    ask_present,
    ask_side,
    ask_beside,
    ask_color,
    ask_box,
    ask_at_box,
    ask_ordinal,
)
