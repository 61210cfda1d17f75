"""Family `photos`: answers are checked against classes that are read off the picture's own pixels."""

from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nvila.data.build.photos import FAMILY, KINDS, ORDINALS, WORDINGS, Photos
from nvila.data.build.shards import generator
from nvila.data.corpus.canvas import Turn
from nvila.errors import DataError
from nvila.types import ImagePart, Sample, TextPart

NUM_TRAIN, NUM_HELD_OUT = 60, 20
COUNTED = {kind.many: kind.name for kind in KINDS}
MEANT = {kind.one: kind.name for kind in KINDS}


def marked(label: int) -> np.ndarray:
    """A stand-in photograph: a bright ground with the class as a four-bit pattern of dark quarters."""
    photo = np.full((28, 28), 255, dtype=np.uint8)
    for bit in range(4):
        if (label + 1) >> bit & 1:
            y, x = 14 * (bit // 2), 14 * (bit % 2)
            photo[y + 2 : y + 12, x + 2 : x + 12] = 0
    return photo


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes()))


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fetched")
    folder = root / "dataset-fashion-mnist/usr/share/datasets/fashion-mnist"
    folder.mkdir(parents=True)
    for side, count in (("train", NUM_TRAIN), ("t10k", NUM_HELD_OUT)):
        labels = np.arange(count, dtype=np.uint8) % 10
        write_idx(folder / f"{side}-labels-idx1-ubyte.gz", labels)
        write_idx(folder / f"{side}-images-idx3-ubyte.gz", np.stack([marked(int(label)) for label in labels]))
    return root


@pytest.fixture(scope="module")
def photos(fetched: Path, tmp_path_factory: pytest.TempPathFactory) -> Photos:
    material = tmp_path_factory.mktemp("material")
    FAMILY.prepare(fetched, material)
    return FAMILY.open(material)


def made(photos: Photos, seed: int, side: str = "train") -> Sample:
    units = [unit for unit in photos.units if FAMILY.side(unit) == side]
    rng = generator("photos", "train" if side == "train" else "heldout", 0, seed)
    return photos.make(rng, units[seed % len(units)], units)


def picture_of(sample: Sample) -> Image.Image:
    part = sample.messages[0].content[0]
    assert isinstance(part, ImagePart)
    assert part.image is not None
    return part.image


def turns_of(sample: Sample) -> list[Turn]:
    texts = [
        "".join(part.text for part in message.content if isinstance(part, TextPart)) for message in sample.messages
    ]
    return [Turn(question=q, answers=(a,)) for q, a in zip(texts[::2], texts[1::2], strict=True)]


def class_in(cell: np.ndarray) -> str:
    """The class of a drawn stand-in, by whether the middle of each quarter looks like the edge (ground) or not."""
    side = len(cell)
    ground = cell[1, side // 2].astype(int)
    label = -1
    for bit in range(4):
        y, x = (int(side * (0.25 + 0.5 * part)) for part in (bit // 2, bit % 2))
        label += (np.abs(cell[y, x].astype(int) - ground).max() > 60) << bit
    return KINDS[label].name


def classes_in(sample: Sample) -> list[list[str]]:
    """Rows of classes, by the places of the boxes and the pixels inside."""
    pixels = np.asarray(picture_of(sample))
    rows: dict[float, list[str]] = {}
    for item in sorted(sample.objects, key=lambda item: (item.box[1], item.box[0])):
        left, top, right, bottom = (int(side) for side in item.box)
        rows.setdefault(item.box[1], []).append(class_in(pixels[top:bottom, left:right]))
    return list(rows.values())


def expected(question: str, rows: list[list[str]]) -> str:
    """The answer to a question, worked out from its words alone."""
    flat = [name for row in rows for name in row]
    known = [(kind, wording) for kind, wordings in WORDINGS.items() for wording in wordings.split("|")]
    kind, slots = next(
        (kind, match)
        for kind, wording in sorted(known, key=lambda item: "{" in item[1])
        if (match := re.fullmatch(re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+)", re.escape(wording)), question))
    )
    group = {"sandal": "footwear", "sneaker": "footwear", "ankle boot": "footwear", "bag": "bag"}
    match kind:
        case "at":
            given = slots.groupdict()
            place = [
                int(given[axis]) - 1 if axis in given else ORDINALS.index(given[f"{axis}th"])
                for axis in ("row", "column")
            ]
            return rows[place[0]][place[1]]
        case "name":
            return flat[0]
        case "group":
            return group.get(flat[0], "clothing")
        case "is" | "any":
            return "yes" if MEANT[slots["one"]] in flat else "no"
        case "count":
            return str(flat.count(COUNTED[slots["many"]]))
        case "shoes":
            return str(sum(group.get(name) == "footwear" for name in flat))
        case "photos":
            return str(len(flat))
        case "where":
            assert flat.count(slots["name"]) == 1, "the place is ambiguous"
            return next(
                f"row {y + 1}, column {row.index(slots['name']) + 1}"
                for y, row in enumerate(rows)
                if slots["name"] in row
            )
    raise AssertionError(kind)


def test_answers_follow_from_the_pixels(photos: Photos) -> None:
    asked = 0
    for seed in range(120):
        sample = made(photos, seed, "train" if seed % 3 else "heldout")
        rows = classes_in(sample)
        assert [item.label for item in sample.objects] == [name for row in rows for name in row]
        for turn in turns_of(sample):
            assert turn.answers[0] == expected(turn.question, rows), (seed, turn.question)
            asked += 1
        assert 2 <= len(turns_of(sample)) <= 5
        width, height = picture_of(sample).size
        assert 112 <= height <= 672
        assert 112 <= width <= 672
    assert asked > 300


def test_same_seed_same_sample(photos: Photos) -> None:
    for seed in range(8):
        first, second = made(photos, seed), made(photos, seed)
        assert picture_of(first).tobytes() == picture_of(second).tobytes()
        assert turns_of(first) == turns_of(second)
    assert picture_of(made(photos, 1)).tobytes() != picture_of(made(photos, 1 + NUM_TRAIN)).tobytes()


def test_sides_are_the_data_sets_own(photos: Photos) -> None:
    sides = [FAMILY.side(unit) for unit in photos.units]
    assert (sides.count("train"), sides.count("heldout")) == (NUM_TRAIN, NUM_HELD_OUT)
    assert list(photos.units) == sorted(set(photos.units))


def test_pictures_come_from_the_same_side_only(fetched: Path, tmp_path: Path) -> None:
    """Everything of the other side is made invisible: samples do not change."""
    FAMILY.prepare(fetched, tmp_path)
    before = FAMILY.open(tmp_path)
    samples = [made(before, seed) for seed in range(50)]
    images = np.load(tmp_path / "images.npy")
    images[NUM_TRAIN:] = 0
    np.save(tmp_path / "images.npy", images)
    after = FAMILY.open(tmp_path)
    for seed, sample in enumerate(samples):
        assert picture_of(made(after, seed)).tobytes() == picture_of(sample).tobytes()


def test_every_kind_of_question_has_six_wordings() -> None:
    for kind, wordings in WORDINGS.items():
        assert len(set(wordings.split("|"))) >= 6, kind


def test_broken_files_are_errors(fetched: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nvila data fetch --families photos"):
        FAMILY.open(tmp_path)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: cannot be read"):
        FAMILY.prepare(tmp_path, tmp_path)
    folder = fetched / "dataset-fashion-mnist/usr/share/datasets/fashion-mnist"
    copy = tmp_path / folder.relative_to(fetched)
    copy.mkdir(parents=True)
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    write_idx(copy / "t10k-labels-idx1-ubyte.gz", np.zeros(3, dtype=np.uint8))
    with pytest.raises(DataError, match="and 3 labels do not fit"):
        FAMILY.prepare(tmp_path, tmp_path)
