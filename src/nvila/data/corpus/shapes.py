"""Coloured shapes on a plain ground: how many, which colour, which shape, where, which is bigger, of which more.

Shapes never touch, colours differ clearly from the ground, and questions are asked only where the answer is
unambiguous (one shape of the kind, a clear direction, a clear difference in size). Overlap, outlines and
textures are left out. Held-out samples differ by wording and seed: all shapes and colours are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

from nvila.data.corpus.assets import Assets
from nvila.data.corpus.canvas import (
    NAMED_COLOURS,
    Colour,
    Size,
    chance,
    damage,
    distance,
    make_sample,
    named_colour,
    number,
    pick,
)
from nvila.data.corpus.phrasing import phrase
from nvila.data.corpus.splits import Split
from nvila.types import LabelledBox, Sample

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "diamond")
COLOURS = tuple(NAMED_COLOURS)
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
SUPERSAMPLE = 2
RELATIONS = {"left": "left of", "right": "right of", "above": "above", "below": "below"}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One shape: centre and radius in pixels, `turn` in radians."""

    shape: str
    color: str
    rgb: Colour
    x: float
    y: float
    radius: float
    turn: float = 0.0

    @property
    def name(self) -> str:
        """Colour and shape, such as `red circle`."""
        return f"{self.color} {self.shape}"

    def boxes(self, size: Size) -> list[LabelledBox]:
        """The shape's two labels with its box, clipped to the picture."""
        reach = self.radius * (0.8 if self.shape == "square" else 1.0)
        left, top = max(0.0, self.x - reach), max(0.0, self.y - reach)
        box = (left, top, min(float(size[0]), self.x + reach), min(float(size[1]), self.y + reach))
        return [LabelledBox(label=f"shape:{self.shape}", box=box), LabelledBox(label=f"color:{self.color}", box=box)]


def _ring(num: int, radius: float, turn: float) -> list[tuple[float, float]]:
    return [(radius * cos(turn + 2 * pi * i / num), radius * sin(turn + 2 * pi * i / num)) for i in range(num)]


def _outline(shape: str, radius: float, turn: float) -> list[tuple[float, float]]:
    """The corner points of a shape about the origin; y grows downwards."""
    if shape == "square":
        return _ring(4, radius * 1.05, turn + pi / 4)
    if shape == "triangle":
        return _ring(3, radius, turn - pi / 2)
    if shape == "diamond":
        return [(0, -radius), (0.68 * radius, 0), (0, radius), (-0.68 * radius, 0)]
    if shape == "star":
        outer, inner = _ring(5, radius, turn - pi / 2), _ring(5, radius * 0.42, turn - pi / 2 + pi / 5)
        return [point for pair in zip(outer, inner, strict=True) for point in pair]
    if shape == "cross":
        a, b = radius * 0.95, radius * 0.32
        return [
            (-b, -a),
            (b, -a),
            (b, -b),
            (a, -b),
            (a, b),
            (b, b),
            (b, a),
            (-b, a),
            (-b, b),
            (-a, b),
            (-a, -b),
            (-b, -b),
        ]
    assert shape == "heart", shape
    points = []
    for i in range(24):
        t = 2 * pi * i / 24
        y = -(13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t)) / 16
        points.append((radius * sin(t) ** 3 * 0.98, radius * y * 0.98))
    return points


def draw_shapes(image: Image.Image, shapes: list[Shape]) -> Image.Image:
    """A copy of an RGB picture with the shapes drawn on it, smooth-edged."""
    width, height = image.size
    large = image.resize((width * SUPERSAMPLE, height * SUPERSAMPLE), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(large)
    for item in shapes:
        x, y, radius = item.x * SUPERSAMPLE, item.y * SUPERSAMPLE, item.radius * SUPERSAMPLE
        if item.shape == "circle":
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=item.rgb)
        else:
            draw.polygon([(x + dx, y + dy) for dx, dy in _outline(item.shape, radius, item.turn)], fill=item.rgb)
    return large.reduce(SUPERSAMPLE)


def ground_for(rng: np.random.Generator, colours: set[str]) -> Colour:
    """A plain ground that every one of the colours stands out from."""
    for _ in range(30):
        level = number(rng, 225, 255) if chance(rng, 0.6) else number(rng, 0, 255)
        tint = rng.integers(-14, 15, 3) if chance(rng, 0.7) else rng.integers(-60, 61, 3)
        red, green, blue = (min(255, max(0, level + int(d))) for d in tint)
        if all(distance((red, green, blue), NAMED_COLOURS[name]) > 95 for name in colours):
            return (red, green, blue)
    return max(((255, 255, 255), (0, 0, 0), (70, 70, 70), (190, 190, 190), (60, 110, 110), (200, 220, 180)),
               key=lambda rgb: min(distance(rgb, NAMED_COLOURS[name]) for name in colours))  # fmt: skip


def scatter(
    rng: np.random.Generator, size: Size, kinds: list[tuple[str, str]], radii: tuple[float, float]
) -> list[Shape]:
    """Place (shape, colour) kinds without touching; radii shrink until all fit."""
    low, high = radii
    for _ in range(60):
        placed: list[Shape] = []
        for shape, color in kinds:
            radius = float(rng.uniform(low, high))
            spot = _free_spot(rng, size, placed, radius)
            if spot is None:
                break
            turn = float(rng.uniform(-0.25, 0.25)) if shape in ("square", "star", "triangle") else 0.0
            rgb = named_colour(rng, color)
            placed.append(Shape(shape=shape, color=color, rgb=rgb, x=spot[0], y=spot[1], radius=radius, turn=turn))
        if len(placed) == len(kinds):
            return placed
        low, high = max(3.0, low * 0.94), max(4.0, high * 0.94)
    raise AssertionError(f"no room for {len(kinds)} shapes in {size}")


def _free_spot(rng: np.random.Generator, size: Size, placed: list[Shape], radius: float) -> tuple[float, float] | None:
    for _ in range(12):
        x = float(rng.uniform(radius + 1, max(radius + 1.01, size[0] - radius - 1)))
        y = float(rng.uniform(radius + 1, max(radius + 1.01, size[1] - radius - 1)))
        if all((x - o.x) ** 2 + (y - o.y) ** 2 > (radius + o.radius + 2) ** 2 for o in placed):
            return x, y
    return None


def _radii(size: Size, count: int) -> tuple[float, float]:
    side = min(size)
    return (side * 0.075, side * (0.22 if count <= 2 else 0.17 if count <= 4 else 0.13))


def _kinds(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Kinds with distinct shapes and distinct colours, as long as these last."""
    shapes, colours = rng.permutation(len(SHAPES)), rng.permutation(len(COLOURS))
    return [(SHAPES[shapes[i % len(SHAPES)]], COLOURS[colours[i % len(COLOURS)]]) for i in range(count)]


def _finish(
    rng: np.random.Generator, size: Size, shapes: list[Shape], difficulty: float
) -> tuple[Image.Image, list[LabelledBox]]:
    image = Image.new("RGB", size, ground_for(rng, {item.color for item in shapes}))
    boxes = [box for item in shapes for box in item.boxes(size)]
    return damage(rng, draw_shapes(image, shapes), amount=0.6 * difficulty), boxes


def plural(name: str, count: int = 2) -> str:
    """`name` as a plural unless `count` is 1."""
    return name if count == 1 else name + ("es" if name.endswith(("s", "x")) else "s")


def make_count(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """Counting: all shapes, those of a kind, of a colour, or of a colour and kind; 1 to 6, sometimes up to 9.

    At low difficulty often 1 to 3, and nothing else in the picture.
    """
    easy = not chance(rng, difficulty)
    count = number(rng, 1, 3) if easy else number(rng, 1, 6) if chance(rng, 0.88) else number(rng, 7, 9)
    target = (pick(rng, SHAPES), pick(rng, COLOURS))
    ask = pick(rng, ("shape", "color", "both", "all"))
    others = 0 if easy or ask == "all" or chance(rng, 0.4) else number(rng, 1, 4)
    kinds = []
    for _ in range(count):
        shape = target[0] if ask in ("shape", "both") else pick(rng, SHAPES)
        color = target[1] if ask in ("color", "both") else pick(rng, COLOURS)
        kinds.append((shape, color))
    while len(kinds) < count + others:
        kind = (pick(rng, SHAPES), pick(rng, COLOURS))
        if not _matches(kind, target, ask):
            kinds.append(kind)
    if ask in ("shape", "all") and chance(rng, 0.5):
        kinds = [(shape, target[1]) for shape, _ in kinds]
    shapes = scatter(rng, size, kinds, _radii(size, len(kinds)))
    image, boxes = _finish(rng, size, shapes, difficulty)
    name = {"shape": target[0], "color": f"{target[1]} shape", "both": f"{target[1]} {target[0]}", "all": "shape"}[ask]
    if ask in ("color", "all") and chance(rng, 0.3):
        name = name.replace("shape", "object")
    question = phrase(rng, split, "count", things=plural(name))
    return make_sample(
        image, question, str(count), task="count", objects=boxes, answers=[str(count), NUMBER_WORDS[count]],
        ask=ask, target=list(target),
    )  # fmt: skip


def _matches(kind: tuple[str, str], target: tuple[str, str], ask: str) -> bool:
    same_shape, same_color = kind[0] == target[0], kind[1] == target[1]
    return {"shape": same_shape, "color": same_color, "both": same_shape and same_color, "all": True}[ask]


def make_color(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """The colour of the only shape of its kind among one to five; at low difficulty it is often alone."""
    count = number(rng, 1, 5) if chance(rng, difficulty) else 1
    kinds = _kinds(rng, count)
    image, boxes = _finish(rng, size, scatter(rng, size, kinds, _radii(size, count)), difficulty)
    shape, color = kinds[0]
    answers = [color, "grey"] if color == "gray" else [color]
    return make_sample(
        image, phrase(rng, split, "color", shape=shape), color, task="color", objects=boxes, answers=answers
    )


def make_shape(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """The shape of the only one of its colour among one to five; at low difficulty it is often alone."""
    count = number(rng, 1, 5) if chance(rng, difficulty) else 1
    kinds = _kinds(rng, count)
    image, boxes = _finish(rng, size, scatter(rng, size, kinds, _radii(size, count)), difficulty)
    shape, color = kinds[0]
    answers = [shape, f"{color} {shape}"]
    return make_sample(
        image, phrase(rng, split, "shape", color=color), shape, task="shape", objects=boxes, answers=answers
    )


def direction_of(first: Shape, second: Shape) -> str | None:
    """Where `first` is seen from `second`: left, right, above, below; None when it is not clear."""
    dx, dy = first.x - second.x, first.y - second.y
    if abs(dx) > 1.8 * abs(dy):
        return "right" if dx > 0 else "left"
    if abs(dy) > 1.8 * abs(dx):
        return "below" if dy > 0 else "above"
    return None


def make_position(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """Two shapes (for yes/no and `where`, up to four): is A left of B, what is left of B, where is A seen from B."""
    ask = pick(rng, ("relation", "neighbour", "where"))
    count = 2 if ask == "neighbour" or not chance(rng, difficulty) else number(rng, 2, 4)
    kinds = _kinds(rng, count)
    shapes = scatter(rng, size, kinds, _radii(size, count))
    while (where := direction_of(shapes[0], shapes[1])) is None:
        shapes = scatter(rng, size, kinds, _radii(size, count))
    image, boxes = _finish(rng, size, shapes, difficulty)
    first, second = _refer(rng, shapes[0]), _refer(rng, shapes[1])
    if ask == "neighbour":
        question = phrase(rng, split, "neighbour", relation=_relation(rng, where), b=second)
        answer, answers = shapes[0].name, [shapes[0].name, shapes[0].shape]
    elif ask == "where":
        question = phrase(rng, split, "where", a=first, b=second)
        answer, answers = where, [where, f"{RELATIONS[where]} the {second}"]
    else:
        opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}[where]
        asked = where if chance(rng, 0.5) else opposite
        question = phrase(rng, split, "relation", a=first, b=second, relation=_relation(rng, asked))
        answer = "yes" if asked == where else "no"
        answers = [answer]
    return make_sample(image, question, answer, task="position", objects=boxes, answers=answers, ask=ask, where=where)


def _relation(rng: np.random.Generator, where: str) -> str:
    if where in ("left", "right") and chance(rng, 0.4):
        return f"to the {where} of"
    return RELATIONS[where]


def _refer(rng: np.random.Generator, item: Shape) -> str:
    return item.name if chance(rng, 0.6) else item.shape


def make_compare(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """Which of two is bigger or smaller, which of several is the biggest, of which colour there are more."""
    ask = pick(rng, ("bigger", "biggest", "more"))
    if ask == "more":
        return _compare_numbers(rng, split, size, difficulty)
    count = 2 if ask == "bigger" else number(rng, 3, 4)
    kinds = _kinds(rng, count)
    big = chance(rng, 0.6)
    side = min(size)
    plain = (side * 0.075, side * 0.11) if big else (side * 0.16, side * 0.2)
    special = (side * 0.17, side * 0.24) if big else (side * 0.07, side * 0.1)
    shapes = scatter(rng, size, kinds[:1], special)
    while len(shapes) < count:
        radius = float(rng.uniform(*plain))
        spot = _free_spot(rng, size, shapes, radius)
        if spot is None:
            shapes = scatter(rng, size, kinds[:1], special)
            continue
        shape, color = kinds[len(shapes)]
        shapes.append(
            Shape(shape=shape, color=color, rgb=named_colour(rng, color), x=spot[0], y=spot[1], radius=radius)
        )
    image, boxes = _finish(rng, size, shapes, difficulty)
    answers = [shapes[0].name, shapes[0].shape]
    if ask == "bigger":
        pair = [shapes[0].name, shapes[1].name]
        first, second = pair if chance(rng, 0.5) else pair[::-1]
        word = pick(rng, ("bigger", "larger")) if big else "smaller"
        question = phrase(rng, split, "bigger", bigger=word, a=first, b=second)
    else:
        question = phrase(rng, split, "biggest", biggest=pick(rng, ("biggest", "largest")) if big else "smallest")
    return make_sample(image, question, answers[0], task="compare", objects=boxes, answers=answers, ask=ask, big=big)


def _compare_numbers(rng: np.random.Generator, split: Split, size: Size, difficulty: float) -> Sample:
    fewer = number(rng, 1, 3)
    counts = (fewer + number(rng, 1, 3), fewer)
    by_color = chance(rng, 0.5)
    names = rng.permutation(len(COLOURS) if by_color else len(SHAPES))[:2]
    winner, loser = ((COLOURS if by_color else SHAPES)[int(i)] for i in names)
    kinds = []
    for name, count in zip((winner, loser), counts, strict=True):
        kinds += [(pick(rng, SHAPES), name) if by_color else (name, pick(rng, COLOURS)) for _ in range(count)]
    image, boxes = _finish(rng, size, scatter(rng, size, kinds, _radii(size, len(kinds))), difficulty)
    labels = [f"{name} shapes" if by_color else plural(name) for name in (winner, loser)]
    first, second = labels if chance(rng, 0.5) else labels[::-1]
    question = phrase(rng, split, "more", a=first, b=second)
    answers = [labels[0], winner]
    return make_sample(image, question, labels[0], task="compare", objects=boxes, answers=answers, ask="more")
