"""Scenes of cut-outs: every answer again from the boxes, and the boxes again from the pixels."""

from __future__ import annotations

import ast
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageDraw
from tests.data.build.stand_in import turns_of

from nvila.data.build.cutouts import FAMILY, Cutouts
from nvila.data.build.cutouts_questions import NUMBER_WORDS, WORDINGS
from nvila.data.build.stamps_bank import STAMPS_FOLDER, STAMPS_PACKAGE
from nvila.data.corpus.preview import media_of
from nvila.types import Sample

DRAWN = {
    "animals/birds/crow": ("A crow.", (0, 0, 0)),
    "animals/mammals/elephant": ("An elephant.", (120, 20, 200)),
    "food/fruit/banana": ("A banana.", (250, 230, 0)),
    "vehicles/truck": ("A truck.", (0, 0, 250)),
    "household/tools/hammer": ("A hammer.", (110, 60, 0)),
    "town/houses/cartoon/igloo": ("An igloo.", (0, 240, 240)),
    "plants/flowers/rose": ("A rose.", (250, 0, 120)),
    "clothes/hats/sombrero": ("A sombrero.", (0, 140, 0)),
}
COLOURS = {caption.split()[-1].strip("."): colour for caption, colour in DRAWN.values()}
PLURALS = {"crow": "crows", "elephant": "elephants", "banana": "bananas", "truck": "trucks", "hammer": "hammers",
           "igloo": "igloos", "rose": "roses", "sombrero": "sombreros"}  # fmt: skip
SINGULAR = {plural: name for name, plural in PLURALS.items()}
Box = tuple[float, float, float, float]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Cutouts:
    folder = tmp_path_factory.mktemp("cutouts")
    root = folder / "fetched" / STAMPS_PACKAGE.name / STAMPS_FOLDER
    for key, (caption, colour) in DRAWN.items():
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
        picture = Image.new("RGBA", (100, 100))
        ImageDraw.Draw(picture).ellipse((2, 2, 97, 97), fill=(*colour, 255))
        picture.save(path.with_suffix(".png"))
    (folder / "material").mkdir()
    FAMILY.prepare(folder / "fetched", folder / "material")
    return FAMILY.open(folder / "material")


@pytest.fixture(scope="module")
def samples(material: Cutouts) -> list[Sample]:
    units = list(material.units)
    return [material.make(np.random.default_rng(seed), units[seed % len(units)], units) for seed in range(120)]


def test_boxes_are_where_the_colours_are(samples: list[Sample]) -> None:
    """Each stand-in is a disc of its own colour: its box is full of it, but on plain grounds the corners are not."""
    corners = []
    for sample in samples:
        pixels = np.asarray(media_of(sample)[0], np.int32)
        for item in sample.objects:
            left, top, right, bottom = (int(value) for value in item.box)
            near = _near(pixels[top:bottom, left:right], COLOURS[item.label])
            assert near.mean() > 0.5, (sample.meta, item)
            if sample.meta["ground"] is not None:
                corners += [near[0, 0], near[0, -1], near[-1, 0], near[-1, -1]]
    assert len(corners) > 200
    assert np.mean(corners) < 0.1


def _near(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Pixels of a hue like `colour`'s, whatever the brightness it was dimmed to."""
    scaled = pixels / np.maximum(1, pixels.max(-1, keepdims=True))
    wanted = np.asarray(colour) / max(1, *colour)
    dark = pixels.max(-1) < 60
    return dark if max(colour) == 0 else (np.abs(scaled - wanted).max(-1) < 0.3) & ~dark


def test_at_most_a_quarter_is_covered(samples: list[Sample]) -> None:
    for sample in samples:
        boxes = [item.box for item in sample.objects]
        for index, a in enumerate(boxes):
            for b in boxes[index + 1 :]:
                wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
                area = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
                assert max(0, wide) * max(0, high) <= 0.101 * area


def test_every_answer_follows_from_the_boxes(samples: list[Sample]) -> None:
    from tests.data.build.test_stamps import task_of

    seen: Counter[str] = Counter()
    for sample in samples:
        turns = turns_of(sample)
        assert 2 <= len(turns) <= 5
        for question, answer in turns:
            task, slots = task_of(question, WORDINGS)
            seen[task] += 1
            CHECKS[task](sample, {key: value.removeprefix("the ") for key, value in slots.items()}, answer)
    assert set(seen) == set(WORDINGS), set(WORDINGS) - set(seen)


def _named(sample: Sample, name: str) -> list[Box]:
    return [item.box for item in sample.objects if item.label == name]


def _only(sample: Sample, name: str) -> Box:
    (box,) = _named(sample, name)
    return box


def _middle(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _where(first: Box, second: Box, axis: int) -> str:
    names = (("left", "right"), ("above", "below"))[axis]
    return names[_middle(first)[axis] > _middle(second)[axis]]


def check_count(sample: Sample, slots: dict[str, str], answer: str) -> None:
    assert int(answer) == len(_named(sample, SINGULAR[slots["things"]]))


def check_all(sample: Sample, slots: dict[str, str], answer: str) -> None:
    assert int(answer) == len(sample.objects)


def check_half(sample: Sample, slots: dict[str, str], answer: str) -> None:
    width, height = media_of(sample)[0].size
    half = slots["half"].lower()
    inside = {
        "left": lambda x, y: x < width / 2,
        "right": lambda x, y: x > width / 2,
        "top": lambda x, y: y < height / 2,
        "bottom": lambda x, y: y > height / 2,
    }[half]
    assert int(answer) == sum(inside(*_middle(box)) for box in _named(sample, SINGULAR[slots["things"]]))


def check_more(sample: Sample, slots: dict[str, str], answer: str) -> None:
    counts = {plural: len(_named(sample, SINGULAR[plural])) for plural in (slots["a"], slots["b"])}
    assert list(counts.values()).count(counts[answer]) == 1
    assert answer == max(counts, key=lambda plural: counts[plural])


def check_fewer(sample: Sample, slots: dict[str, str], answer: str) -> None:
    counts = {plural: len(_named(sample, SINGULAR[plural])) for plural in (slots["a"], slots["b"])}
    assert list(counts.values()).count(counts[answer]) == 1
    assert answer == min(counts, key=lambda plural: counts[plural])


def check_present(sample: Sample, slots: dict[str, str], answer: str) -> None:
    assert answer == ("yes" if _named(sample, slots["thing"].split(" ", 1)[1]) else "no")


def check_side(sample: Sample, slots: dict[str, str], answer: str) -> None:
    assert answer == _where(_only(sample, slots["a"]), _only(sample, slots["b"]), 0)


def check_height(sample: Sample, slots: dict[str, str], answer: str) -> None:
    assert answer == _where(_only(sample, slots["a"]), _only(sample, slots["b"]), 1)


def check_relation(sample: Sample, slots: dict[str, str], answer: str) -> None:
    word = next(word for word in ("left", "right", "above", "below") if word in slots["relation"])
    true = _where(_only(sample, slots["a"]), _only(sample, slots["b"]), int(word in ("above", "below")))
    assert answer == ("yes" if word == true else "no")


def check_neighbour(sample: Sample, slots: dict[str, str], answer: str) -> None:
    word = next(word for word in ("left", "right", "above", "below") if word in slots["relation"])
    anchor = _only(sample, slots["b"])
    axis = int(word in ("above", "below"))
    there = [item.label for item in sample.objects if item.box != anchor and _where(item.box, anchor, axis) == word]
    assert there == [answer]


def check_between(sample: Sample, slots: dict[str, str], answer: str) -> None:
    low, high = sorted(_middle(_only(sample, slots[key]))[0] for key in ("a", "b"))
    inside = [item.label for item in sample.objects if low < _middle(item.box)[0] < high]
    assert inside == [answer]


def check_biggest(sample: Sample, slots: dict[str, str], answer: str) -> None:
    sizes = sorted(((item.box[2] - item.box[0]) * (item.box[3] - item.box[1]), item.label) for item in sample.objects)
    assert answer == sizes[0 if slots["most"] == "smallest" else -1][1]


def check_corner(sample: Sample, slots: dict[str, str], answer: str) -> None:
    width, height = media_of(sample)[0].size
    corner = slots["corner"].lower()
    x, y = (0 if "left" in corner else width), (0 if "top" in corner else height)
    nearest = min(
        sample.objects,
        key=lambda item: abs(_middle(item.box)[0] - x) / width + abs(_middle(item.box)[1] - y) / height,
    )
    assert answer == nearest.label


def check_box(sample: Sample, slots: dict[str, str], answer: str) -> None:
    width, height = media_of(sample)[0].size
    found = np.asarray(ast.literal_eval(answer)) / 1000 * (width, height, width, height)
    assert np.abs(found - _only(sample, slots["thing"])).max() <= 0.0005 * max(width, height) + 1e-6


def check_at_box(sample: Sample, slots: dict[str, str], answer: str) -> None:
    width, height = media_of(sample)[0].size
    box = np.asarray(ast.literal_eval(slots["box"])) / 1000 * (width, height, width, height)
    nearest = min(sample.objects, key=lambda item: float(np.abs(box - item.box).sum()))
    assert answer == nearest.label


def check_odd(sample: Sample, slots: dict[str, str], answer: str) -> None:
    counts = Counter(item.label for item in sample.objects)
    assert counts[answer] == 1
    assert len(counts) == 2
    assert max(counts.values()) >= 3


def check_ordinal(sample: Sample, slots: dict[str, str], answer: str) -> None:
    order = sorted(sample.objects, key=lambda item: _middle(item.box)[0], reverse=slots["end"] == "right")
    assert answer == order[("first", "second", "third", "fourth", "fifth").index(slots["nth"])].label


def check_ground(sample: Sample, slots: dict[str, str], answer: str) -> None:
    assert answer == sample.meta["ground"]


CHECKS = {
    "count": check_count,
    "count_all": check_all,
    "count_half": check_half,
    "more": check_more,
    "fewer": check_fewer,
    "present": check_present,
    "side": check_side,
    "height": check_height,
    "relation": check_relation,
    "neighbour": check_neighbour,
    "between": check_between,
    "biggest": check_biggest,
    "corner": check_corner,
    "box": check_box,
    "at_box": check_at_box,
    "odd": check_odd,
    "ordinal": check_ordinal,
    "ground": check_ground,
}


def test_same_seed_same_scene_and_only_its_own_side_is_shown(material: Cutouts) -> None:
    side = ["crow", "elephant", "flower", "truck"]
    for seed in range(20):
        first = material.make(np.random.default_rng(seed), "crow", side)
        second = material.make(np.random.default_rng(seed), "crow", side)
        assert np.array_equal(media_of(first)[0], media_of(second)[0])
        assert turns_of(first) == turns_of(second)
        assert "crow" in [item.label for item in first.objects]
        text = " ".join(word for turn in turns_of(first) for word in turn)
        assert {item.label for item in first.objects} <= {"crow", "elephant", "rose", "truck"}
        assert not any(outside in text for outside in ("banana", "hammer", "igloo", "sombrero"))


def test_each_question_has_six_wordings_and_numbers_reach_the_most_things() -> None:
    assert all(len(set(templates.split("|"))) >= 6 for templates in WORDINGS.values())
    assert len(NUMBER_WORDS) == 15
