"""One slice as a picture: which plane, which way round, cut-out, turn, contrast; and labels through the same window.

A view maps a pixel (u, v) of the picture to (a, b) of the slice by `matrix`, six numbers as PIL's AFFINE takes them;
the slice's axes are the two that are not the plane's, in the order x, y, z. The upper edge is the front of the head in
an axial slice and its top otherwise. Radiological convention: the patient's right is on the picture's left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from nvila.data.build.slices.volumes import Head
from nvila.data.corpus.canvas import NAMED_COLOURS, chance, number, pick

PLANES: Mapping[str, int] = MappingProxyType({"sagittal": 0, "coronal": 1, "axial": 2})
MARK_COLOURS = ("red", "yellow", "green", "blue", "orange", "pink")


@dataclass(frozen=True, kw_only=True)
class View:
    """Where a picture looks: the plane, the slice's index, whether it is mirrored, the map from pixels to voxels."""

    head: Head
    plane: str
    index: int
    is_mirrored: bool
    """Axial and coronal: radiological convention. Sagittal: the nose points to the left."""
    matrix: tuple[float, float, float, float, float, float]
    size: tuple[int, int]

    @property
    def millimetre(self) -> float:
        """Pixels of the picture a millimetre."""
        return float(1 / np.hypot(self.matrix[0], self.matrix[3]))

    @property
    def mm(self) -> int:
        """The slice's position along its plane's axis, in mm of MNI space."""
        return self.index + self.head.offset[PLANES[self.plane]]

    def voxel(self, at: tuple[float, float]) -> tuple[float, float, float]:
        """The voxel (x, y, z) shown at a pixel."""
        a, b, c, d, e, f = self.matrix
        u, v = at[0] + 0.5, at[1] + 0.5
        place = [a * u + b * v + c - 0.5, d * u + e * v + f - 0.5]
        place.insert(PLANES[self.plane], float(self.index))
        return place[0], place[1], place[2]

    def world(self, at: tuple[float, float]) -> tuple[float, float, float]:
        """The place in mm of MNI space shown at a pixel."""
        x, y, z = (value + offset for value, offset in zip(self.voxel(at), self.head.offset, strict=True))
        return x, y, z


def choose_view(rng: np.random.Generator, head: Head, plane: str, index: int) -> View:
    """A random cut-out around the brain, turned by at most 12 degrees, 224 to 512 pixels a side."""
    axes = [axis for axis in range(3) if axis != PLANES[plane]]
    (left, right), (low, high) = (head.brain[axis] for axis in axes)
    margin = float(rng.uniform(4, 26))
    span = (right - left + 2 * margin, high - low + 2 * margin)
    scale = number(rng, 256, 512) / max(span)
    size = (max(224, round(span[0] * scale)), max(224, round(span[1] * scale)))
    shift = rng.uniform(-0.5, 0.5, 2) * margin
    centre = ((left + right) / 2 + float(shift[0]), (low + high) / 2 + float(shift[1]))
    turn = float(np.deg2rad(rng.uniform(-12, 12))) if chance(rng, 0.5) else 0.0
    is_mirrored = chance(rng, 0.5)
    flip = -1.0 if is_mirrored else 1.0
    cosine, sine = float(np.cos(turn)) / scale, float(np.sin(turn)) / scale
    # u grows to the right along +a (or -a when mirrored); v grows downwards, against b.
    rows = ((flip * cosine, flip * sine), (sine, -cosine))
    offsets = [centre[axis] + 0.5 - rows[axis][0] * size[0] / 2 - rows[axis][1] * size[1] / 2 for axis in range(2)]
    matrix = (rows[0][0], rows[0][1], offsets[0], rows[1][0], rows[1][1], offsets[1])
    return View(head=head, plane=plane, index=index, is_mirrored=is_mirrored, matrix=matrix, size=size)


def look(view: View, volume: NDArray[np.uint8], *, smooth: bool) -> NDArray[np.uint8]:
    """The slice through the window: (H, W) uint8, bicubic for brightness, nearest voxel for labels."""
    flat = np.take(volume, view.index, axis=PLANES[view.plane])
    image = Image.fromarray(np.ascontiguousarray(flat.T))
    how = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return np.asarray(image.transform(view.size, Image.Transform.AFFINE, view.matrix, how))


def develop(rng: np.random.Generator, brightness_HW: NDArray[np.uint8], brain_HW: NDArray[np.uint8]) -> Image.Image:
    """The slice as RGB with a random window and gamma, now and then without what is not brain."""
    inside = brightness_HW[brain_HW > 0]
    top = float(np.percentile(inside, 99)) * float(rng.uniform(0.95, 1.5))
    bottom = float(rng.uniform(0, 0.25)) * float(np.percentile(inside, 5))
    shown = np.clip((brightness_HW - bottom) / max(top - bottom, 1.0), 0, 1) ** float(rng.uniform(0.75, 1.35))
    if chance(rng, 0.25):
        shown = shown * (brain_HW > 0)
    if chance(rng, 0.3):
        shown = np.clip(shown + rng.normal(0, rng.uniform(0.005, 0.03), shown.shape), 0, 1)
    return Image.fromarray((shown * 255).astype(np.uint8)).convert("RGB")


def write_sides(image: Image.Image, view: View) -> None:
    """The letters L and R at the sides of an axial or coronal slice, as scanners print them."""
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(max(14, image.width // 20))
    left, right = ("R", "L") if view.is_mirrored else ("L", "R")
    draw.text((6, image.height // 2), left, font=font, anchor="lm", fill="white", stroke_width=1, stroke_fill="black")
    at = (image.width - 6, image.height // 2)
    draw.text(at, right, font=font, anchor="rm", fill="white", stroke_width=1, stroke_fill="black")


def write_mark(rng: np.random.Generator, image: Image.Image, at: tuple[int, int]) -> str:
    """A coloured mark whose middle is the point meant; returns how to speak of it."""
    color, shape = pick(rng, MARK_COLOURS), pick(rng, ("cross", "circle", "dot", "crosshair"))
    ink, (x, y), draw = NAMED_COLOURS[color], at, ImageDraw.Draw(image)
    if shape == "dot":
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=ink, outline="black")
    elif shape == "circle":
        draw.ellipse((x - 7, y - 7, x + 7, y + 7), outline=ink, width=2)
    elif shape == "cross":
        draw.line((x - 5, y, x + 5, y), fill=ink, width=2)
        draw.line((x, y - 5, x, y + 5), fill=ink, width=2)
    else:
        for start, end in ((-24, -6), (6, 24)):
            draw.line((x + start, y, x + end, y), fill=ink, width=2)
            draw.line((x, y + start, x, y + end), fill=ink, width=2)
    where = "in the middle of" if shape in ("circle", "crosshair") else "at"
    return f"{where} the {color} {shape}"


def write_outline(rng: np.random.Generator, image: Image.Image, mask_HW: NDArray[np.bool_]) -> str:
    """The contour of a region in a colour, just outside of it; returns how to speak of it."""
    color = pick(rng, MARK_COLOURS)
    wide = mask_HW.copy()
    wide[1:] |= mask_HW[:-1]
    wide[:-1] |= mask_HW[1:]
    wide[:, 1:] |= mask_HW[:, :-1]
    wide[:, :-1] |= mask_HW[:, 1:]
    image.paste(NAMED_COLOURS[color], (0, 0), Image.fromarray(((wide & ~mask_HW) * 255).astype(np.uint8)))
    return f"outlined in {color}"
