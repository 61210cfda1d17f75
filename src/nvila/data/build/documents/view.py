"""A picture of a page or of a part of one, and where its words are in it.

A picture shows the page at a readable scale. Lines keep only words that lie wholly inside; a line that loses a word
to the border is no longer whole, and questions about whole lines leave it out. Boxes that questions and answers
speak of are [x1, y1, x2, y2] in thousandths of the picture's width and height, whole numbers 0..1000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from nvila.data.build.documents.layout import Box, Line, Word, around, follows
from nvila.data.corpus.canvas import NAMED_COLOURS, Size, chance, damage, number, pick

MARK_COLOURS = ("red", "blue", "green", "orange", "purple")
_SHORTEST_LETTER = 9.0
"""Pixels of font size below which a line is not asked about."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What is seen: the picture, its whole lines, the words that are cut or not sane, and what is marked."""

    image: Image.Image
    lines: tuple[Line, ...]
    """Lines that are sane and whole, in reading order, boxes in pixels."""
    others: tuple[Word, ...]
    """All further words that touch the picture, clipped to it: of cut lines, and of lines that are not sane."""
    paragraphs: tuple[tuple[int, ...], ...]
    """Runs of at least one line of the same paragraph, as indices into `lines`."""
    whole_page: bool
    page_number: str | None

    @property
    def words(self) -> list[Word]:
        """Every word that touches the picture."""
        return [*(word for line in self.lines for word in line.words), *self.others]


@dataclass(frozen=True)
class Window:
    """Which pixels of a page are shown: the page drawn `page` pixels large, seen through (left, top, right, bottom)."""

    page: Size
    box: tuple[int, int, int, int]


def choose_window(rng: np.random.Generator, size: tuple[float, float], lines: Sequence[Line]) -> Window:
    """A whole page (one in four) or a part around a sane line, at a scale that can be read.

    `size`: the page's (width, height) in points.
    """
    if chance(rng, 0.25):
        page = _page_pixels(size, min(number(rng, 560, 760), 1340 * size[0] / size[1]) / size[0])
        return Window(page, (0, 0, *page))
    sane = [line for line in lines if line.sane]
    anchor: Line = pick(rng, [line for line in sane if len(line.words) >= 4] or sane)
    scale = float(rng.uniform(12.5, 21.0)) / min(max(anchor.size, 7.0), 14.0)
    page = _page_pixels(size, scale)
    block = around([line.box for line in sane if abs(line.box[1] - anchor.box[1]) < 250 / scale])
    most_wide = min(page[0], 896)
    width = min(most_wide, max(number(rng, 288, 672), round((anchor.box[2] - anchor.box[0]) * scale) + 24))
    height = min(page[1], number(rng, 224, 672))
    left = anchor.box[0] * scale - number(rng, 8, 24) if chance(rng, 0.7) else block[0] * scale - number(rng, 4, 40)
    top = (anchor.box[1] + anchor.box[3]) / 2 * scale - height * float(rng.uniform(0.15, 0.85))
    left, top = min(max(0, round(left)), page[0] - width), min(max(0, round(top)), page[1] - height)
    return Window(page, (left, top, left + width, top + height))


def _page_pixels(size: tuple[float, float], scale: float) -> Size:
    """The size in pixels of a page drawn at about `scale` pixels a point, as pdfium rounds it."""
    width = max(1, round(size[0] * scale))
    return width, math.ceil(size[1] * _scale(width, size))


def _scale(width: int, size: tuple[float, float]) -> float:
    """The scale at which pdfium, which rounds up, draws a page exactly `width` pixels wide."""
    return (width - 0.01) / size[0]


def draw_window(rng: np.random.Generator, page: Any, window: Window) -> Image.Image:
    """The part of a pdfium page, RGB; one in five on tinted paper, a few slightly damaged."""
    left, top, right, bottom = window.box
    scale = _scale(window.page[0], page.get_size())
    hidden = (left, window.page[1] - bottom, window.page[0] - right, top)
    crop = tuple((pixels - 0.5) / scale for pixels in hidden)
    drawn = page.render(scale=scale, crop=crop, draw_annots=False, rev_byteorder=True).to_pil().convert("RGB")
    size = (right - left, bottom - top)
    assert drawn.size == size, f"pdfium drew {drawn.size}, asked for {size}"
    image = drawn
    if chance(rng, 0.2):
        tint = tuple(number(rng, 222, 255) for _ in range(3))
        image = ImageChops.multiply(image, Image.new("RGB", size, tint))
    return damage(rng, image, amount=0.3)


def see(
    image: Image.Image, window: Window, lines: Sequence[Line], size: tuple[float, float], page_number: str | None
) -> View:
    """What of a page's lines (boxes in points of a page of `size`) can be seen in the picture of `window`."""
    across, down = window.page[0] / size[0], window.page[1] / size[1]
    whole: list[tuple[int, Line]] = []
    others: list[Word] = []
    for index, line in enumerate(lines):
        moved = _move(line, window.box, across, down)
        inside = [_inside(word.box, image.size) for word in moved.words]
        if all(inside) and line.sane and moved.size >= _SHORTEST_LETTER:
            whole.append((index, moved))
        else:
            seen = (Word(word.text, _clip(word.box, image.size)) for word in moved.words)
            others += [word for word in seen if word.box[2] > word.box[0] and word.box[3] > word.box[1]]
    return View(
        image=image,
        lines=tuple(line for _, line in whole),
        others=tuple(others),
        paragraphs=_paragraphs(whole),
        whole_page=window.box == (0, 0, *window.page),
        page_number=page_number,
    )


def _move(line: Line, box: tuple[int, int, int, int], across: float, down: float) -> Line:
    def place(old: Box) -> Box:
        return (old[0] * across - box[0], old[1] * down - box[1], old[2] * across - box[0], old[3] * down - box[1])

    return replace(line, words=tuple(Word(word.text, place(word.box)) for word in line.words), size=line.size * down)


def _inside(box: Box, size: Size) -> bool:
    return box[0] >= 1 and box[1] >= 1 and box[2] <= size[0] - 1 and box[3] <= size[1] - 1


def _clip(box: Box, size: Size) -> Box:
    return max(0.0, box[0]), max(0.0, box[1]), min(float(size[0]), box[2]), min(float(size[1]), box[3])


def _paragraphs(whole: Sequence[tuple[int, Line]]) -> tuple[tuple[int, ...], ...]:
    runs: list[list[int]] = []
    for place, (index, line) in enumerate(whole):
        last = whole[place - 1] if place else None
        if last and last[0] == index - 1 and follows(last[1], line):
            runs[-1].append(place)
        else:
            runs.append([place])
    return tuple(tuple(run) for run in runs)


def to_thousandths(box: Box, size: Size) -> tuple[int, int, int, int]:
    """A pixel box in thousandths of the picture's width and height, rounded."""
    width, height = size
    scaled = (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
    left, top, right, bottom = (min(1000, max(0, round(1000 * share))) for share in scaled)
    return left, top, right, bottom


def pad(box: Box, by: float) -> Box:
    """The box, `by` pixels larger on every side."""
    return box[0] - by, box[1] - by, box[2] + by, box[3] + by


def mark(image: Image.Image, box: Box, colour: str) -> None:
    """Draw a rectangle of a named colour into `image`."""
    ImageDraw.Draw(image).rectangle([round(side) for side in box], outline=NAMED_COLOURS[colour], width=2)
