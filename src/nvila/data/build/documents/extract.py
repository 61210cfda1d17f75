"""Words and lines of a PDF page by pdfium: from the text layer, so exact, and checked against the ink.

The letters come in pdfium's order; a line ends where pdfium ends it, or where a letter leaves the baseline or jumps
back. Pages that are rotated, empty, mostly not sane, or whose words have no ink under them are refused with a reason.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nvila.data.build.documents.layout import Box, Line, Word, plain, with_sanity

MIN_LINES = 6
MIN_SANE_SHARE = 0.5
MAX_LETTERS = 8_000
_BULLETS = "•◦▪∙·*‣"

_ODD_FONTS = re.compile(
    rb"CMSY|CMMI|CMEX|MSAM|MSBM|CSC|SmallCaps|Dingbat|Symbol|Awesome|wasy|stmary|pifont|marvosym", re.I
)
"""Fonts of symbols, whose text layer names letters that are not what is drawn, and of small capitals."""

Refusal = Literal["rotated", "too little text", "too much text", "not sane", "no ink"]


@dataclass(frozen=True)
class PageText:
    """The lines of one page in points, and the page's (width, height)."""

    size: tuple[float, float]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class _Letter:
    text: str
    box: Box
    size: float


def read_page(page: Any) -> PageText | Refusal:
    """The text of a pdfium page, or why it is not used."""
    if page.get_rotation() != 0:
        return "rotated"
    text = page.get_textpage()
    num_letters = text.count_chars()
    if num_letters > MAX_LETTERS:
        return "too much text"
    lines = with_sanity([line for letters in _lines(_letters(page, text, num_letters)) if (line := _line(letters))])
    if len(lines) < MIN_LINES:
        return "too little text"
    if sum(line.sane for line in lines) < MIN_SANE_SHARE * len(lines):
        return "not sane"
    return PageText(page.get_size(), tuple(lines)) if _has_ink(page, lines) else "no ink"


def _letters(page: Any, text: Any, count: int) -> Iterator[_Letter | None]:
    """Letters with boxes in points, y downwards from the crop box's top; None where pdfium ends a line."""
    import pypdfium2.raw as pdfium

    left, bottom, right, top = (ctypes.c_double() for _ in range(4))
    name = ctypes.create_string_buffer(128)
    x_origin, _, _, y_origin = page.get_cropbox(fallback_ok=True)
    for index in range(count):
        code = pdfium.FPDFText_GetUnicode(text.raw, index)
        if code in (10, 13):
            yield None
            continue
        pdfium.FPDFText_GetCharBox(text.raw, index, left, right, bottom, top)
        box = (left.value - x_origin, y_origin - top.value, right.value - x_origin, y_origin - bottom.value)
        hyphen = code in (2, 0xFFFE)  # pdfium's mark for a hyphen at the end of a line
        length = pdfium.FPDFText_GetFontInfo(text.raw, index, name, len(name), None)
        odd = _ODD_FONTS.search(name.raw[: max(0, min(length, len(name)) - 1)]) is not None
        known = code > 0 and not 0xD800 <= code < 0xE000 and (code == 32 or not odd)
        letter = "-" if hyphen else chr(code) if known else "\ufffd"
        yield _Letter(letter, box, pdfium.FPDFText_GetFontSize(text.raw, index))
        if hyphen:
            yield None


def _lines(letters: Iterator[_Letter | None]) -> Iterator[list[_Letter]]:
    line: list[_Letter] = []
    last: _Letter | None = None
    for letter in letters:
        if letter is None or (last is not None and not letter.text.isspace() and _breaks(last, letter)):
            if line:
                yield line
            line, last = [], None
        if letter is not None:
            line.append(letter)
            if not letter.text.isspace():
                last = letter
    if line:
        yield line


def _breaks(last: _Letter, letter: _Letter) -> bool:
    """Whether a letter cannot be on the same line as the one before it."""
    size = max(last.size, letter.size)
    apart = letter.box[1] > last.box[3] + 0.4 * size or letter.box[3] < last.box[1] - 0.4 * size
    return apart or letter.box[0] < last.box[0] - 1.5 * size or letter.box[0] > last.box[2] + 4 * size


def _line(letters: list[_Letter]) -> Line | None:
    words: list[Word] = []
    run: list[_Letter] = []
    for letter in [*letters, None]:
        if letter is not None and not letter.text.isspace():
            run.append(letter)
        elif run:
            words.append(Word(plain("".join(each.text for each in run)), _box(run)))
            run = []
    while words and words[0].text in _BULLETS:
        words = words[1:]
    sizes = sorted(letter.size for letter in letters if not letter.text.isspace())
    return Line(tuple(words), round(sizes[len(sizes) // 2], 2)) if words else None


def _box(run: list[_Letter]) -> Box:
    boxes = [letter.box for letter in run]
    return (
        round(min(box[0] for box in boxes), 2),
        round(min(box[1] for box in boxes), 2),
        round(max(box[2] for box in boxes), 2),
        round(max(box[3] for box in boxes), 2),
    )


def _has_ink(page: Any, lines: list[Line]) -> bool:
    """Whether nearly every sane word of two letters or more has contrast under its box, drawn at 72 dpi."""
    pixels_HW = np.asarray(page.render(scale=1.0, grayscale=True, draw_annots=False).to_pil())
    texts = (word for line in lines if line.sane for word in line.words)
    words = [word.box for word in texts if sum(letter.isalnum() for letter in word.text) >= 2]
    seen = 0
    for left, top, right, bottom in words:
        patch = pixels_HW[max(0, int(top)) : int(bottom) + 1, max(0, int(left)) : int(right) + 1]
        seen += patch.size > 0 and int(patch.max()) - int(patch.min()) > 40
    return seen >= 0.98 * len(words)
