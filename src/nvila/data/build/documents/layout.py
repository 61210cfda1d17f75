"""A page's text as words, lines and their boxes: what is read from a PDF, and which of it can be trusted.

Boxes are (left, top, right, bottom) with y downwards, in points of the page (`Line`s read from a PDF) or in pixels of
a picture (`Line`s of a view). Typographic quotes, dashes and ligatures are written in ASCII. A line is sane when all
its letters are ASCII or Latin-1, it has words of a credible length, and nothing else is drawn across it. Columns are
not detected: a line is a run of words that the PDF's own order and the gaps keep together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

Box = tuple[float, float, float, float]

_PLAIN = {
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "–": "-",
    "—": "-",
    "‐": "-",
    "\u00ad": "-",
    "…": "...",
    "ﬀ": "ff",
    "ﬁ": "fi",
    "ﬂ": "fl",
    "ﬃ": "ffi",
    "ﬄ": "ffl",
}
_SANE = re.compile(r"[!-~À-ÖØ-öø-ÿ§©°«»£]+")
_LONGEST_WORD = 28
_SMALLEST = 4.0
"""Points; a font that says less is scaled, and its size is not known."""


@dataclass(frozen=True)
class Word:
    """A run of letters without a blank."""

    text: str
    box: Box


@dataclass(frozen=True)
class Line:
    """Words of one baseline in reading order; `size` is the font size in the box's units."""

    words: tuple[Word, ...]
    size: float
    sane: bool = True

    @property
    def text(self) -> str:
        """The words joined by single blanks."""
        return " ".join(word.text for word in self.words)

    @property
    def box(self) -> Box:
        """The smallest box around all words."""
        return around([word.box for word in self.words])


def around(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds all of `boxes` (at least one)."""
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def overlap(first: Box, second: Box) -> float:
    """The shared area of two boxes, as a share of the smaller one, 0..1."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return width * height / max(smaller, 1e-6)


def plain(text: str) -> str:
    """`text` with typographic quotes, dashes and ligatures in ASCII."""
    return "".join(_PLAIN.get(letter, letter) for letter in text)


def is_sane_text(words: Sequence[Word]) -> bool:
    """Whether the words hold only trusted letters, with no over-long word and not all letter by letter."""
    texts = [word.text for word in words]
    if not all(_SANE.fullmatch(text) and len(text) <= _LONGEST_WORD for text in texts):
        return False
    singles = sum(len(text) == 1 and text.isalpha() for text in texts)
    return len(texts) < 4 or singles <= 0.4 * len(texts)


def with_sanity(lines: Sequence[Line]) -> list[Line]:
    """The same lines, each marked sane or not; a line that another one is drawn across is not."""
    boxes = [line.box for line in lines]
    ordered = sorted(range(len(lines)), key=lambda index: boxes[index][1])
    crossed: set[int] = set()
    for place, index in enumerate(ordered):
        for other in ordered[place + 1 :]:
            if boxes[other][1] >= boxes[index][3]:
                break
            if overlap(boxes[index], boxes[other]) > 0.2:
                crossed |= {index, other}
    sane = [is_sane_text(line.words) and _has_its_size(line) for line in lines]
    return [replace(line, sane=sane[index] and index not in crossed) for index, line in enumerate(lines)]


def _has_its_size(line: Line) -> bool:
    """Whether letters are as high as the font size says; scaled bitmap fonts are not."""
    height = line.box[3] - line.box[1]
    return (
        line.size >= _SMALLEST
        and height < 2.2 * line.size
        and (height > 0.25 * line.size or not any(map(str.isalnum, line.text)))
    )


def follows(upper: Line, lower: Line) -> bool:
    """Whether `lower` is the next line of the paragraph that `upper` is in: same font size, edge and spacing."""
    first, second = upper.box, lower.box
    size = upper.size
    centres = (second[1] + second[3] - first[1] - first[3]) / 2
    return (
        abs(upper.size - lower.size) < 0.06 * size
        and 0.8 * size < centres < 1.7 * size
        and abs(first[0] - second[0]) < 2.5 * size
        and min(first[2], second[2]) > max(first[0], second[0])
    )
