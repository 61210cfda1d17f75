"""Maps of bricks whose neighbours, places and capitals are known: every answer is worked out again from the bricks."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from nvila.data.build.maps import FAMILY, MapMaterial, place_of
from nvila.data.build.maps.atlas import clean_title, convert_map, depths, fill_lines, label_boxes
from nvila.data.build.maps.fonts import FONT_FILES
from nvila.data.corpus.canvas import NAMED_COLOURS, distance
from nvila.data.corpus.preview import media_of
from nvila.errors import DataError
from nvila.types import Sample, TextPart

SIZE = (360, 240)
LAND = (40, 20, 320, 220)
NAMES = ("Alba", "Brenta", "Corvia", "Dunmark", "Elstow", "Fermin", "Gosland", "Hartia", "Ibern")
CAPITALS = {name: f"{name}ville" for name in NAMES}
SEEDS = range(60)
HIGHLIGHTS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")


def bricks() -> dict[str, tuple[int, int, int, int]]:
    """Three rows of bricks in running bond, so that no four of them meet in a point: (left, top, right, bottom)."""
    widths = ((80, 120, 80), (120, 60, 100), (60, 100, 120))
    found, names = {}, iter(NAMES)
    heights = (50, 90, 60)
    top = LAND[1]
    for row, height in zip(widths, heights, strict=True):
        left = LAND[0]
        for width in row:
            found[next(names)] = (left, top, left + width, top + height)
            left += width
        top += height
    return found


BRICKS = bricks()


def beside(name: str) -> set[str]:
    """The bricks that share an edge with a brick, from their corners alone."""
    left, top, right, bottom = BRICKS[name]
    found = set()
    for other, (l2, t2, r2, b2) in BRICKS.items():
        in_row = min(bottom, b2) > max(top, t2) and (right == l2 or r2 == left)
        in_column = min(right, r2) > max(left, l2) and (bottom == t2 or b2 == top)
        if other != name and (in_row or in_column):
            found.add(other)
    return found


def write_map(folder: Path, unit: str, title: str) -> None:
    """The brick map: water on the left, another country around the rest, black lines between the bricks."""
    image = Image.new("RGB", SIZE, (187, 187, 187))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, LAND[0] - 1, SIZE[1]), fill=(255, 255, 255))
    entries = [
        ("Frontier", (0, 0, 0), "yes"),
        ("Not Brickland", (187, 187, 187), "yes"),
        ("Water", (255, 255, 255), "yes"),
    ]
    for index, (name, (left, top, right, bottom)) in enumerate(BRICKS.items()):
        colour = (20 + 20 * index, 200 - 15 * index, 90)
        draw.rectangle((left, top, right - 1, bottom - 1), fill=colour)
        draw.rectangle((left, top, right - 1, top), fill=(0, 0, 0))
        draw.rectangle((left, top, left, bottom - 1), fill=(0, 0, 0))
        entries.append((name, colour, ""))
    image.save(folder / f"{unit}.png")
    parts = [
        f"<division><name>{name}</name>"
        + (f"<ignore>{ignore}</ignore>" if ignore else f"<capital>{CAPITALS[name]}</capital>")
        + f"<color><red>{r}</red><green>{g}</green><blue>{b}</blue></color></division>"
        for name, (r, g, b), ignore in entries
    ]
    head = f"<mapFile>{unit}.png</mapFile><name>{title}</name><divisionsName>Cantons</divisionsName>"
    (folder / f"{unit}.kgm").write_text(f"<map>{head}{''.join(parts)}</map>")


def write_fonts(fetched: Path) -> None:
    """Pillow's own font under the names of all fonts that are used."""
    stream = ImageFont.load_default(12).path
    assert isinstance(stream, io.BytesIO)
    (fetched / "fonts-lato").mkdir(parents=True)
    for name in FONT_FILES:
        (fetched / "fonts-lato" / name).write_bytes(stream.getvalue())


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> MapMaterial:
    root = tmp_path_factory.mktemp("maps")
    folder = root / "fetched" / "kgeography-data" / "usr/share/kgeography"
    folder.mkdir(parents=True)
    write_map(folder, "brickland_cantons", "Brickland (Cantons)")
    write_map(folder, "otherland", "Otherland")
    write_fonts(root / "fetched")
    (root / "made").mkdir()
    FAMILY.prepare(root / "fetched", root / "made")
    opened = FAMILY.open(root / "made")
    assert isinstance(opened, MapMaterial)
    return opened


def make(material: MapMaterial, seed: int, unit: str = "brickland_cantons") -> Sample:
    return material.make(np.random.default_rng(seed), unit, material.units)


def turns(sample: Sample) -> list[tuple[str, str, str]]:
    """(kind, question, answer) of every turn."""
    texts = [message.content[-1] for message in sample.messages]
    words = [part.text for part in texts if isinstance(part, TextPart)]
    return list(zip(sample.meta["kinds"], words[::2], words[1::2], strict=True))


def centre(name: str, axis: int) -> float:
    return (BRICKS[name][axis] + BRICKS[name][axis + 2]) / 2


def area(name: str) -> int:
    left, top, right, bottom = BRICKS[name]
    return (right - left) * (bottom - top)


def named_in(text: str, shown: list[str]) -> list[str]:
    """The bricks that a question or an answer names, or gives the number of, in order."""
    found = re.findall("|".join(NAMES) + r"|number \d+", text)
    return [shown[int(item.split()[1]) - 1] if item.startswith("number") else item for item in found]


def check_pair(kind: str, question: str, answer: str, shown: list[str]) -> None:
    named = named_in(question, shown)
    if kind in ("further", "furthest"):
        way = re.search("north|south|east|west", question)
        assert way
        axis = 1 if way[0] in ("north", "south") else 0
        best = (min if way[0] in ("north", "west") else max)(named, key=lambda name: centre(name, axis))
        assert named_in(answer, shown) == [best], (question, answer)
    elif kind == "larger":
        assert named_in(answer, shown) == [max(named, key=area)], (question, answer)
    else:
        assert kind == "borders"
        assert (answer == "Yes") == (named[1] in beside(named[0])), (question, answer)


def shares(text: str) -> list[int]:
    return [int(value) for value in re.findall(r"\d+", text)]


def check(sample: Sample) -> None:
    """Every answer against the bricks, the legend's order, or the pixels."""
    image, shown = media_of(sample)[0], sample.meta["shown"]
    boxes = {item.label: item.box for item in sample.objects}
    for kind, question, answer in turns(sample):
        if kind in ("further", "furthest", "larger", "borders"):
            check_pair(kind, question, answer, shown)
        elif kind == "name":
            assert answer == shown[0]
        elif kind in ("capital", "capital_of"):
            name = shown[0] if kind == "capital" else named_in(question, shown)[0]
            assert answer == CAPITALS[name]
        elif kind == "num_borders":
            assert int(answer) == len(beside(shown[0]))
        elif kind == "water":
            assert (answer == "Yes") == (BRICKS[shown[0]][0] == LAND[0])
        elif kind == "title":
            assert answer == ("Brickland" if sample.meta["unit"].startswith("brick") else "Otherland")
        elif kind == "marked_box":
            truth = [1000 * value / SIZE[axis % 2] for axis, value in enumerate(BRICKS[shown[0]])]
            assert np.abs(np.asarray(shares(answer)) - truth).max() <= 8, (answer, truth)
        elif kind == "box":
            box = boxes[named_in(question, shown)[0]]
            assert shares(answer) == [round(1000 * value / image.size[axis % 2]) for axis, value in enumerate(box)]
        elif kind in ("by_color", "color_of"):
            name = answer if kind == "by_color" else named_in(question, shown)[0]
            left, top, right, bottom = boxes[name]
            pixel = image.getpixel((int(left + right) // 2, int(top + bottom) // 2))
            color = min(HIGHLIGHTS, key=lambda color: distance(NAMED_COLOURS[color], pixel))  # type: ignore[arg-type]
            assert color in (question if kind == "by_color" else answer)
        elif kind == "num_listed":
            assert int(answer) == len(shown)
        else:
            assert kind in ("by_number", "number_of"), kind
            digit = re.search(r"\d+", question if kind == "by_number" else answer)
            assert digit
            named = answer if kind == "by_number" else named_in(question, shown)[0]
            assert shown[int(digit[0]) - 1] == named


def test_answers_follow_from_the_bricks(material: MapMaterial) -> None:
    seen = set()
    for seed in SEEDS:
        sample = make(material, seed, material.units[seed % 2])
        assert 2 <= len(sample.meta["kinds"]) <= 5
        assert min(media_of(sample)[0].size) >= 112
        assert max(media_of(sample)[0].size) <= 1344
        check(sample)
        seen |= set(sample.meta["kinds"])
    assert len(seen) >= 15, sorted(seen)


def test_boxes_keep_the_proportions_of_the_bricks(material: MapMaterial) -> None:
    for seed in range(100, 115):
        for item in make(material, seed).objects:
            left, top, right, bottom = BRICKS[item.label]
            truth = (right - left) / (bottom - top)
            assert (item.box[2] - item.box[0]) / (item.box[3] - item.box[1]) == pytest.approx(truth, rel=0.06)


def test_one_seed_makes_one_sample(material: MapMaterial) -> None:
    for seed in range(6):
        first, second = make(material, seed), make(material, seed)
        assert first.meta == second.meta
        assert turns(first) == turns(second)
        assert media_of(first)[0].tobytes() == media_of(second)[0].tobytes()


def test_only_the_unit_itself_is_used(material: MapMaterial) -> None:
    alone = material.make(np.random.default_rng(3), "otherland", ["otherland"])
    among = material.make(np.random.default_rng(3), "otherland", material.units)
    assert turns(alone) == turns(among)


def test_maps_of_one_place_share_a_side() -> None:
    assert place_of("france_regions") == place_of("france") == "france"
    assert place_of("italyprovince") == place_of("italy")
    assert place_of("republic_of_ireland") == place_of("ireland_provinces")
    assert place_of("asia") == place_of("world_continents")
    sides = {unit: FAMILY.side(unit) for unit in (f"land{index}" for index in range(400))}
    assert 15 < sum(side == "heldout" for side in sides.values()) < 80


def test_lines_go_to_the_nearest_region() -> None:
    labels = np.array([[1, 1, 0, 0, 2, 2, 2]] * 3, dtype=np.int16)
    assert fill_lines(labels, [0])[1].tolist() == [1, 1, 1, 2, 2, 2, 2]


def test_depth_is_the_distance_to_the_nearest_border() -> None:
    labels = np.zeros((9, 9), dtype=np.uint8)
    labels[1:8, 1:8] = 1
    assert depths(labels)[4, 4] == 4
    assert depths(labels)[1, 4] == 1


def test_label_boxes_match_a_search_for_each_label() -> None:
    labels = np.random.default_rng(0).integers(0, 9, (23, 31)).astype(np.uint8)
    labels[:, :12][labels[:, :12] == 3] = 4
    for label, box in enumerate(label_boxes(labels)[:10].tolist()):
        ys, xs = np.nonzero(labels == label)
        truth = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else [0, 0, 0, 0]
        assert box == truth


def test_titles_lose_what_they_say_of_divisions() -> None:
    assert clean_title("Hungary (Counties)") == "Hungary"
    assert clean_title("Italy by Provinces") == "Italy"
    assert clean_title("New-Zealand") == "New Zealand"
    assert clean_title("Latvia Districts (Pre 2009)") == "Latvia"


@pytest.mark.parametrize(
    ("text", "message"),
    [("<map><oops></map>", "no XML"), ('<!DOCTYPE m [<!ENTITY a "b">]><map/>', "entities"), ("<map/>", "not there")],
)
def test_a_bad_map_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.kgm").write_text(text)
    with pytest.raises(DataError, match=f"bad.kgm.*{message}"):
        convert_map(tmp_path / "bad.kgm")


def test_missing_material_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"atlas\.json"):
        FAMILY.open(tmp_path)
