"""Eight-frame clips of shapes: which way one moves, which one moves, what appears first, what colour one becomes.

Frames are PIL pictures of one size; the motion covers at least a third of the frame and no two shapes meet.
`objects` label the first frame. Cameras, occlusion and cuts are left out.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from nvila.data.corpus.assets import Assets
from nvila.data.corpus.canvas import (
    NAMED_COLOURS,
    Size,
    Turn,
    chance,
    distance,
    make_sample,
    named_colour,
    number,
    pick,
)
from nvila.data.corpus.phrasing import phrase
from nvila.data.corpus.shapes import COLOURS, SHAPES, Shape, draw_shapes, ground_for, scatter
from nvila.data.corpus.splits import Split
from nvila.types import LabelledBox, Sample

NUM_FRAMES = 8
STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
ORDER_WORDS = ("first", "last")


def _kinds(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    shapes, colours = rng.permutation(len(SHAPES))[:count], rng.permutation(len(COLOURS))[:count]
    return [(SHAPES[int(shape)], COLOURS[int(color)]) for shape, color in zip(shapes, colours, strict=True)]


def _render(size: Size, ground: Image.Image, frames: list[list[Shape]]) -> tuple[list[Image.Image], list[LabelledBox]]:
    """Draw every frame on the same ground; frames that hold the same shapes share one picture."""
    drawn: list[Image.Image] = []
    for index, shapes in enumerate(frames):
        same = index > 0 and shapes == frames[index - 1]
        drawn.append(drawn[-1] if same else draw_shapes(ground, shapes))
    return drawn, [box for item in frames[0] for box in item.boxes(size)]


def _ground(rng: np.random.Generator, size: Size, colours: set[str]) -> Image.Image:
    return Image.new("RGB", size, ground_for(rng, colours))


def _path(rng: np.random.Generator, size: Size, radius: float, direction: str) -> list[tuple[float, float]]:
    """Centres of a straight way through the frame in a direction, one a frame."""
    dx, dy = STEPS[direction]
    low = (radius + 1, radius + 1)
    high = (size[0] - radius - 1, size[1] - radius - 1)
    axis = 0 if dx else 1
    room = high[axis] - low[axis]
    length = room * float(rng.uniform(0.5, 1.0))
    start = low[axis] + float(rng.uniform(0, room - length))
    along = np.linspace(start, start + length, NUM_FRAMES)
    if dx + dy < 0:
        along = along[::-1]
    across = float(rng.uniform(low[1 - axis], high[1 - axis]))
    return [(float(a), across) if axis == 0 else (across, float(a)) for a in along]


def _moving(rng: np.random.Generator, size: Size, kinds: list[tuple[str, str]]) -> tuple[list[list[Shape]], str]:
    """Frames in which the first kind moves and the others stand still out of its way; and the direction."""
    side = min(size)
    while True:
        direction = pick(rng, tuple(STEPS))
        shape, color = kinds[0]
        radius = side * float(rng.uniform(0.08, 0.16))
        path = _path(rng, size, radius, direction)
        rgb = named_colour(rng, color)
        movers = [Shape(shape=shape, color=color, rgb=rgb, x=x, y=y, radius=radius) for x, y in path]
        still = scatter(rng, size, kinds[1:], (side * 0.08, side * 0.13)) if len(kinds) > 1 else []
        if all(
            (item.x - x) ** 2 + (item.y - y) ** 2 > (item.radius + radius + 2) ** 2 for item in still for x, y in path
        ):
            return [[mover, *still] for mover in movers], direction


def make_motion(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """One shape moves left, right, up or down, sometimes past others that stand still."""
    kinds = _kinds(rng, 1 if chance(rng, 0.65) else 2)
    frames, direction = _moving(rng, size, kinds)
    clip, boxes = _render(size, _ground(rng, size, {color for _, color in kinds}), frames)
    mover = frames[0][0]
    thing = pick(rng, (mover.shape, mover.name, "object")) if len(kinds) == 1 else pick(rng, (mover.shape, mover.name))
    question = phrase(rng, split, "motion", thing=thing)
    synonyms = {"up": ["up", "upwards", "to the top"], "down": ["down", "downwards", "to the bottom"]}
    answers = synonyms.get(direction, [direction, f"to the {direction}", f"{direction}wards"])
    return make_sample(clip, Turn(question=question, answers=tuple(answers)), task="motion", objects=boxes)


def make_mover(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """One of two or three shapes moves; the answer is its colour and shape."""
    kinds = _kinds(rng, number(rng, 2, 3))
    frames, _ = _moving(rng, size, kinds)
    shuffled = rng.permutation(len(kinds))
    frames = [[shapes[int(i)] for i in shuffled] for shapes in frames]
    clip, boxes = _render(size, _ground(rng, size, {color for _, color in kinds}), frames)
    shape, color = kinds[0]
    answers = (f"{color} {shape}", f"the {color} {shape}", shape)
    turn = Turn(question=phrase(rng, split, "mover"), answers=answers)
    return make_sample(clip, turn, task="mover", objects=boxes)


def make_order(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """Shapes appear one after another (which is first or last), or one shape changes its colour (into which)."""
    if chance(rng, 0.35):
        return _recolor(rng, split, size)
    count = number(rng, 2, 3)
    kinds = _kinds(rng, count)
    side = min(size)
    shapes = scatter(rng, size, kinds, (side * 0.1, side * 0.17))
    stay = chance(rng, 0.5)
    starts = [0, *sorted(int(start) for start in 2 + 2 * rng.permutation(3)[: count - 1])]
    frames = []
    for frame in range(NUM_FRAMES):
        visible = [item for item, start in zip(shapes, starts, strict=True) if start <= frame]
        frames.append(visible if stay else visible[-1:])
    clip, boxes = _render(size, _ground(rng, size, {color for _, color in kinds}), frames)
    when = pick(rng, ORDER_WORDS)
    asked = shapes[0] if when == "first" else shapes[-1]
    answers = (asked.name, f"the {asked.name}", asked.shape)
    turn = Turn(question=phrase(rng, split, "order", when=when), answers=answers)
    return make_sample(clip, turn, task="order", objects=boxes, ask=when, starts=starts)


def _recolor(rng: np.random.Generator, split: Split, size: Size) -> Sample:
    """One shape stands still and changes from one colour to a clearly different one in the middle of the clip."""
    side = min(size)
    while True:
        before, after = (COLOURS[int(i)] for i in rng.permutation(len(COLOURS))[:2])
        if distance(NAMED_COLOURS[before], NAMED_COLOURS[after]) > 120:
            break
    shape = scatter(rng, size, [(pick(rng, SHAPES), before)], (side * 0.12, side * 0.25))[0]
    changed = replace(shape, color=after, rgb=named_colour(rng, after))
    moment = number(rng, 3, 5)
    frames = [[shape] if frame < moment else [changed] for frame in range(NUM_FRAMES)]
    clip, boxes = _render(size, _ground(rng, size, {before, after}), frames)
    answers = ("gray", "grey") if after == "gray" else (after,)
    turn = Turn(question=phrase(rng, split, "recolor", shape=shape.shape), answers=answers)
    return make_sample(clip, turn, task="order", objects=boxes, ask="recolor")
