"""Named pictures: names from captions, units kept together, answers that follow from the stand-in's own table."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from nvila.data.build.stamps import FAMILY, ORDINALS, WORDINGS, Stamps
from nvila.data.build.stamps_bank import STAMPS_FOLDER, STAMPS_PACKAGE, plural_of, with_article
from nvila.data.build.stamps_kinds import concept_of, kind_of
from nvila.data.build.stamps_names import name_of
from nvila.data.corpus.preview import media_of
from nvila.errors import DataError
from nvila.types import Sample, TextPart

DRAWN = {
    "animals/birds/crow": ("A crow.", (20, 20, 20)),
    "animals/mammals/elephant": ("An elephant.", (110, 110, 120)),
    "food/fruit/banana": ("A banana.", (240, 220, 40)),
    "food/fruit/cartoon/apple": ("A red apple.", (210, 30, 30)),
    "food/fruit/apple_green": ("A green apple.", (40, 180, 50)),
    "vehicles/blue_truck": ("A blue truck.", (30, 60, 210)),
    "household/tools/hammer": ("A hammer.", (120, 80, 30)),
    "town/houses/cartoon/igloo": ("An igloo.", (180, 230, 255)),
    "plants/flowers/rose": ("A rose.", (230, 60, 130)),
    "clothes/hats/sombrero": ("A sombrero.", (200, 150, 90)),
    "symbols/math/3": ("Three.", (0, 0, 0)),
    "animals/insects/cartoon/wings": ("A couple of wings.", (90, 90, 0)),
}
KIND_OF_NAME = {
    "crow": "bird",
    "elephant": "mammal",
    "banana": "fruit",
    "red apple": "fruit",
    "green apple": "fruit",
    "blue truck": "vehicle",
    "hammer": "tool",
    "igloo": "building",
    "rose": "flower",
    "sombrero": "hat",
}


SLOTS = {"relation": "to the left of|to the right of|above|below"}


def write_stamps(fetched: Path) -> None:
    root = fetched / STAMPS_PACKAGE.name / STAMPS_FOLDER
    for index, (key, (caption, colour)) in enumerate(DRAWN.items()):
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".txt").write_text(f"{caption}\nde.utf8=Etwas.\n", encoding="utf-8")
        picture = Image.new("RGBA", (120, 90 + 6 * index))
        ImageDraw.Draw(picture).ellipse((4, 4, 114, 84 + 6 * index), fill=(*colour, 255))
        picture.save(path.with_suffix(".png"))


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Stamps:
    folder = tmp_path_factory.mktemp("stamps")
    write_stamps(folder / "fetched")
    (folder / "material").mkdir()
    FAMILY.prepare(folder / "fetched", folder / "material")
    return FAMILY.open(folder / "material")


def drawn(material: Stamps, seed: int, unit: str | None = None) -> Sample:
    units = list(material.units)
    return material.make(np.random.default_rng(seed), unit or units[seed % len(units)], units)


def spoken_turns(sample: Sample) -> list[tuple[str, str]]:
    texts = [part.text for message in sample.messages for part in message.content if isinstance(part, TextPart)]
    return list(zip(texts[::2], texts[1::2], strict=True))


def task_of(question: str, wordings: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Which kind of question this is, and what its slots hold: the wording with the most fixed text that fits."""
    templates = [(template, task) for task, several in wordings.items() for template in several.split("|")]
    for template, task in sorted(templates, key=lambda pair: -len(re.sub(r"\{\w+\}", "", pair[0]))):
        pattern = re.sub(r"\\\{(\w+)\\\}", _slot, re.escape(template))
        match = re.fullmatch(pattern, question, re.IGNORECASE)
        if match:
            return task, match.groupdict()
    raise AssertionError(f"no wording gives {question!r}")


def _slot(slot: re.Match[str]) -> str:
    return f"(?P<{slot[1]}>{SLOTS.get(slot[1], '.+?')})"


def bare(thing: str) -> str:
    return re.sub(r"^(an?|the) ", "", thing)


def options_of(text: str) -> set[str]:
    return {bare(option) for option in re.split(r", | or ", text)}


@pytest.mark.parametrize(
    ("path", "caption", "name"),
    [
        ("animals/fish/lionfish", "A very poisonous lionfish!", "lionfish"),
        ("animals/birds/peacock", "A peacock (a male peafowl).", "peacock"),
        ("food/fruit/grapes", "A bunch of grapes.", "grapes"),
        ("animals/mammals/cats/tiger_sumatran", "A Sumatran tiger.", "Sumatran tiger"),
        ("symbols/math/3", "Three.", None),
        ("animals/insects/cartoon/wings", "A couple of wings.", None),
        ("food/cheese", "Say cheese!", "cheese"),
    ],
)
def test_names_come_from_captions_or_the_table(path: str, caption: str, name: str | None) -> None:
    assert name_of(path, caption) == name


def test_kinds_follow_the_longest_prefix_and_words_that_mean_the_same_share_a_unit() -> None:
    assert kind_of("animals/mammals/bears/bear") == "mammal"
    assert kind_of("animals/mammals/bears/toys/edward_bear") == "toy"
    assert kind_of("space/rocket1") is None
    assert concept_of("bunny") == concept_of("big eared rabbit")
    assert concept_of("crow") != concept_of("lark")


@pytest.mark.parametrize(
    ("name", "plural"),
    [
        ("crow", "crows"),
        ("mouse", "mice"),
        ("snowman", "snowmen"),
        ("fox", "foxes"),
        ("cherry", "cherries"),
        ("key", "keys"),
    ],
)
def test_plurals(name: str, plural: str) -> None:
    assert plural_of(name) == plural
    assert with_article("igloo") == "an igloo"


def test_prepare_keeps_what_has_a_name_and_units_hold_all_its_pictures(material: Stamps) -> None:
    assert {stamp.name for stamp in material.bank.stamps} == set(KIND_OF_NAME)
    assert len(material.bank.by_concept["apple"]) == 2
    assert len(material.units) == 9


def test_every_answer_follows_from_the_table_of_the_stand_in(material: Stamps) -> None:
    seen = set()
    for seed in range(80):
        sample = drawn(material, seed)
        width, height = media_of(sample)[0].size
        assert 112 <= min(width, height) <= max(width, height) <= 1344
        labels = [item.label for item in sample.objects]
        turns = spoken_turns(sample)
        assert 1 <= len(turns) <= 5
        assert len({question for question, _ in turns}) == len(turns)
        for question, answer in turns:
            task, slots = task_of(question, WORDINGS)
            seen.add(task)
            check(sample, labels, task, slots, answer)
    assert seen == set(WORDINGS)


def check(sample: Sample, labels: list[str], task: str, slots: dict[str, str], answer: str) -> None:
    if task == "name":
        assert answer == labels[0]
    elif task == "kind":
        assert answer == KIND_OF_NAME[labels[0]]
        assert answer in options_of(slots["options"])
    elif task == "choice":
        options = options_of(slots["options"])
        assert answer == labels[0]
        assert answer in options
        assert len([KIND_OF_NAME[name] for name in options]) == len({KIND_OF_NAME[name] for name in options})
    elif task == "is_it":
        thing = bare(slots["thing"])
        assert answer == ("yes" if thing == labels[0] else "no")
        assert thing == labels[0] or KIND_OF_NAME[thing] != KIND_OF_NAME[labels[0]]
    elif task == "ground":
        assert answer == sample.meta["ground"]
    elif task == "box":
        width, height = media_of(sample)[0].size
        told = np.asarray(ast.literal_eval(answer)) / 1000 * (width, height, width, height)
        assert np.abs(told - sample.objects[0].box).max() < 1
    elif task == "how_many":
        assert answer == str(len(labels))
    else:
        check_place(sample, labels, task, slots, answer)


def check_place(sample: Sample, labels: list[str], task: str, slots: dict[str, str], answer: str) -> None:
    """Rows and columns again, from the middles of the boxes and the picture's size."""
    columns = sample.meta["columns"]
    rows = len(labels) // columns
    width, height = media_of(sample)[0].size
    places = {}
    for item in sample.objects:
        left, top, right, bottom = item.box
        places[item.label] = (int((top + bottom) / 2 / height * rows), int((left + right) / 2 / width * columns))
    if task == "where":
        row, column = places[slots["thing"]]
        assert answer == f"row {row + 1}, column {column + 1}"
    else:
        row = ORDINALS.index(slots["row"].lower()) if "row" in slots else int(slots["r"]) - 1
        column = ORDINALS.index(slots["column"].lower()) if "column" in slots else int(slots["c"]) - 1
        assert places[answer] == (row, column)


def test_ground_colours_are_those_of_the_pixels(material: Stamps) -> None:
    from nvila.data.corpus.canvas import NAMED_COLOURS

    checked = 0
    for seed in range(60):
        sample = drawn(material, seed)
        ground = sample.meta["ground"]
        if ground is None:
            continue
        pixels = np.asarray(media_of(sample)[0], np.float64)
        border = np.concatenate([pixels[2], pixels[-3], pixels[:, 2], pixels[:, -3]])
        median = np.median(border, axis=0)
        nearest = min(NAMED_COLOURS, key=lambda name: float(((median - NAMED_COLOURS[name]) ** 2).sum()))
        checked += nearest == ground
        assert nearest == ground, (seed, median)
    assert checked >= 10


def test_same_seed_same_sample_and_only_its_own_side_is_shown(material: Stamps) -> None:
    side = ["apple", "crow", "hammer", "igloo", "truck"]
    for seed in range(25):
        first = material.make(np.random.default_rng(seed), "apple", side)
        second = material.make(np.random.default_rng(seed), "apple", side)
        assert np.array_equal(media_of(first)[0], media_of(second)[0])
        assert spoken_turns(first) == spoken_turns(second)
        words = " ".join(text for turn in spoken_turns(first) for text in turn)
        for outside in ("banana", "elephant", "rose", "sombrero"):
            assert outside not in words
            assert outside not in [item.label for item in first.objects]


def test_a_unit_has_one_side() -> None:
    sides = {unit: FAMILY.side(unit) for unit in (f"thing{index}" for index in range(400))}
    assert 15 < sum(side == "heldout" for side in sides.values()) < 75


def test_missing_material_names_the_file_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"stamps\.json is missing.*nvila data fetch"):
        FAMILY.open(tmp_path)
    with pytest.raises(DataError, match="no captions"):
        FAMILY.prepare(tmp_path, tmp_path / "dest")
