"""Family `photos`: small photographs of clothes, shoes and bags, one alone or several in a grid.

The pictures are Fashion-MNIST's: 70,000 product photographs of 28 x 28 gray pixels in ten classes, enlarged and
sometimes tinted. A unit is one photograph, and the data set's own test side is held out. Its labels are partly a matter
of taste (a shirt, a pullover or a coat at 28 pixels), so counting, finding and yes-or-no questions keep to classes
that can be told apart; naming asks for all ten. Leaves out colour, size and brand, which the pictures do not show.
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nvila.data.build.family import Package
from nvila.data.corpus.canvas import Colour, Turn, chance, make_sample, number, pick
from nvila.data.corpus.scenes import NUMBER_WORDS
from nvila.data.corpus.splits import Split
from nvila.errors import DataError
from nvila.types import LabelledBox, Sample

SIDE = 28
_SET = "usr/share/datasets/fashion-mnist"
_FILES: dict[Split, str] = {"train": "train", "heldout": "t10k"}
_IMAGES, _LABELS = "images.npy", "labels.npy"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A class of Fashion-MNIST: its name with and without article, its plural, and other names that are right.

    `clear` says that it is not taken for another class.
    """

    name: str
    one: str
    many: str
    others: tuple[str, ...]
    clear: bool
    group: str

    @property
    def answers(self) -> tuple[str, ...]:
        """Every accepted name, the taught one first."""
        return (self.name, *self.others, self.one)


KINDS = (
    Kind(
        name="t-shirt",
        one="a t-shirt",
        many="t-shirts",
        others=("t-shirt or top", "top", "tee"),
        clear=False,
        group="clothing",
    ),
    Kind(name="trousers", one="a pair of trousers", many="trousers", others=("pants",), clear=True, group="clothing"),
    Kind(name="pullover", one="a pullover", many="pullovers", others=("sweater",), clear=False, group="clothing"),
    Kind(name="dress", one="a dress", many="dresses", others=(), clear=False, group="clothing"),
    Kind(name="coat", one="a coat", many="coats", others=("jacket",), clear=False, group="clothing"),
    Kind(name="sandal", one="a sandal", many="sandals", others=("sandals",), clear=True, group="footwear"),
    Kind(name="shirt", one="a shirt", many="shirts", others=("blouse",), clear=False, group="clothing"),
    Kind(name="sneaker", one="a sneaker", many="sneakers", others=("trainer",), clear=True, group="footwear"),
    Kind(name="bag", one="a bag", many="bags", others=("handbag",), clear=True, group="bag"),
    Kind(name="ankle boot", one="an ankle boot", many="ankle boots", others=("boot",), clear=True, group="footwear"),
)
"""In the order of the data set's labels 0 to 9."""

CLEAR = tuple(kind for kind in KINDS if kind.clear)
ORDINALS = ("first", "second", "third", "fourth", "fifth")
GROUPS = {"clothing": ("clothing", "clothes"), "footwear": ("footwear", "shoes", "shoe"), "bag": ("bag", "a bag")}

WORDINGS = {
    "name": "What is this?|What does the photo show?|Name the item.|What product is this?|What item is shown?"
    "|What can you see in the picture?|Which article is this?",
    "group": "Is this clothing, footwear or a bag?|Clothing, footwear or bag: which is it?"
    "|Does this belong to clothing, footwear or bags?|What kind of product is this: clothing, footwear, bag?"
    "|Which department sells this: clothing, footwear or bags?|Would you file this under clothing, footwear or bag?",
    "is": "Is this {one}?|Does the photo show {one}?|Can this be called {one}?|Yes or no: is it {one}?"
    "|Is the item shown {one}?|Would you say this is {one}?",
    "at": "What is in row {row}, column {column}?|Which item is in column {column} of row {row}?"
    "|What do you see in the {rowth} row, {columnth} column?|Name the item in row {row} and column {column}."
    "|What is the {columnth} item in the {rowth} row?|Row {row}, column {column}: what is it?"
    "|What does the photo in the {columnth} column of the {rowth} row show?",
    "count": "How many {many} are there?|Count the {many}.|How many photos show {many}?"
    "|What is the number of {many}?|How many {many} can you see?|How many {many} are in the grid?|Number of {many}?",
    "shoes": "How many shoes of any kind are there?|Count all footwear: sandals, sneakers and ankle boots."
    "|How many photos show footwear?|How many items are worn on the feet?"
    "|What is the number of shoes, boots and sandals?|How many pieces of footwear do you see?",
    "where": "In which row and column is the {name}?|Where is the {name}? Give row and column."
    "|Find the {name}: which row and column?|Give the row and the column of the {name}."
    "|At which place in the grid is the {name}?|Which row and column show the {name}?",
    "any": "Is there {one}?|Does any photo show {one}?|Can you find {one} here?|Is {one} among the items?"
    "|Do you see {one} in the grid?|Yes or no: does {one} appear?",
    "photos": "How many photos are there?|How many pictures does the grid hold?|Count the photos."
    "|How many items are shown in all?|What is the number of pictures in the grid?|How many cells does the grid have?",
}


def wording(rng: np.random.Generator, kind: str, **slots: object) -> str:
    """A random question of a kind with its slots filled in."""
    template: str = pick(rng, WORDINGS[kind].split("|"))
    return template.format(**slots)


class Photos:
    """The prepared photographs: `images` (N, 28, 28) uint8, mapped, light things on black; `labels` (N,) uint8."""

    def __init__(self, material: Path) -> None:
        """Raises DataError naming the missing file."""
        for name in (_IMAGES, _LABELS):
            if not (material / name).is_file():
                raise DataError(f"{material / name}: is missing; make it with: nvila data fetch --families photos")
        self.images: NDArray[np.uint8] = np.load(material / _IMAGES, mmap_mode="r", allow_pickle=False)
        self.labels: NDArray[np.uint8] = np.load(material / _LABELS, allow_pickle=False)
        sizes = np.load(material / "sizes.npy", allow_pickle=False)
        self._num_train = int(sizes[0])
        num_heldout = len(self.labels) - self._num_train
        heldout = [f"heldout/{index:05d}" for index in range(num_heldout)]
        self.units: Sequence[str] = heldout + [f"train/{index:05d}" for index in range(self._num_train)]

    def kind(self, unit: str) -> Kind:
        """What a photograph shows."""
        return KINDS[int(self.labels[self._row(unit)])]

    def make(self, rng: np.random.Generator, unit: str, same_side: Sequence[str]) -> Sample:
        """`unit` alone, or in a grid with others of its side."""
        if chance(rng, 0.15):
            return self._single(rng, unit)
        side = pick(rng, (56, 72, 84, 96, 112))
        rows, columns = number(rng, 1 if side == 112 else 2, 4), number(rng, 2, 4)
        cells = self._cells(rng, unit, same_side, rows * columns)
        image, boxes = self._draw(rng, cells, rows, columns, side)
        kinds = [self.kind(cell) for cell in cells]
        turns = _grid_turns(rng, kinds, columns)
        names = [kind.name for kind in kinds]
        return make_sample(image, *turns, task="photos", objects=boxes, rows=rows, columns=columns, names=names)

    def _single(self, rng: np.random.Generator, unit: str) -> Sample:
        kind = self.kind(unit)
        image, boxes = self._draw(rng, [unit], 1, 1, pick(rng, (112, 140, 168, 224)))
        turns = [
            Turn(question=wording(rng, "name"), answers=kind.answers),
            Turn(question=wording(rng, "group"), answers=GROUPS[kind.group]),
        ]
        if kind.clear:
            asked = kind if chance(rng, 0.5) else pick(rng, [other for other in CLEAR if other is not kind])
            answer = "yes" if asked is kind else "no"
            turns.append(Turn(question=wording(rng, "is", one=asked.one), answers=(answer,)))
        return make_sample(image, *turns, task="photos", objects=boxes, rows=1, columns=1, names=[kind.name])

    def _cells(self, rng: np.random.Generator, unit: str, same_side: Sequence[str], count: int) -> list[str]:
        """`unit` and others, shuffled; mostly of two to five classes, so that there is something to count."""
        wanted = {int(label) for label in rng.permutation(len(KINDS))[: number(rng, 2, 5)]}
        cells = [unit]
        tries = 0
        while len(cells) < count:
            other = pick(rng, same_side)
            tries += 1
            if int(self.labels[self._row(other)]) in wanted or tries > 40 * count:
                cells.append(other)
        return [cells[int(place)] for place in rng.permutation(count)]

    def _draw(
        self, rng: np.random.Generator, cells: Sequence[str], rows: int, columns: int, side: int
    ) -> tuple[Image.Image, list[LabelledBox]]:
        """The grid, row by row from the top left, each photograph `side` pixels wide; and the boxes of the cells."""
        resample = pick(rng, (Image.Resampling.NEAREST, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS))
        gap = number(rng, 2, 10)
        dark, light = _tones(rng)
        ground = dark if chance(rng, 0.5) else light
        sheet = Image.new("RGB", (columns * side + (columns + 1) * gap, rows * side + (rows + 1) * gap), ground)
        ramp = np.linspace(dark, light, 256).round().astype(np.uint8)
        boxes = []
        for place, cell in enumerate(cells):
            left, top = gap + place % columns * (side + gap), gap + place // columns * (side + gap)
            large = Image.fromarray(np.asarray(self.images[self._row(cell)])).resize((side, side), resample)
            sheet.paste(Image.fromarray(ramp[np.asarray(large)]), (left, top))
            boxes.append(LabelledBox(label=self.kind(cell).name, box=(left, top, left + side, top + side)))
        return sheet, boxes

    def _row(self, unit: str) -> int:
        side, _, index = unit.partition("/")
        return int(index) + (self._num_train if side == "heldout" else 0)


def _tones(rng: np.random.Generator) -> tuple[Colour, Colour]:
    """What black and white of a photograph become: as they are, swapped (as in a catalogue), or slightly tinted."""
    dark, light = (0, 0, 0), (255, 255, 255)
    if chance(rng, 0.4):
        low, high = rng.integers(0, 50, 3).tolist(), rng.integers(200, 256, 3).tolist()
        dark, light = (low[0], low[1], low[2]), (high[0], high[1], high[2])
    return (light, dark) if chance(rng, 0.5) else (dark, light)


def _grid_turns(rng: np.random.Generator, kinds: Sequence[Kind], columns: int) -> list[Turn]:
    """Three to five questions about a grid, of different kinds."""
    counts = Counter(kinds)
    single = [place for place, kind in enumerate(kinds) if kind.clear and counts[kind] == 1]
    asks: list[Callable[[], Turn]] = [
        lambda: _ask_at(rng, kinds, columns),
        lambda: _ask_count(rng, counts),
        lambda: _ask_any(rng, counts),
        lambda: _numbered(wording(rng, "photos"), len(kinds)),
        lambda: _numbered(wording(rng, "shoes"), sum(kind.group == "footwear" for kind in kinds)),
    ]
    if single:
        asks.append(lambda: _ask_where(rng, kinds, pick(rng, single), columns))
    order = rng.permutation(len(asks))[: number(rng, 2, 4)]
    return [_ask_at(rng, kinds, columns), *[asks[int(place)]() for place in order if place != 0]]


def _ask_at(rng: np.random.Generator, kinds: Sequence[Kind], columns: int) -> Turn:
    place = number(rng, 0, len(kinds) - 1)
    row, column = divmod(place, columns)
    slots = {"row": row + 1, "column": column + 1, "rowth": ORDINALS[row], "columnth": ORDINALS[column]}
    return Turn(question=wording(rng, "at", **slots), answers=kinds[place].answers)


def _ask_count(rng: np.random.Generator, counts: Counter[Kind]) -> Turn:
    """Mostly of a class that is there."""
    present = [kind for kind in CLEAR if counts[kind]]
    kind = pick(rng, present) if present and chance(rng, 0.9) else pick(rng, CLEAR)
    return _numbered(wording(rng, "count", many=kind.many), counts[kind])


def _ask_any(rng: np.random.Generator, counts: Counter[Kind]) -> Turn:
    answer = "yes" if chance(rng, 0.5) else "no"
    fitting = [kind for kind in CLEAR if bool(counts[kind]) == (answer == "yes")]
    kind = pick(rng, fitting or CLEAR)
    return Turn(question=wording(rng, "any", one=kind.one), answers=("yes" if counts[kind] else "no",))


def _ask_where(rng: np.random.Generator, kinds: Sequence[Kind], place: int, columns: int) -> Turn:
    row, column = divmod(place, columns)
    answers = (
        f"row {row + 1}, column {column + 1}",
        f"row {row + 1} and column {column + 1}",
        f"{ORDINALS[row]} row, {ORDINALS[column]} column",
    )
    return Turn(question=wording(rng, "where", name=kinds[place].name), answers=answers)


def _numbered(question: str, count: int) -> Turn:
    return Turn(question=question, answers=(str(count), *NUMBER_WORDS[count : count + 1]))


@dataclass(frozen=True)
class PhotosFamily:
    """Small photographs of Fashion-MNIST."""

    name: str = "photos"
    packages: tuple[Package, ...] = (
        Package(name="dataset-fashion-mnist", origin="debian", licence="MIT", megabytes=30.9),
    )

    def prepare(self, fetched: Path, dest: Path) -> None:
        """Both sides in one array, training first. Raises DataError for files that are not as the data set's are."""
        folder = fetched / self.packages[0].name / _SET
        images = [_read_idx(folder / f"{file}-images-idx3-ubyte.gz", 3) for file in _FILES.values()]
        labels = [_read_idx(folder / f"{file}-labels-idx1-ubyte.gz", 1) for file in _FILES.values()]
        for pictures, names in zip(images, labels, strict=True):
            if len(pictures) != len(names) or pictures.shape[1:] != (SIDE, SIDE) or names.max() >= len(KINDS):
                raise DataError(f"{folder}: {pictures.shape} pictures and {len(names)} labels do not fit; fetch again")
        np.save(dest / _IMAGES, np.concatenate(images), allow_pickle=False)
        np.save(dest / _LABELS, np.concatenate(labels), allow_pickle=False)
        np.save(dest / "sizes.npy", np.array([len(names) for names in labels]), allow_pickle=False)

    def open(self, material: Path) -> Photos:
        """Maps the array. Raises DataError naming the missing file."""
        return Photos(material)

    def side(self, unit: str) -> Split:
        """The data set's own test side is held out."""
        return "heldout" if unit.startswith("heldout/") else "train"


def _read_idx(path: Path, num_axes: int) -> NDArray[np.uint8]:
    """A gzipped IDX file of bytes: 0, 0, type 8, number of axes, each axis as 4 bytes, then the values."""
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read: {error}; fetch the package again") from error
    if data[:4] != bytes((0, 0, 8, num_axes)):
        raise DataError(f"{path}: begins with {data[:4].hex()}, not as an IDX file of {num_axes} axes; fetch it again")
    shape = np.frombuffer(data, ">u4", num_axes, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * num_axes).reshape(tuple(int(side) for side in shape))


FAMILY = PhotosFamily()
