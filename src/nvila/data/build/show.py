"""Samples of any data set to look at: a contact sheet (PNG) and one HTML page that needs no other file.

Texts of strangers are escaped, media are decoded within the usual limits and embedded as small JPEGs; the page holds no
script. A sample that cannot be read is shown with its error instead of stopping everything.
"""

from __future__ import annotations

import base64
import html
import io
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nvila.data.formats import SampleSource, open_source
from nvila.errors import ConfigError, DataError, MediaError
from nvila.processing.media import load_image, load_video
from nvila.types import ImagePart, Sample, TextPart, VideoPart
from nvila.utils.atomic import atomic_write_bytes, atomic_write_text

NUM_FRAMES = 6
"""Frames that are shown of a clip, evenly spread."""

PAGE_SIDE = 336
"""Longest side in pixels of a picture on the page; frames of clips have half of it."""

SHEET_SIDE = 224
SHEET_COLUMNS = 6
_CAPTION_LINES = 9
_LINE_HEIGHT = 12
_STYLE = (
    "body{font:15px/1.4 sans-serif;margin:1.5em;background:#f4f4f2;color:#222}"
    "main{display:grid;grid-template-columns:repeat(auto-fill,minmax(22em,1fr));gap:1em}"
    "article{background:#fff;padding:.8em;border-radius:6px;overflow-wrap:anywhere}"
    "img{max-width:100%;margin:0 4px 4px 0;vertical-align:top}"
    "h2{font-size:.8em;font-weight:normal;color:#777;margin:0 0 .5em}"
    "p{margin:.3em 0;white-space:pre-wrap}.assistant{color:#0b5a2b;font-weight:600}"
    ".system{color:#777}.error{color:#a11}"
)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One sample as it is shown: where it stands, its source, its pictures (frames of clips too), turns, an error."""

    place: str
    source: str
    pictures: tuple[Image.Image, ...]
    turns: tuple[tuple[str, str], ...]
    """Role and text."""
    error: str = ""


def show_data(
    path: str,
    out: Path,
    *,
    num: int = 48,
    seed: int = 0,
    format: str | None = None,
    media_root: str | None = None,
    on_progress: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Show `num` samples of the data set at `path`; returns the files written.

    `out` is a folder for `sheet.png` and `index.html`, or one file with the ending .png or .html. Raises DataError
    where there is no data set, ConfigError for another ending.
    """
    wanted = _targets(out)
    source = open_source(path, format=format, media_root=media_root)
    shown = []
    for number, index in enumerate(spread(len(source), num, seed)):
        on_progress(f"reading sample {number + 1} of {min(num, len(source))}")
        shown.append(read_shown(source, index))
    for target in wanted:
        if target.suffix == ".png":
            stream = io.BytesIO()
            sheet(shown).save(stream, "PNG")
            atomic_write_bytes(target, stream.getvalue())
        else:
            atomic_write_text(target, page(path, len(source), shown))
    return wanted


def spread(total: int, num: int, seed: int) -> list[int]:
    """Up to `num` of `total` indices in their order: one at random from each of `num` equal stretches."""
    if num >= total:
        return list(range(total))
    borders = np.linspace(0, total, num + 1)
    rng = np.random.Generator(np.random.PCG64(seed))
    return [int(rng.integers(int(low), max(int(high), int(low) + 1))) for low, high in pairwise(borders)]


def source_of(sample: Sample) -> str:
    """What a sample says of its origin: the record's own `source`, else the data set's name."""
    own = sample.meta.get("source")
    return own if isinstance(own, str) else sample.source


def read_shown(source: SampleSource, index: int) -> Shown:
    """Sample `index` as it is shown; what cannot be read becomes its `error`."""
    place = source.place(index)
    try:
        sample = source[index]
    except DataError as error:
        return Shown(place=place, source=source.name, pictures=(), turns=(), error=str(error))
    turns = tuple((message.role, "".join(_shown_part(part) for part in message.content)) for message in sample.messages)
    try:
        pictures, problem = tuple(_pictures(sample)), ""
    except (MediaError, OSError) as error:
        pictures, problem = (), str(error)
    return Shown(place=place, source=source_of(sample), pictures=pictures, turns=turns, error=problem)


def _shown_part(part: TextPart | ImagePart | VideoPart) -> str:
    if isinstance(part, TextPart):
        return part.text
    return "[image] " if isinstance(part, ImagePart) else "[video] "


def _pictures(sample: Sample) -> list[Image.Image]:
    found: list[Image.Image] = []
    for message in sample.messages:
        for part in message.content:
            if isinstance(part, ImagePart):
                given = next(value for value in (part.image, part.path, part.url) if value is not None)
                found.append(_small(load_image(given), PAGE_SIDE))
            elif isinstance(part, VideoPart):
                clip = next(value for value in (part.video, part.path, part.url) if value is not None)
                found += [_small(frame, PAGE_SIDE // 2) for frame in load_video(clip, num_frames=NUM_FRAMES)]
    return found


def _small(image: Image.Image, side: int) -> Image.Image:
    copy = image.copy()
    copy.thumbnail((side, side), Image.Resampling.LANCZOS)
    return copy


def page(path: str, total: int, shown: Sequence[Shown]) -> str:
    """One HTML page with everything in it."""
    title = html.escape(f"{path}: {len(shown)} of {total:,} samples")
    articles = "\n".join(_article(one) for one in shown)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"</head>\n<body><h1>{title}</h1>\n<main>\n{articles}\n</main></body></html>\n"
    )


def _article(one: Shown) -> str:
    head = f"<h2>{html.escape(one.place)} · {html.escape(one.source)}</h2>"
    images = "".join(
        f'<img src="data:image/jpeg;base64,{_jpeg(picture)}" alt="" width="{picture.width}" height="{picture.height}">'
        for picture in one.pictures
    )
    turns = "".join(f'<p class="{role}">{html.escape(text)}</p>' for role, text in one.turns)
    error = f'<p class="error">{html.escape(one.error)}</p>' if one.error else ""
    return f"<article>{head}<div>{images}</div>{turns}{error}</article>"


def _jpeg(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=88)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def sheet(shown: Sequence[Shown], columns: int = SHEET_COLUMNS) -> Image.Image:
    """All samples in a grid, each with its first picture (or frames) and as much of its turns as fits below."""
    cells = [_cell(one) for one in shown]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) + 6 for row in rows]
    image = Image.new("RGB", (columns * (SHEET_SIDE + 6), max(1, sum(heights))), "lightgray")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            image.paste(cell, (column * (SHEET_SIDE + 6) + 3, top + 3))
        top += height
    return image


def _cell(one: Shown) -> Image.Image:
    strip = _strip(one.pictures)
    lines = [one.source]
    for role, text in one.turns:
        lines += textwrap.wrap(f"> {text}" if role == "assistant" else text, 42) or [""]
    lines += textwrap.wrap(one.error, 42)
    if len(lines) > _CAPTION_LINES:
        lines = [*lines[: _CAPTION_LINES - 1], "..."]
    cell = Image.new("RGB", (SHEET_SIDE, strip.height + _LINE_HEIGHT * len(lines) + 6), "white")
    cell.paste(strip, (0, 0))
    font = _caption_font()
    for number, line in enumerate(lines):
        ImageDraw.Draw(cell).text((2, strip.height + 2 + number * _LINE_HEIGHT), line, fill="black", font=font)
    return cell


@cache
def _caption_font() -> Any:
    """DejaVu Sans where matplotlib brings it, else Pillow's own font, which has no accented letters."""
    matplotlib = find_spec("matplotlib")
    if matplotlib is None or matplotlib.origin is None:
        return ImageFont.load_default(10)
    return ImageFont.truetype(Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", 9)


def _strip(pictures: Sequence[Image.Image]) -> Image.Image:
    """The pictures side by side in rows of three, one alone, within the width of a cell."""
    if not pictures:
        return Image.new("RGB", (SHEET_SIDE, 8), "white")
    if len(pictures) == 1:
        return _small(pictures[0], SHEET_SIDE)
    small = [_small(picture, SHEET_SIDE // 3 - 2) for picture in pictures[:NUM_FRAMES]]
    height = max(picture.height for picture in small) + 2
    strip = Image.new("RGB", (SHEET_SIDE, height * -(-len(small) // 3)), "white")
    for number, picture in enumerate(small):
        strip.paste(picture, (number % 3 * (SHEET_SIDE // 3), number // 3 * height))
    return strip


def _targets(out: Path) -> list[Path]:
    if out.suffix in (".png", ".html"):
        return [out]
    if out.suffix and not out.is_dir():
        raise ConfigError(f"{out}: ends in {out.suffix}; give a .png or .html file, or a folder for both")
    return [out / "sheet.png", out / "index.html"]
