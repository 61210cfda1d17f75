"""A table drawn as a table: header and cells in one of matplotlib's fonts, with lines, stripes or neither."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nvila.data.build.tables.values import Grid
from nvila.data.corpus.canvas import Colour, chance, luminance, number, pick
from nvila.types import LabelledBox

MAX_WIDTH, MAX_HEIGHT = 1008, 672
_FACES = (
    ("DejaVuSans", "DejaVuSans-Bold"),
    ("DejaVuSerif", "DejaVuSerif-Bold"),
    ("DejaVuSansMono", "DejaVuSansMono-Bold"),
    ("STIXGeneral", "STIXGeneralBol"),
)


@dataclass(frozen=True, kw_only=True)
class GridDrawing:
    """The picture of a table, with the box of every cell labelled "row,column text"; row 0 is the header."""

    image: Image.Image
    boxes: tuple[LabelledBox, ...]
    title: str | None


@lru_cache(maxsize=64)
def _face(name: str, px: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), px)


def draw_grid(rng: np.random.Generator, data: Grid, title: str) -> GridDrawing | None:
    """The table as a picture of at least 224 px a side; None when it would be larger than 1008 x 672 px."""
    names, px = pick(rng, _FACES), number(rng, 11, 20)
    face, bold = _face(names[0], px), _face(names[1] if chance(rng, 0.75) else names[0], px)
    gap, height = number(rng, 5, 14), round(px * float(rng.uniform(1.5, 2.3)))
    widths = [
        round(max(bold.getlength(head), *(face.getlength(row[place]) for row in data.rows))) + 2 * gap
        for place, head in enumerate(data.header)
    ]
    margin = number(rng, 6, 24)
    shown = title if bold.getlength(title) <= sum(widths) and chance(rng, 0.6) else None
    top = margin + (height if shown else 0)
    size = (max(224, sum(widths) + 2 * margin), max(224, top + height * (len(data.rows) + 1) + margin))
    if size[0] > MAX_WIDTH or size[1] > MAX_HEIGHT:
        return None
    colours = _colours(rng)
    image = Image.new("RGB", size, colours["paper"])
    draw = ImageDraw.Draw(image)
    if shown:
        draw.text((margin, top - height / 2), shown, fill=colours["ink"], font=bold, anchor="lm")
    lefts = [margin + sum(widths[:place]) for place in range(len(widths) + 1)]
    _rule(rng, draw, lefts, [top + height * place for place in range(len(data.rows) + 2)], colours)
    boxes: list[LabelledBox] = []
    centred = chance(rng, 0.3)
    for line, cells in enumerate([data.header, *data.rows]):
        middle = top + height * (line + 0.5)
        for place, text in enumerate(cells):
            right = data.numeric[place]
            x, side = (float(lefts[place + 1] - gap), "r") if right else (float(lefts[place] + gap), "l")
            x, side = ((lefts[place] + lefts[place + 1]) / 2, "m") if centred else (x, side)
            ink = colours["head_ink"] if line == 0 else colours["ink"]
            draw.text((x, middle), text, fill=ink, font=face if line else bold, anchor=f"{side}m")
            cell = (lefts[place], middle - height / 2, lefts[place + 1], middle + height / 2)
            boxes.append(LabelledBox(label=f"{line},{place} {text}", box=cell))
    return GridDrawing(image=image, boxes=tuple(boxes), title=shown)


def _colours(rng: np.random.Generator) -> dict[str, Colour]:
    paper: Colour = (255, 255, 255)
    ink: Colour = (20, 20, 20)
    if chance(rng, 0.12):
        paper, ink = (28, 30, 36), (232, 232, 232)
    elif chance(rng, 0.4):
        red, green, blue = (number(rng, 235, 255) for _ in range(3))
        paper = (red, green, blue)
    red, green, blue = (number(rng, 20, 235) for _ in range(3))
    head: Colour = (red, green, blue) if chance(rng, 0.5) else paper
    head_ink: Colour = (15, 15, 15) if luminance(head) > 128 else (245, 245, 245)
    return {"paper": paper, "ink": ink, "head": head, "head_ink": head_ink}


def _rule(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, xs: list[int], ys: list[int], colours: dict[str, Colour]
) -> None:
    draw.rectangle((xs[0], ys[0], xs[-1], ys[1]), fill=colours["head"])
    red, green, blue = (
        round(0.93 * paper + 0.07 * ink) for paper, ink in zip(colours["paper"], colours["ink"], strict=True)
    )
    if chance(rng, 0.4):
        for upper, lower in zip(ys[2:-1:2], ys[3::2], strict=False):
            draw.rectangle((xs[0], upper, xs[-1], lower), fill=(red, green, blue))
    look = pick(rng, ("all", "rows", "booktabs", "none"))
    for place, y in enumerate(ys):
        if look in ("all", "rows") or (look == "booktabs" and place in (0, 1, len(ys) - 1)):
            draw.line((xs[0], y, xs[-1], y), fill=colours["ink"])
    for x in xs if look == "all" else ():
        draw.line((x, ys[0], x, ys[-1]), fill=colours["ink"])
