"""Two drawn tasks of acting in space: the next step of an agent seen from above, and where a car ahead drives.

They stand for ALFRED and nuScenes in kind alone. nvila-mini knows the shapes and colours, and nothing of headings,
lanes or such answers. Answers are equally frequent. The held-out side has other grids and horizons, other rooms, roads
and wordings, and things to fetch that training never asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from downstream_canvas import SIDE, Canvas, Drawn, Kind, Look, kinds_of, others, shape_at, shuffled

from nvila.data.corpus.canvas import Colour, named_colour, number, pick
from nvila.data.corpus.splits import Split

ROOMS: Mapping[Split, tuple[Look, ...]] = MappingProxyType(
    {
        "train": (
            Look((222, 205, 180), (110, 85, 60), (205, 185, 155)),
            Look((215, 220, 225), (80, 85, 95), (195, 200, 208)),
            Look((240, 236, 225), (140, 120, 100), (225, 218, 200)),
        ),
        "heldout": (
            Look((200, 214, 200), (60, 80, 65), (180, 196, 180)),
            Look((228, 215, 228), (90, 70, 95), (208, 195, 210)),
        ),
    }
)
STEP_WORDINGS: Mapping[Split, tuple[str, ...]] = MappingProxyType(
    {
        "train": ("Fetch the {}. Which step is next?", "Goal: get the {}. Next step?", "The robot needs the {}. Step?"),
        "heldout": ("Bring me the {}. What does the robot do now?", "Instruction: collect the {}. Step now?"),
    }
)
STEPS: Mapping[str, int] = MappingProxyType(
    {"go ahead": 0, "pick it up": 0, "turn right": 1, "turn around": 2, "turn left": 3}
)
"""Steps, and in which direction from the heading, clockwise in quarters, the thing lies."""
_HEADINGS = ((0, -1), (1, 0), (0, 1), (-1, 0))
_WALL = 6
ROADS: Mapping[Split, tuple[Look, ...]] = MappingProxyType(
    {
        "train": (
            Look((85, 88, 92), (110, 160, 90), (240, 240, 240)),
            Look((110, 108, 105), (190, 170, 120), (250, 245, 220)),
            Look((60, 62, 70), (70, 100, 75), (235, 235, 215)),
        ),
        "heldout": (
            Look((135, 138, 142), (225, 230, 235), (255, 250, 190)),
            Look((45, 48, 58), (35, 50, 65), (200, 205, 225)),
        ),
    }
)
SKIES: Mapping[Split, tuple[Colour, ...]] = MappingProxyType(
    {"train": ((165, 205, 240), (210, 220, 230), (240, 200, 170)), "heldout": ((60, 70, 110), (190, 230, 225))}
)
SPOT_WORDINGS: Mapping[Split, tuple[str, ...]] = MappingProxyType(
    {
        "train": ("Where is the {} car?", "Seen from us, where does the {} car drive?", "Position of the {} car?"),
        "heldout": ("In which place ahead is the {} car?", "Tell where the {} car is."),
    }
)
CARS = ("red", "orange", "yellow", "blue", "purple", "white", "black")
SPOTS = tuple(f"{where}, {lane} lane" for where in ("near", "far") for lane in ("left", "own", "right"))


def draw_step(rng: np.random.Generator, split: Split) -> Drawn:
    """An arrow on a tiled floor, what it is to fetch in one of its four directions, and two other things."""
    look: Look = pick(rng, ROOMS[split])
    cells = 5 if split == "train" else 6
    cell = (SIDE - 2 * _WALL) / cells
    answer: str = pick(rng, list(STEPS))
    wanted: Kind = pick(rng, kinds_of(split))
    heading = number(rng, 0, 3)
    dx, dy = _HEADINGS[(heading + STEPS[answer]) % 4]
    far = 1 if answer == "pick it up" else number(rng, 2, 3)
    x, y = (number(rng, max(0, -d * far), cells - 1 - max(0, d * far)) for d in (dx, dy))
    path = [(x + dx * step, y + dy * step) for step in range(far + 1)]
    free = [(column, row) for column in range(cells) for row in range(cells) if (column, row) not in path]
    canvas = Canvas(look.thing)
    for column in range(cells):
        for row in range(cells):
            left, top = _WALL + column * cell, _WALL + row * cell
            canvas.box((left, top, left + cell, top + cell), look.ground if (column + row) % 2 else look.line)
    _agent(canvas, *(_WALL + (at + 0.5) * cell for at in (x, y)), _HEADINGS[heading], 0.46 * cell)
    places = [path[-1], *shuffled(rng, free)[:2]]
    shapes = [
        shape_at(rng, kind, *(_WALL + (at + 0.5) * cell for at in place), 0.42 * cell)
        for kind, place in zip((wanted, *others(rng, wanted, 2)), places, strict=True)
    ]
    question = pick(rng, STEP_WORDINGS[split]).format(" ".join(wanted))
    return Drawn(image=canvas.finished(shapes), question=question, answer=answer)


def _agent(canvas: Canvas, x: float, y: float, heading: tuple[int, int], reach: float) -> None:
    """A black arrow head about (x, y) with a white dot at its tip."""
    dx, dy = (reach * part for part in heading)
    corners = [(x + dx, y + dy), (x - 0.8 * dx - 0.75 * dy, y - 0.8 * dy + 0.75 * dx)]
    canvas.polygon([*corners, (x - 0.8 * dx + 0.75 * dy, y - 0.8 * dy - 0.75 * dx)], (20, 20, 20))
    canvas.disc(x + 0.4 * dx, y + 0.4 * dy, 0.22 * reach, (255, 255, 255))


def draw_spot(rng: np.random.Generator, split: Split) -> Drawn:
    """A road with three lanes and two to four cars, near or far; one of them is asked about."""
    look: Look = pick(rng, ROADS[split])
    horizon = number(rng, 30, 42) if split == "train" else number(rng, 44, 50)
    middle = SIDE / 2 + float(rng.uniform(-8, 8))
    canvas = Canvas(pick(rng, SKIES[split]))
    canvas.box((0, horizon, SIDE, SIDE), look.thing)

    def at(lane: float, depth: float) -> tuple[float, float]:
        """A point of the road: lane -1.5 to 1.5, depth 0 (here) to 1 (horizon)."""
        width = 31 * (1 - depth) + 2 * depth
        return SIDE / 2 * (1 - depth) + middle * depth + lane * width, SIDE + (horizon - SIDE) * depth

    canvas.polygon([at(-1.5, 0), at(1.5, 0), at(1.5, 1), at(-1.5, 1)], look.ground)
    for lane in (-0.5, 0.5):
        for start in (0.0, 0.25, 0.5, 0.75):
            stop = start + 0.13
            canvas.polygon(
                [at(lane - 0.03, start), at(lane + 0.03, start), at(lane + 0.03, stop), at(lane - 0.03, stop)],
                look.line,
            )
    spots = [int(spot) for spot in rng.permutation(len(SPOTS))[: number(rng, 2, 4)]]
    colours = shuffled(rng, CARS)[: len(spots)]
    for spot, colour in sorted(zip(spots, colours, strict=True), reverse=True):  # the far ones first
        depth = float(rng.uniform(0.1, 0.16) if spot < 3 else rng.uniform(0.5, 0.58))
        _car(canvas, *at(spot % 3 - 1, depth), 28 * (1 - depth), named_colour(rng, colour))
    question = pick(rng, SPOT_WORDINGS[split]).format(colours[0])
    return Drawn(image=canvas.finished(), question=question, answer=SPOTS[spots[0]])


def _car(canvas: Canvas, x: float, y: float, width: float, colour: Colour) -> None:
    """A car from behind; (x, y) is the middle of its lower edge."""
    half, height = width / 2, 0.8 * width
    canvas.box((x - 0.8 * half, y - height, x + 0.8 * half, y - 0.35 * height), colour, radius=2)
    canvas.box((x - 0.6 * half, y - 0.9 * height, x + 0.6 * half, y - 0.6 * height), (150, 190, 210))
    canvas.box((x - half, y - 0.55 * height, x + half, y - 0.12 * height), colour, radius=2)
    for wheel in (-0.7, 0.7):
        canvas.box((x + (wheel - 0.2) * half, y - 0.15 * height, x + (wheel + 0.2) * half, y), (25, 25, 25))
