"""A bank of cut-out pictures with names, made from Tux Paint's stamps: used by the families `stamps` and `cutouts`.

`write_bank` reads captions, PNG and SVG, cuts every picture to its ink, and writes small RGBA PNG files and an index;
`Bank` opens them lazily. Also holds what both families draw and say alike: grounds, plurals, placing one picture.
Pictures are RGBA (W, H), at most `side` px a side; boxes are (left, top, right, bottom) in pixels.
"""

from __future__ import annotations

import io
import json
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from nvila.data.build.family import Material, Package, one_in_ten
from nvila.data.build.stamps_kinds import concept_of, kind_of
from nvila.data.build.stamps_names import name_of
from nvila.data.corpus.canvas import (
    NAMED_COLOURS,
    Colour,
    Size,
    background,
    chance,
    distance,
    named_colour,
    number,
    pick,
    random_colour,
)
from nvila.data.corpus.listing import listed
from nvila.data.corpus.splits import Split
from nvila.errors import DataError, MediaError

STAMPS_PACKAGE = Package(name="tuxpaint-stamps-default", origin="debian", licence="GPL-2.0-only", megabytes=161.0)
STAMPS_FOLDER = "usr/share/tuxpaint/stamps"
INDEX = "stamps.json"
NUM_CACHED = 256

logger = logging.getLogger(__name__)

_IRREGULAR = {
    "mouse": "mice",
    "goose": "geese",
    "tooth": "teeth",
    "knife": "knives",
    "scarf": "scarves",
    "leaf": "leaves",
    **{same: same for same in ("sheep", "fish", "deer", "bison", "trout", "shrimp", "caribou")},
}
_UNCOUNTABLE = frozenset(
    listed("bread|cheese|garlic|corn|lettuce|broccoli|fire|confetti|ginger|knitting|candy|paint|lavender|clothing")
)
_SINGLE_THINGS = ("Earth", "Mars", "Jupiter", "Saturn", "Neptune", "Santa Claus", "Eiffel Tower", "sun")
_ADJECTIVES = frozenset(
    listed(
        "red|green|blue|yellow|black|white|brown|purple|pink|orange|grey|gray|silver|golden|wooden|electric|"
        "classical|digital|sports|pickup|emperor|freshwater|adhesive|magellanic|tamworth|sumatran|european|"
        "monarch|colorful|lit|fuji|garden|female|crescent|full|big|high-heeled|cowboy|baseball|feathered|"
        "propeller|irish|conical"
    )
)
_ALSO = {
    "chimpanzee": "chimp",
    "hippopotamus": "hippo",
    "kiwifruit": "kiwi",
    "bunny": "rabbit",
    "airplane": "plane",
    "garbage can": "trash can",
    "lightbulb": "light bulb",
    "t shirt": "t-shirt",
    "mobile phone": "cell phone",
    "gift": "present",
    "gravestone": "tombstone",
    "sail boat": "sailboat",
    "fire truck": "fire engine",
    "motor bike": "motorcycle",
    "wheelie bin": "garbage can",
    "steam locomotive": "train",
    "ladybug": "ladybird",
    "eggplant": "aubergine",
    "mandarin": "mandarin orange",
}


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """One picture: its file in the bank, what it is called, its unit, its kind, and how it may be used."""

    file: str
    name: str
    concept: str
    kind: str | None
    mirrors: bool
    """Whether its mirror image still shows the same thing (writing and signs do not)."""
    cut_out: bool
    """Whether it stands on transparent ground and is compact enough to be placed in a scene."""
    mean: Colour
    """Mean colour of the opaque pixels."""


def write_bank(unpacked: Path, dest: Path, *, side: int) -> int:
    """Write the pictures (at most `side` px a side) and the index to `dest`; return the number of stamps.

    `unpacked`: the root of the unpacked package. Raises DataError when no caption is found below it.
    """
    root = unpacked / STAMPS_FOLDER
    captions = sorted(root.rglob("*.txt"))
    if not captions:
        raise DataError(f"{root}: no captions (*.txt) found; unpack {STAMPS_PACKAGE.name} there, or fetch again")
    (dest / "pictures").mkdir(parents=True)
    stamps: list[Stamp] = []
    for caption in captions:
        key = caption.relative_to(root).with_suffix("").as_posix()
        lines = caption.read_text(encoding="utf-8").splitlines()
        name = name_of(key, lines[0]) if lines else None
        picture = None if name is None else _cut(_load(caption, side), side)
        if name is not None and picture is not None:
            file = f"pictures/{len(stamps):04d}.png"
            picture.save(dest / file, compress_level=3)
            stamps.append(_describe(caption, key, name, file, picture))
    (dest / INDEX).write_text(json.dumps([asdict(stamp) for stamp in stamps], indent=0), encoding="utf-8")
    return len(stamps)


def _load(caption: Path, side: int) -> Image.Image | None:
    """The stamp's drawing: the vector file, else the bitmap; None where neither can be drawn."""
    vector, bitmap = caption.with_suffix(".svg"), caption.with_suffix(".png")
    if vector.is_file():
        import resvg_py

        try:
            drawn = resvg_py.svg_to_bytes(svg_path=str(vector), width=side, height=side, dpi=96, skip_system_fonts=True)
            return Image.open(io.BytesIO(bytes(drawn))).convert("RGBA")
        except ValueError as error:  # left out, unless a bitmap is there
            logger.warning("%s: cannot be drawn (%s)", vector, error)
    if not bitmap.is_file():
        return None
    try:
        return Image.open(bitmap).convert("RGBA")
    except OSError as error:
        raise MediaError(f"{bitmap}: cannot be read as a picture ({error}); fetch the package again") from error


def _cut(image: Image.Image | None, side: int) -> Image.Image | None:
    """The picture cut to its ink and fitted into `side`; None when there is next to nothing on it."""
    box = None if image is None else image.getchannel("A").point(lambda alpha: 255 * (alpha > 40)).getbbox()
    if image is None or box is None or min(box[2] - box[0], box[3] - box[1]) < 12:
        return None
    ink = image.crop(box)
    scale = min(1.0, side / max(ink.size))
    size = (max(1, round(ink.width * scale)), max(1, round(ink.height * scale)))
    return ink.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def _describe(caption: Path, key: str, name: str, file: str, picture: Image.Image) -> Stamp:
    pixels = np.asarray(picture).reshape(-1, 4)
    opaque = pixels[:, 3] > 128
    red, green, blue = (int(value) for value in pixels[opaque, :3].mean(0)) if opaque.any() else (128, 128, 128)
    share = float(opaque.mean())
    long, short = max(picture.size), min(picture.size)
    data = caption.with_suffix(".dat")
    mirrors = not (data.is_file() and "nomirror" in data.read_text(encoding="utf-8", errors="replace"))
    return Stamp(
        file=file,
        name=name,
        concept=concept_of(name),
        kind=kind_of(key),
        mirrors=mirrors and not key.startswith("town/roadsigns"),
        cut_out=0.3 < share < 0.97 and long < 3 * short,
        mean=(red, green, blue),
    )


class Bank:
    """The stamps of an opened material folder, by concept; pictures are decoded on demand and a few are kept."""

    def __init__(self, folder: Path) -> None:
        """Raises DataError naming the index that is missing and the command that makes it."""
        index = folder / INDEX
        if not index.is_file():
            raise DataError(f"{index} is missing; make it with `nvila data fetch full`")
        self.folder = folder
        self.stamps = [
            Stamp(**{**record, "mean": tuple(record["mean"])}) for record in json.loads(index.read_text("utf-8"))
        ]
        self.by_concept: dict[str, list[Stamp]] = {}
        for stamp in self.stamps:
            self.by_concept.setdefault(stamp.concept, []).append(stamp)
        self._decoded: OrderedDict[str, Image.Image] = OrderedDict()

    def picture(self, stamp: Stamp) -> Image.Image:
        """The RGBA picture of `stamp`. Raises MediaError when its file is gone or broken."""
        if stamp.file not in self._decoded:
            try:
                self._decoded[stamp.file] = Image.open(self.folder / stamp.file).convert("RGBA")
            except OSError as error:
                raise MediaError(
                    f"{self.folder / stamp.file}: cannot be read ({error}); make the bank again"
                ) from error
            if len(self._decoded) > NUM_CACHED:
                self._decoded.popitem(last=False)
        self._decoded.move_to_end(stamp.file)
        return self._decoded[stamp.file]


def names_for(stamp: Stamp) -> tuple[str, ...]:
    """The accepted names, the taught one first: "red apple", "apple"."""
    first, _, rest = stamp.name.partition(" ")
    others = [rest] if rest and first.lower() in _ADJECTIVES else []
    others += [_ALSO[name] for name in (stamp.name, rest) if name in _ALSO]
    return tuple(dict.fromkeys([stamp.name, *others]))


def plural_of(name: str) -> str:
    """The plural of a name; the last word carries it."""
    *front, last = name.split(" ")
    if last in _IRREGULAR:
        ending = _IRREGULAR[last]
    elif last.endswith(("s", "x", "ch", "sh")) or last in ("tomato", "potato", "mango", "flamingo", "buffalo"):
        ending = f"{last}es"
    elif last.endswith("man"):
        ending = f"{last[:-3]}men"
    elif last.endswith("y") and last[-2] not in "aeiou":
        ending = f"{last[:-1]}ies"
    else:
        ending = f"{last}s"
    return " ".join([*front, ending])


def countable(name: str) -> bool:
    """Whether one can say "a" and "two": neither a plural ("jeans") nor a stuff ("bread") nor a proper name."""
    last = name.split()[-1].lower()
    plural_look = last.endswith("s") and not last.endswith(("ss", "us", "is"))
    proper = name in _SINGLE_THINGS
    return last not in _UNCOUNTABLE and not plural_look and not proper


def with_article(name: str) -> str:
    """ "an apple", "a frog"; what cannot be counted keeps none ("Saturn", "jeans")."""
    if not countable(name):
        return name
    vowel = name[0].lower() in "aeiou" and not name.lower().startswith(("uk", "eu", "uni"))
    return f"{'an' if vowel else 'a'} {name}"


def apart(first: Stamp, second: Stamp) -> bool:
    """Whether nobody would call one by the other's name: different concepts and kinds, and no word in common."""
    words = set(first.name.lower().split()) & set(second.name.lower().split())
    same_kind = first.kind is not None and first.kind == second.kind
    return first.concept != second.concept and not same_kind and not words


def grounded(rng: np.random.Generator, size: Size, means: list[Colour]) -> tuple[Image.Image, str | None]:
    """A ground on which all `means` can be seen, and its colour's name when it is of one plain named colour."""
    names = [name for name in NAMED_COLOURS if all(distance(NAMED_COLOURS[name], mean) > 90 for mean in means)]
    names = names or [max(NAMED_COLOURS, key=lambda name: min(distance(NAMED_COLOURS[name], mean) for mean in means))]
    style = pick(rng, ("plain", "plain", "soft", "stripes", "checks", "specks", "blobs"))
    if style in ("plain", "soft"):
        name = pick(rng, names)
        return background(rng, size, named_colour(rng, name), plain=float(style == "plain")), name
    tries = [random_colour(rng) for _ in range(12)]
    colour = max(tries, key=lambda colour: min(90.0, *(distance(colour, mean) for mean in means)))
    return _patterned(rng, size, colour, style), None


def _patterned(rng: np.random.Generator, size: Size, colour: Colour, style: str) -> Image.Image:
    """Stripes, checks, specks or soft blobs of two nearby colours."""
    width, height = size
    shift = rng.integers(-34, 35, 3)
    other = tuple(min(255, max(0, value + int(d))) for value, d in zip(colour, shift, strict=True))
    if style == "specks":
        level = number(rng, 8, 30)
        noise = rng.integers(-level, level + 1, (height // 2 + 1, width // 2 + 1, 1), dtype=np.int16)
        pixels = np.clip(np.asarray(colour, np.int16) + noise, 0, 255).astype(np.uint8)
        return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
    if style == "blobs":
        coarse = rng.random((number(rng, 3, 9), number(rng, 3, 9))) * 255
        mask = Image.fromarray(coarse.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
        return Image.composite(Image.new("RGB", size, colour), Image.new("RGB", size, other), mask)
    step = number(rng, 12, 60)
    y, x = np.mgrid[:height, :width]
    if style == "checks":
        mask_HW = (x // step + y // step) % 2 == 0
    else:
        mask_HW = (pick(rng, (x, y, x + y)) // step) % 2 == 0
    return Image.fromarray(np.where(mask_HW[..., None], np.asarray(colour, np.uint8), np.asarray(other, np.uint8)))


def varied(rng: np.random.Generator, picture: Image.Image, stamp: Stamp, side: int, *, tilt: float) -> Image.Image:
    """The picture at `side` px (its longer side), perhaps mirrored, tilted by up to `tilt` degrees, and dimmed."""
    if stamp.mirrors and chance(rng, 0.5):
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
    angle = float(rng.uniform(-tilt, tilt))
    if chance(rng, 0.5) and abs(angle) > 1:
        picture = picture.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        box = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 40)).getbbox()
        picture = picture.crop(box) if box else picture
    if chance(rng, 0.4):
        alpha = picture.getchannel("A")
        picture = ImageEnhance.Brightness(picture.convert("RGB")).enhance(float(rng.uniform(0.75, 1.15)))
        picture.putalpha(alpha)
    return picture


def outlined(image: Image.Image, cells: list[tuple[int, int, int, int]], colour: Colour) -> None:
    """Draw the borders of `cells` on `image` in place."""
    draw = ImageDraw.Draw(image)
    for cell in cells:
        draw.rectangle(cell, outline=colour, width=2)


@dataclass(frozen=True, kw_only=True)
class BankFamily:
    """A family made from a bank of the stamps. All such families show the same pictures, and so have one split."""

    name: str
    picture_side: int
    """Longest side of a picture in the bank, in pixels."""
    over: Callable[[Bank], Material]
    packages: tuple[Package, ...] = (STAMPS_PACKAGE,)

    def prepare(self, fetched: Path, dest: Path) -> None:
        """Write the bank of pictures from the unpacked package. Raises DataError when it holds no captions."""
        write_bank(fetched / STAMPS_PACKAGE.name, dest, side=self.picture_side)

    def open(self, material: Path) -> Material:
        """Raises DataError when the bank is missing."""
        return self.over(Bank(material))

    def side(self, unit: str) -> Split:
        """A tenth of the concepts is held out."""
        return one_in_ten("stamps", unit)
