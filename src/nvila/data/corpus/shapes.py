"""Coloured shapes: their outlines, their colours, how they are scattered over a ground and drawn.

Shapes never touch and colours differ clearly from the ground. Overlap, outlines and textures are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

from nvila.data.corpus.canvas import (
    NAMED_COLOURS,
    Colour,
    Size,
    chance,
    damage,
    distance,
    named_colour,
    number,
)
from nvila.types import LabelledBox

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "diamond")
COLOURS = tuple(NAMED_COLOURS)
SUPERSAMPLE = 2
MIDDLE = 0.5
"""Half the side in pixels of the box about a shape's middle, which nearly always lies in one patch."""
MIDDLE_LABEL = "middle:shape"


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
        """The shape's two labels with its box, clipped to the picture, and a label for its middle alone.

        The middle is what tells two shapes that lie side by side from a large one.
        """
        reach = self.radius * (0.8 if self.shape == "square" else 1.0)
        left, top = max(0.0, self.x - reach), max(0.0, self.y - reach)
        box = (left, top, min(float(size[0]), self.x + reach), min(float(size[1]), self.y + reach))
        middle = (self.x - MIDDLE, self.y - MIDDLE, self.x + MIDDLE, self.y + MIDDLE)
        return [
            LabelledBox(label=f"shape:{self.shape}", box=box),
            LabelledBox(label=f"color:{self.color}", box=box),
            LabelledBox(label=MIDDLE_LABEL, box=middle),
        ]


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
            spot = free_spot(rng, size, placed, radius)
            if spot is None:
                break
            turn = float(rng.uniform(-0.25, 0.25)) if shape in ("square", "star", "triangle") else 0.0
            rgb = named_colour(rng, color)
            placed.append(Shape(shape=shape, color=color, rgb=rgb, x=spot[0], y=spot[1], radius=radius, turn=turn))
        if len(placed) == len(kinds):
            return placed
        low, high = max(3.0, low * 0.94), max(4.0, high * 0.94)
    raise AssertionError(f"no room for {len(kinds)} shapes in {size}")


def free_spot(rng: np.random.Generator, size: Size, placed: list[Shape], radius: float) -> tuple[float, float] | None:
    for _ in range(12):
        x = float(rng.uniform(radius + 1, max(radius + 1.01, size[0] - radius - 1)))
        y = float(rng.uniform(radius + 1, max(radius + 1.01, size[1] - radius - 1)))
        if all((x - o.x) ** 2 + (y - o.y) ** 2 > (radius + o.radius + 2) ** 2 for o in placed):
            return x, y
    return None


def radii_for(size: Size, count: int) -> tuple[float, float]:
    side = min(size)
    return (side * 0.075, side * (0.22 if count <= 2 else 0.17 if count <= 4 else 0.13))


def distinct_kinds(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Kinds with distinct shapes and distinct colours, as long as these last."""
    shapes, colours = rng.permutation(len(SHAPES)), rng.permutation(len(COLOURS))
    return [(SHAPES[shapes[i % len(SHAPES)]], COLOURS[colours[i % len(COLOURS)]]) for i in range(count)]


def draw_scene(
    rng: np.random.Generator, size: Size, shapes: list[Shape], difficulty: float
) -> tuple[Image.Image, list[LabelledBox]]:
    image = Image.new("RGB", size, ground_for(rng, {item.color for item in shapes}))
    boxes = [box for item in shapes for box in item.boxes(size)]
    return damage(rng, draw_shapes(image, shapes), amount=0.6 * difficulty), boxes
