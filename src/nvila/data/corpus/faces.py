"""A font at one size with its glyphs kept as masks, and the drawing of text from them, letter by letter.

Drawing by letter gives every character's ink box for free, which the dense labels need, and costs a few
microseconds a letter once a glyph is cached. Kerning is kept; ligatures and complex scripts are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from nvila.errors import DataError
from nvila.types import LabelledBox


@dataclass(frozen=True, kw_only=True, slots=True)
class Glyph:
    """One letter's ink: `mask` (height, width) uint8, placed at (`left`, `top`) from the pen on the baseline."""

    mask: NDArray[np.uint8] | None
    left: int
    top: int
    advance: float


class Face:
    """One font file at `size` pixels. `ascent` and `descent` are pixels above and below the baseline."""

    def __init__(self, path: Path, size: int) -> None:
        """Raises DataError when the file cannot be read as a font."""
        try:
            self._font = ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
        except OSError as error:
            raise DataError(f"{path}: cannot be read as a font ({error}); fetch the assets again") from error
        self.size = size
        self.ascent, self.descent = self._font.getmetrics()
        self._glyphs: dict[str, Glyph] = {}
        self._kerning: dict[str, float] = {}

    def glyph(self, character: str) -> Glyph:
        """The cached glyph of one character; `mask` is None for a blank."""
        glyph = self._glyphs.get(character)
        if glyph is None:
            glyph = self._glyphs[character] = self._draw_glyph(character)
        return glyph

    def _draw_glyph(self, character: str) -> Glyph:
        pad = self.size
        scratch = Image.new("L", (4 * pad, 4 * pad))
        ImageDraw.Draw(scratch).text((pad, 2 * pad), character, font=self._font, fill=255, anchor="ls")
        box = scratch.getbbox()
        advance = self._font.getlength(character)
        if box is None:
            return Glyph(mask=None, left=0, top=0, advance=advance)
        mask = np.asarray(scratch.crop(box)).copy()
        return Glyph(mask=mask, left=box[0] - pad, top=box[1] - 2 * pad, advance=advance)

    def _kern(self, pair: str) -> float:
        kern = self._kerning.get(pair)
        if kern is None:
            separate = self.glyph(pair[0]).advance + self.glyph(pair[1]).advance
            kern = self._kerning[pair] = self._font.getlength(pair) - separate
        return kern

    def width(self, text: str) -> int:
        """The advance width of `text` in pixels, kerning included, rounded up."""
        advance = sum(self.glyph(character).advance for character in text)
        return int(np.ceil(advance + sum(self._kern(text[i : i + 2]) for i in range(len(text) - 1))))

    def draw(
        self, mask_HW: NDArray[np.uint8], text: str, left: float, baseline: int, *, spacing: float = 0.0
    ) -> list[LabelledBox]:
        """Add `text` to `mask_HW` (H, W) uint8 from the pen position; return the ink box of every visible letter.

        Ink outside of the mask is cut off; a letter cut by more than a third of its width gets no box.
        """
        height, width = mask_HW.shape
        boxes: list[LabelledBox] = []
        pen, previous = left, ""
        for character in text:
            if previous:
                pen += self._kern(previous + character) + spacing
            glyph = self.glyph(character)
            if glyph.mask is not None:
                x, y = round(pen) + glyph.left, baseline + glyph.top
                h, w = glyph.mask.shape
                x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
                if x1 > x0 and y1 > y0:
                    target = mask_HW[y0:y1, x0:x1]
                    np.maximum(target, glyph.mask[y0 - y : y1 - y, x0 - x : x1 - x], out=target)
                    if 3 * (x1 - x0) >= 2 * w:
                        boxes.append(LabelledBox(label=f"char:{character}", box=(x0, y0, x1, y1)))
            pen += glyph.advance
            previous = character
        return boxes
