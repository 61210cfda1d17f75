"""What the drawn tasks of Table 5 share: a canvas that draws larger and reduces, looks, and pairs of colour and shape.

Lengths are pixels of the finished picture, one tile of 112.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from nvila.data.corpus.canvas import Colour, named_colour
from nvila.data.corpus.shapes import Shape, draw_shapes
from nvila.data.corpus.splits import Split, bucket

SIDE = 112
_SCALE = 2
Kind = tuple[str, str]
"""A colour and a shape."""
KINDS: tuple[Kind, ...] = tuple(
    (colour, shape)
    for colour in ("red", "orange", "green", "blue", "purple", "pink")
    for shape in ("circle", "square", "triangle", "star", "heart", "diamond")
)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A picture (RGB), the question about it, and the answer."""

    image: Image.Image
    question: str
    answer: str


@dataclass(frozen=True)
class Look:
    """Colours of a ground, of things on it (bars, walls, verges), and of lines or fields."""

    ground: Colour
    thing: Colour
    line: Colour


class Canvas:
    """A picture being drawn. Boxes are left, top, right, bottom."""

    def __init__(self, ground: Colour) -> None:
        self._image = Image.new("RGB", (SIDE * _SCALE, SIDE * _SCALE), ground)
        self._draw = ImageDraw.Draw(self._image)

    def box(
        self, box: Sequence[float], fill: Colour | None, *, radius: float = 0.0, outline: Colour | None = None
    ) -> None:
        """A rectangle, its corners rounded; none where it has no area."""
        left, top, right, bottom = (_SCALE * value for value in box)
        if right - left >= 1 and bottom - top >= 1:
            place = (left, top, right - 1, bottom - 1)
            self._draw.rounded_rectangle(place, _SCALE * radius, fill=fill, outline=outline, width=2 * _SCALE)

    def polygon(self, points: Sequence[tuple[float, float]], fill: Colour) -> None:
        """A filled polygon."""
        self._draw.polygon([(_SCALE * x, _SCALE * y) for x, y in points], fill=fill)

    def disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        """A filled circle."""
        self._draw.ellipse([_SCALE * value for value in (x - radius, y - radius, x + radius, y + radius)], fill=fill)

    def line(self, points: Sequence[tuple[float, float]], fill: Colour, width: float) -> None:
        """Joined strokes."""
        self._draw.line([(_SCALE * x, _SCALE * y) for x, y in points], fill, round(_SCALE * width), joint="curve")

    def finished(self, shapes: Sequence[Shape] = ()) -> Image.Image:
        """The picture with shapes on it."""
        return draw_shapes(self._image.reduce(_SCALE), list(shapes))


def kinds_of(split: Split) -> list[Kind]:
    """The pairs that may be asked about on one side: one in four is held out."""
    return [kind for kind in KINDS if (bucket("pair", " ".join(kind), 4) == 0) == (split == "heldout")]


def shape_at(rng: np.random.Generator, kind: Kind, x: float, y: float, radius: float) -> Shape:
    """A shape of that kind with its middle at (x, y), in a variation of its colour."""
    colour, shape = kind
    return Shape(shape=shape, color=colour, rgb=named_colour(rng, colour), x=x, y=y, radius=radius)


def others(rng: np.random.Generator, wanted: Kind, count: int) -> list[Kind]:
    """Other kinds, all different; half of them share colour or shape with what is wanted."""
    alike = [kind for kind in KINDS if kind != wanted and (kind[0] == wanted[0] or kind[1] == wanted[1])]
    unlike = [kind for kind in KINDS if kind[0] != wanted[0] and kind[1] != wanted[1]]
    half = -(-count // 2)
    return shuffled(rng, [*shuffled(rng, alike)[:half], *shuffled(rng, unlike)[: count - half]])


def shuffled(rng: np.random.Generator, items: Sequence[Any]) -> list[Any]:
    """The items in a random order."""
    return [items[int(place)] for place in rng.permutation(len(items))]
