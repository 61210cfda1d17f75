"""Vector art and the emoji font, rasterised once to RGBA arrays and grouped by concept.

The art sources name the same thing in different ways (code points, slugs, titles); here they meet on the
concept's everyday name. A concept is kept when at least three renderings of it were found.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from nvila.data.corpus.concepts import COUNTRIES, accepted_names, concept_of_emoji, flag_concept
from nvila.data.corpus.listing import listed

PICTURE_SIZE = 96
MIN_RENDERINGS = 3
NO_MIRROR = re.compile(
    r"flag of|clock|watch|timer|question|calendar|8 ball|keyboard|newspaper|page|book|chart|sign|card"
)
UNLIKE_THEIR_NAME = frozenset(
    listed(
        "mdi/apple|mdi/box|mdi/mouse|tabler/mouse|tabler-filled/mouse|mdi/cricket"
        "|tabler/cricket|tabler/bolt|tabler-filled/bolt|mdi/needle|mdi/satellite|mdi/seal"
        "|mdi/school|tabler/school|healthicons/school|mdi/scale|healthicons/glasses|mdi/wave"
        "|mdi/hospital"
    )
)
"""Pictograms that show something else, or a company's mark, under the same name."""
PICTOGRAM_COLOURS = ("#222222", "#1f4e8c", "#8c1f1f", "#1f6b35", "#5b2a86")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Where one rendering comes from: an SVG file, or a character of the emoji font."""

    concept: str
    source: str
    key: str
    path: Path | None = None
    character: str | None = None


def write_pictures(npm: dict[str, Path], emoji_font: Path, dest: Path) -> tuple[int, int]:
    """Write `pictures.npy` and `pictures.json` to `dest`; return the numbers of pictures and of concepts.

    `npm`: unpacked package folders by name; `emoji_font`: the unpacked Debian package of Noto Color Emoji.
    """
    font_path = next(emoji_font.rglob("NotoColorEmoji.ttf"))
    font = ImageFont.truetype(str(font_path), 109)
    groups: dict[str, list[Drawing]] = {}
    for drawing in _all_drawings(npm):
        groups.setdefault(drawing.concept, []).append(drawing)
    pixels, records = [], []
    for concept in sorted(groups):
        rendered = [(drawing, _rasterise(drawing, font)) for drawing in groups[concept]]
        found = [(drawing, image) for drawing, image in rendered if image is not None]
        if len(found) < MIN_RENDERINGS:
            continue
        for drawing, image in found:
            pixels.append(image)
            name = f"{drawing.source}/{drawing.key}"
            mirrors = NO_MIRROR.search(concept) is None
            records.append({"concept": concept, "name": name, "source": drawing.source, "mirrors": mirrors})
    np.save(dest / "pictures.npy", np.stack(pixels), allow_pickle=False)
    (dest / "pictures.json").write_text(json.dumps(records, indent=0), encoding="utf-8")
    return len(records), len({record["concept"] for record in records})


def _all_drawings(npm: dict[str, Path]) -> Iterator[Drawing]:
    emoji = json.loads((npm["openmoji"] / "data/openmoji.json").read_text(encoding="utf-8"))
    concepts: set[str] = set()
    for entry in emoji:
        concept = _concept_of(entry)
        if concept is not None:
            concepts.add(concept)
            yield from _emoji_drawings(concept, entry, npm)
    for code in COUNTRIES:
        for shape in ("4x3", "1x1"):
            path = npm["flag-icons"] / "flags" / shape / f"{code}.svg"
            yield Drawing(concept=f"flag of {COUNTRIES[code]}", source=f"flag-icons-{shape}", key=code, path=path)
    yield from _pictogram_drawings(concepts, npm)


def _concept_of(entry: dict[str, Any]) -> str | None:
    if entry["skintone"] or entry["group"].startswith("extras"):
        return None
    if entry["subgroups"] == "country-flag":
        return flag_concept("".join(chr(ord(letter) - 0x1F1E6 + ord("a")) for letter in entry["emoji"][:2]))
    return concept_of_emoji(entry["annotation"], entry["subgroups"])


def _emoji_drawings(concept: str, entry: dict[str, Any], npm: dict[str, Path]) -> Iterator[Drawing]:
    slug = entry["annotation"].lower().replace("’", "").replace(":", "").replace(".", "").replace(" ", "-")
    code = entry["hexcode"]
    short = "-".join(part for part in code.split("-") if part != "FE0F").lower()
    yield Drawing(concept=concept, source="openmoji", key=code, path=npm["openmoji"] / "color/svg" / f"{code}.svg")
    yield Drawing(concept=concept, source="noto-emoji", key=code, character=entry["emoji"])
    for name in dict.fromkeys((short, code.lower())):
        path = npm["@twemoji/svg"] / f"{name}.svg"
        if path.is_file():
            yield Drawing(concept=concept, source="twemoji", key=name, path=path)
    for style in ("modern", "flat", "high-contrast"):
        path = npm["fluentui-emoji"] / "icons" / style / f"{slug}.svg"
        yield Drawing(concept=concept, source=f"fluent-{style}", key=slug, path=path)


def _pictogram_drawings(concepts: set[str], npm: dict[str, Path]) -> Iterator[Drawing]:
    """Single-colour icons whose file name is the concept's name or one of its synonyms."""
    folders = {
        "mdi": npm["@mdi/svg"] / "svg",
        "tabler": npm["@tabler/icons"] / "icons/outline",
        "tabler-filled": npm["@tabler/icons"] / "icons/filled",
    }
    health = {path.stem: path for path in sorted((npm["healthicons"] / "public/icons/svg/filled").rglob("*.svg"))}
    for concept in sorted(concepts):
        own = [name for name in accepted_names(concept)[:2] if name == concept or name not in concepts]
        for name in () if concept.startswith("flag of ") else own:
            slug = name.lower().replace("'", "").replace(" ", "-")
            paths = {source: folder / f"{slug}.svg" for source, folder in folders.items()}
            paths["healthicons"] = health.get(slug.replace("-", "_"), npm["healthicons"] / "absent.svg")
            for source, path in paths.items():
                if path.is_file() and f"{source}/{slug}" not in UNLIKE_THEIR_NAME:
                    yield Drawing(concept=concept, source=source, key=slug, path=path)


def _rasterise(drawing: Drawing, font: ImageFont.FreeTypeFont) -> NDArray[np.uint8] | None:
    """The drawing cut to its ink and fitted into (S, S, 4) uint8, or None when the source lacks it."""
    if drawing.character is not None:
        image = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(image).text((10, 10), drawing.character, font=font, embedded_color=True)
        if font.getlength(drawing.character) > 150:
            return None
    elif drawing.path is not None and drawing.path.is_file():
        image = _rasterise_svg(drawing.path, drawing.source)
    else:
        return None
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha > 16)).getbbox()
    if box is None:
        return None
    ink = image.crop(box)
    scale = PICTURE_SIZE / max(ink.size)
    ink = ink.resize((max(1, round(ink.width * scale)), max(1, round(ink.height * scale))), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (PICTURE_SIZE, PICTURE_SIZE))
    canvas.paste(ink, ((PICTURE_SIZE - ink.width) // 2, (PICTURE_SIZE - ink.height) // 2))
    return np.asarray(canvas)


def _rasterise_svg(path: Path, source: str) -> Image.Image:
    import resvg_py

    text = path.read_text(encoding="utf-8")
    if source.startswith(("mdi", "tabler", "healthicons")):
        colour = PICTOGRAM_COLOURS[len(path.stem) % len(PICTOGRAM_COLOURS)]
        text = text.replace("currentColor", colour)
        text = text.replace("<svg ", f'<svg fill="{colour}" ', 1) if source == "mdi" else text
    data = bytes(resvg_py.svg_to_bytes(svg_string=text, width=2 * PICTURE_SIZE, skip_system_fonts=True))
    return Image.open(io.BytesIO(data)).convert("RGBA")
