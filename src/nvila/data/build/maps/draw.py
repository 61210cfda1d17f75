"""Draws a map anew from its labels: colours, borders, marks, names, numbers, and a legend at its side.

Labels are scaled by nearest neighbour, so that every pixel still belongs to one region. All places are in pixels of
the finished picture; a legend is added to the right or below and moves nothing. H, W are picture rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from nvila.data.build.maps.atlas import MapSheet, contacts, label_boxes
from nvila.data.build.maps.fonts import FONT_FILES, open_font
from nvila.data.corpus.canvas import Colour, chance, distance, luminance, number, pick

MIN_SIDE = 160
LEAST_BORDER = 6
"""Pixels (of the source) along which two regions must touch to count as neighbours; fewer make the pair doubtful."""
LINE_COLOURS: tuple[Colour, ...] = ((0, 0, 0), (60, 60, 60), (90, 80, 70), (255, 255, 255))
NEAR = 4
"""Regions that do not touch but come this near (in pixels of the source) are doubtful, too."""
MARKS = ("dot", "star", "cross", "square", "arrow")

Box = tuple[int, int, int, int]


@dataclass(kw_only=True)
class Scaled:
    """A map at the size at which it is shown. `origin`: where the map's corner lies on its margin."""

    sheet: MapSheet
    labels_HW: NDArray[np.uint8]
    scale: float
    origin: tuple[int, int]
    borders: frozenset[tuple[int, int]]
    doubtful: frozenset[tuple[int, int]]
    """Pairs that touch so little that nobody could tell, nearly touch, or touch at one of the two sizes only."""
    taken: list[Box] = field(default_factory=list)
    """Where text already stands: no second one is put on top."""

    def box(self, label: int) -> Box:
        """(left, top, right, bottom) of a region in the picture."""
        left, top, right, bottom = self._boxes[label].tolist()
        return left, top, right, bottom

    @cached_property
    def _boxes(self) -> NDArray[np.int64]:
        return label_boxes(self.labels_HW)

    def anchor(self, label: int) -> tuple[int, int]:
        """The point deepest inside a region, in the picture."""
        x, y = self.sheet.regions[label].anchor
        return int((x + 0.5) * self.scale) + self.origin[0], int((y + 0.5) * self.scale) + self.origin[1]

    def depth(self, label: int) -> float:
        """How far the anchor is from the border, in pixels of the picture."""
        return self.sheet.regions[label].depth * self.scale


def neighbours(scaled: Scaled, label: int) -> list[int] | None:
    """The divisions that border a division, or None when that cannot be told with certainty."""
    regions = scaled.sheet.regions
    pairs = [pair for pair in scaled.doubtful if label in pair]
    if any(regions[sum(pair) - label].place == "division" for pair in pairs):
        return None
    others = sorted(sum(pair) - label for pair in scaled.borders if label in pair)
    return [other for other in others if regions[other].place == "division"]


def scale_map(sheet: MapSheet, labels_HW: NDArray[np.uint8], longest: int) -> Scaled:
    """The map with its longer side `longest`; a very narrow one gets a margin of the region at its edge."""
    height, width = labels_HW.shape
    scale = longest / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(labels_HW).resize(size, Image.Resampling.NEAREST))
    source, shown = contacts(labels_HW), contacts(small)
    sure = frozenset(pair for pair, count in source.items() if count >= LEAST_BORDER and shown.get(pair, 0) >= 3)
    left, top = (max(0, MIN_SIDE - size[0]) + 1) // 2, (max(0, MIN_SIDE - size[1]) + 1) // 2
    return Scaled(
        sheet=sheet,
        labels_HW=np.pad(small, ((top, top), (left, left)), constant_values=_edge_label(sheet, small)),
        scale=scale,
        origin=(left, top),
        borders=sure,
        doubtful=frozenset(pair for pair in (*source, *shown, *contacts(labels_HW, NEAR)) if pair not in sure),
    )


def _edge_label(sheet: MapSheet, labels_HW: NDArray[np.uint8]) -> int:
    """The water or outside region that has most of the picture's edge, or else the most frequent of the edge."""
    edge = np.concatenate([labels_HW[0], labels_HW[-1], labels_HW[:, 0], labels_HW[:, -1]])
    is_outer = np.asarray([region.place in ("water", "outside") for region in sheet.regions])
    outer = edge[is_outer[edge]]
    return int(np.bincount(outer if len(outer) else edge).argmax())


def choose_colours(rng: np.random.Generator, scaled: Scaled, style: str) -> list[Colour]:
    """A colour a region. `style`: source (as in the package), pastel (neighbours differ), or uniform land."""
    regions = scaled.sheet.regions
    if style == "source":
        return [region.color for region in regions]
    level = number(rng, 205, 235)
    outside: Colour = (level, level, level)
    water: Colour = pick(rng, ((170, 200, 225), (140, 180, 220), (200, 220, 235), (255, 255, 255), (90, 130, 180)))
    land: Colour = pick(rng, ((238, 232, 213), (250, 245, 225), (225, 230, 205), (245, 225, 205), (210, 205, 195)))
    colours = [water if region.place == "water" else outside for region in regions]
    for label, region in enumerate(regions):
        if region.place == "division":
            others = [sum(pair) - label for pair in scaled.borders if label in pair]
            beside = [colours[other] for other in others if other < label]
            colours[label] = land if style == "uniform" else _pastel(rng, beside)
    return colours


def _pastel(rng: np.random.Generator, beside: list[Colour]) -> Colour:
    """A light colour that differs from the colours given, as far as twelve draws allow."""
    best: Colour = (230, 230, 230)
    best_gap = -1.0
    for _ in range(12):
        red, green, blue = (int(value) for value in rng.integers(120, 251, 3))
        gap = min((distance((red, green, blue), other) for other in beside), default=999.0)
        if gap > best_gap:
            best, best_gap = (red, green, blue), gap
        if gap > 70:
            break
    return best


def paint_map(rng: np.random.Generator, scaled: Scaled, colours: list[Colour]) -> Image.Image:
    """The map as RGB with thin borders between its regions, and none between the parts of the outside."""
    labels = scaled.labels_HW
    pixels = np.asarray(colours, dtype=np.uint8)[labels]
    is_land = np.asarray([region.place == "division" for region in scaled.sheet.regions])[labels]
    line = np.zeros(labels.shape, dtype=bool)
    line[:, :-1] |= (labels[:, :-1] != labels[:, 1:]) & (is_land[:, :-1] | is_land[:, 1:])
    line[:-1] |= (labels[:-1] != labels[1:]) & (is_land[:-1] | is_land[1:])
    if max(labels.shape) > 500 and chance(rng, 0.5):
        line[:, 1:] |= line[:, :-1].copy()
    pixels[line] = pick(rng, LINE_COLOURS) if chance(rng, 0.3) else (20, 20, 20)
    return Image.fromarray(pixels)


def draw_mark(image: Image.Image, shape: str, at: tuple[int, int], radius: int, colour: Colour) -> None:
    """A small mark with its centre (an arrow: its tip) at a point, edged so that it shows on any ground."""
    draw = ImageDraw.Draw(image)
    x, y = at
    edge = "white" if luminance(colour) < 128 else "black"
    if shape == "dot":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=edge)
    elif shape == "square":
        draw.rectangle((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=edge)
    elif shape == "cross":
        for width, ink in ((5, edge), (3, colour)):
            draw.line((x - radius, y - radius, x + radius, y + radius), fill=ink, width=width)
            draw.line((x - radius, y + radius, x + radius, y - radius), fill=ink, width=width)
    elif shape == "star":
        turns = np.arange(10) * np.pi / 5 - np.pi / 2
        reach = np.where(np.arange(10) % 2 == 0, radius * 1.4, radius * 0.6)
        points = list(zip((x + reach * np.cos(turns)).tolist(), (y + reach * np.sin(turns)).tolist(), strict=True))
        draw.polygon(points, fill=colour, outline=edge)
    else:
        assert shape == "arrow", shape
        _draw_arrow(draw, image.size, at, colour, edge)


def _draw_arrow(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], at: tuple[int, int], colour: Colour, edge: str
) -> None:
    """An arrow whose tip is at a point, coming from the middle of the picture's farther side."""
    x, y = at
    way = (1 if x < size[0] / 2 else -1, 1 if y < size[1] / 2 else -1)
    length = 0.12 * min(size) + 10
    tail = (x + way[0] * length, y + way[1] * length)
    for width, ink in ((6, edge), (4, colour)):
        draw.line((x + way[0] * 4, y + way[1] * 4, *tail), fill=ink, width=width)
    head = [(x, y), (x + way[0] * 12, y + way[1] * 3), (x + way[0] * 3, y + way[1] * 12)]
    draw.polygon(head, fill=colour, outline=edge)


def choose_font(rng: np.random.Generator, folder: Path, size: int) -> ImageFont.FreeTypeFont:
    """A random face of the material at `size` pixels."""
    return open_font(folder, pick(rng, FONT_FILES), size)


def write_name(image: Image.Image, scaled: Scaled, label: int, text: str, font: ImageFont.FreeTypeFont) -> bool:
    """Write a name over its region's anchor, and say whether there was room: inside the picture, on no other text."""
    draw = ImageDraw.Draw(image)
    x, y = scaled.anchor(label)
    left, top, right, bottom = (int(value) for value in draw.textbbox((x, y), text, font=font, anchor="mm"))
    region = scaled.box(label)
    if right - left > 1.1 * (region[2] - region[0]) or bottom - top > 0.8 * (region[3] - region[1]):
        return False
    return write_free(image, scaled, (left, top, right, bottom), (x, y), text, font)


def write_free(
    image: Image.Image,
    scaled: Scaled,
    box: Box,
    at: tuple[int, int],
    text: str,
    font: ImageFont.FreeTypeFont,
) -> bool:
    """Write haloed text centred at a point where `box` is inside the picture and on no text written before."""
    left, top, right, bottom = box
    if left < 1 or top < 1 or right > image.width - 1 or bottom > image.height - 1:
        return False
    if any(left - 2 < r and right + 2 > l and top - 2 < b and bottom + 2 > t for l, t, r, b in scaled.taken):  # noqa: E741
        return False
    scaled.taken.append(box)
    draw = ImageDraw.Draw(image)
    draw.text(at, text, font=font, anchor="mm", fill="black", stroke_width=2, stroke_fill="white")
    return True


def write_badge(image: Image.Image, scaled: Scaled, label: int, text: str, font: ImageFont.FreeTypeFont) -> bool:
    """A number in a small white disc over a region's anchor, where there is room for it."""
    x, y = scaled.anchor(label)
    radius = round(font.size * 0.75)
    box = (x - radius, y - radius, x + radius, y + radius)
    if radius > 1.6 * scaled.depth(label) + 2 or not write_free(image, scaled, box, (x, y), "", font):
        return False
    draw = ImageDraw.Draw(image)
    draw.ellipse(box, fill="white", outline="black")
    draw.text((x, y), text, font=font, anchor="mm", fill="black")
    return True


def add_legend(
    rng: np.random.Generator, image: Image.Image, rows: list[tuple[Colour | str, str]], font: ImageFont.FreeTypeFont
) -> Image.Image:
    """The picture with a panel to the right or below: a colour patch or a number, and a name, in each row."""
    step = round(font.size * 1.5)
    wide = max(round(font.getlength(name)) for _, name in rows) + 3 * step
    beside = image.height >= image.width * 0.8 or wide > image.width
    tall = step * (len(rows) + 1)
    size = (image.width + wide, max(image.height, tall)) if beside else (max(image.width, wide), image.height + tall)
    panel = Image.new("RGB", size, (255, 255, 255) if chance(rng, 0.7) else (245, 242, 230))
    panel.paste(image, (0, 0))
    left, top = (image.width + step // 2, step // 2) if beside else (step // 2, image.height + step // 2)
    draw = ImageDraw.Draw(panel)
    for index, (key, name) in enumerate(rows):
        y = top + index * step
        if isinstance(key, str):
            draw.text((left + step // 2, y + step // 2), key, font=font, anchor="mm", fill="black")
        else:
            draw.rectangle((left, y + 2, left + step - 4, y + step - 2), fill=key, outline="black")
        draw.text((left + step + 4, y + step // 2), name, font=font, anchor="lm", fill="black")
    return panel
