"""Furniture renders: answers again from the camera's equation and from the colours in the picture.

The stand-in catalogue holds six boxes, each of a colour, a height and a concept of its own.
"""

from __future__ import annotations

import ast
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.data.build.stand_in import turns_of
from tests.data.build.test_stamps import bare, options_of, task_of

from nvila.data.build.furniture import FAMILY, Furniture
from nvila.data.build.furniture_models import CATALOGUE, FURNITURE_FOLDER, FURNITURE_PACKAGE, Mesh, read_mesh
from nvila.data.build.furniture_names import concept_of, name_of, spoken
from nvila.data.build.furniture_questions import WORDINGS, named_colours
from nvila.data.build.furniture_render import Camera, Room, Stage, Thing, render, visible_shares
from nvila.data.corpus.preview import media_of
from nvila.errors import DataError
from nvila.types import Sample

BOXES = {
    # catalogue name: (category, width, depth, height in cm, colour, the colour's name or None)
    "Bar chair": ("Kitchen", 60, 60, 90, (0.85, 0.05, 0.05), "red"),
    "Grand piano": ("Living room", 120, 90, 100, (0.05, 0.05, 0.05), "black"),
    "Towel rack": ("Bathroom", 90, 40, 70, (0.95, 0.85, 0.05), "yellow"),
    "Vase": ("Living room", 50, 50, 60, (0.05, 0.1, 0.85), "blue"),
    "Fridge": ("Kitchen", 70, 70, 150, (0.05, 0.7, 0.1), "green"),
    "Scooter": ("Vehicles", 120, 50, 110, (0.55, 0.05, 0.6), None),
}
SPOKEN = {"Bar chair": "chair", "Grand piano": "piano", "Towel rack": "towel rack", "Vase": "vase",
          "Fridge": "refrigerator", "Scooter": "scooter"}  # fmt: skip
FULL = {"chair": "bar chair", "piano": "grand piano"}
TRUTH = {SPOKEN[name]: record for name, record in BOXES.items()}
CUBE = """mtllib box.mtl
v -1 0 -1\nv 1 0 -1\nv 1 0 1\nv -1 0 1\nv -1 2 -1\nv 1 2 -1\nv 1 2 1\nv -1 2 1
usemtl paint
f 1 2 3 4\nf 5 8 7 6\nf 1 5 6 2\nf 2 6 7 3\nf 3 7 8 4\nf 4 8 5 1
"""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Furniture:
    folder = tmp_path_factory.mktemp("furniture")
    place = folder / "fetched" / FURNITURE_PACKAGE.name / FURNITURE_FOLDER
    place.mkdir(parents=True)
    lines = []
    with zipfile.ZipFile(place / "Boxes.sh3f", "w") as archive:
        entries = [*BOXES.items(), ("Wall switch", ("Office", 8, 2, 8, (1, 1, 1), "white"))]
        for number, (name, (category, width, depth, height, colour, _)) in enumerate(entries, 1):
            archive.writestr(f"box{number}/box.obj", CUBE)
            archive.writestr(f"box{number}/box.mtl", "newmtl paint\nKd {} {} {}\n".format(*colour))
            facts = {"name": name, "category": category, "model": f"/box{number}/box.obj", "creator": "Someone"}
            sizes = {"width": width, "depth": depth, "height": height}
            lines += [f"{key}#{number}={value}" for key, value in {**facts, **sizes}.items()]
        archive.writestr(CATALOGUE, "# a list\nname=Boxes\n" + "\n".join(lines))
    (folder / "material").mkdir()
    FAMILY.prepare(folder / "fetched", folder / "material")
    return FAMILY.open(folder / "material")


@pytest.fixture(scope="module")
def samples(material: Furniture) -> list[Sample]:
    units = list(material.units)
    return [material.make(np.random.default_rng(seed), units[seed % len(units)], units) for seed in range(72)]


def ahead(sample: Sample, index: int) -> float:
    """How far in front of the camera a thing's middle is along the floor: from its place alone."""
    return float(sample.meta["camera"][2] - sample.meta["places"][index][1])


def distance(sample: Sample, index: int) -> float:
    """From the camera to the middle of a thing's body."""
    x, z = sample.meta["places"][index]
    middle = np.asarray([x, TRUTH[sample.objects[index].label][3] / 200, z])
    return float(np.linalg.norm(middle - sample.meta["camera"][:3]))


def across(sample: Sample, index: int) -> float:
    """The column at which the middle of a thing's base is seen, by the pinhole equation written out."""
    x, z = sample.meta["places"][index]
    cx, cy, cz, pitch, focal = sample.meta["camera"]
    depth = np.cos(pitch) * (cz - z) + np.sin(pitch) * cy
    width = media_of(sample)[0].size[0]
    return float(width / 2 + focal * width * (x - cx) / depth)


def index_of(sample: Sample, name: str) -> int:
    (index,) = [index for index, item in enumerate(sample.objects) if item.label == name]
    return index


def test_names_are_everyday_words_and_plugs_and_people_are_left_out() -> None:
    assert name_of("Ford Focus") == "car"
    assert name_of("Fridge") == "refrigerator"
    assert name_of("Wall type G plug") is None
    assert name_of("Motorbike") is None  # the catalogue's is a toy of a playground
    assert name_of("Sitting female") is None
    assert spoken("bar chair") == "chair"
    assert spoken("rocking horse") == "rocking horse"
    assert concept_of("bar stool") == concept_of("armchair")


def test_prepare_scales_models_to_their_true_size(material: Furniture) -> None:
    assert {model.name for model in material.models.models} == {name_of(name) for name in BOXES}
    for model in material.models.models:
        _, width, depth, height, colour, _ = TRUTH[spoken(model.name)]
        mesh = material.models.mesh(model)
        assert np.allclose(np.ptp(mesh.vertices_V3, axis=0), np.asarray([width, height, depth]) / 100)
        assert abs(float(mesh.vertices_V3[:, 1].min())) < 1e-6
        assert np.allclose(mesh.colours_M3[mesh.material_F[0]] / 255, colour, atol=0.01)


def test_every_answer_follows_from_the_places_and_the_catalogue(samples: list[Sample]) -> None:
    from nvila.data.build.cutouts_questions import WORDINGS as FLAT

    seen: Counter[str] = Counter()
    for sample in samples:
        turns = turns_of(sample)
        assert 1 <= len(turns) <= 5
        for question, answer in turns:
            task, slots = task_of(question, {**WORDINGS, **FLAT})
            seen[task] += 1
            slots = {key: value.removeprefix("the ") for key, value in slots.items()}
            check_single(sample, task, slots, answer) if sample.meta["layout"] == "single" else check_scene(
                sample, task, slots, answer
            )
    assert set(WORDINGS) <= set(seen), set(WORDINGS) - set(seen)
    assert {"count", "more", "side", "box"} <= set(seen)


def check_single(sample: Sample, task: str, slots: dict[str, str], answer: str) -> None:
    label = sample.objects[0].label
    category, *_, color = TRUTH[label]
    if task == "color":
        assert answer == color
    elif task == "room":
        assert answer == {"Kitchen": "kitchen", "Bathroom": "bathroom", "Vehicles": "street"}[category]
        assert answer in options_of(slots["options"])
    elif task == "present":
        assert answer == ("yes" if bare(slots["thing"]) == FULL.get(label, label) else "no")
    elif task == "box":
        check_box(sample, slots, answer)
    else:
        assert task in ("name", "choice")
        assert answer == FULL.get(label, label)
        assert "options" not in slots or answer in {bare(option) for option in options_of(slots["options"])}


def check_scene(sample: Sample, task: str, slots: dict[str, str], answer: str) -> None:
    labels = [item.label for item in sample.objects]
    counts = Counter(labels)
    if task == "count":
        assert int(answer) == counts[slots["things"].removesuffix("s")]
    elif task == "count_all":
        assert int(answer) == len(labels)
    elif task in ("more", "fewer"):
        a, b = (counts[slots[key].removesuffix("s")] for key in ("a", "b"))
        assert a != b
        assert answer == (slots["a"] if (a > b) == (task == "more") else slots["b"])
    elif task == "present":
        assert answer == ("yes" if counts[bare(slots["thing"])] else "no")
    elif task == "color":
        assert answer == TRUTH[slots["thing"]][5]
    elif task in ("box", "at_box"):
        check_box(sample, slots, answer)
    elif task == "tallest":
        assert answer == max(labels, key=lambda name: TRUTH[name][3])
    elif task in ("nearest", "farthest"):
        order = sorted(range(len(labels)), key=lambda index: distance(sample, index))
        near, far = labels[order[0]], labels[order[-1]]
        assert answer == (near if task == "nearest" else far)
    else:
        check_order(sample, task, slots, answer)


def check_order(sample: Sample, task: str, slots: dict[str, str], answer: str) -> None:
    if task == "ordinal":
        order = sorted(range(len(sample.objects)), key=lambda i: across(sample, i), reverse=slots["end"] == "right")
        nth = ("first", "second", "third", "fourth", "fifth").index(slots["nth"])
        assert answer == sample.objects[order[nth]].label
    elif task == "neighbour":
        anchor = across(sample, index_of(sample, slots["b"]))
        left = "left" in slots["relation"]
        there = [
            item.label
            for index, item in enumerate(sample.objects)
            if item.label != slots["b"] and (across(sample, index) < anchor) == left
        ]
        assert there == [answer]
    else:
        a, b = index_of(sample, slots["a"]), index_of(sample, slots["b"])
        if task == "side":
            assert answer == ("left" if across(sample, a) < across(sample, b) else "right")
        elif task == "depth":
            assert answer == ("in front of" if ahead(sample, a) < ahead(sample, b) else "behind")
        else:
            assert task == "nearer"
            assert answer == (slots["a"] if ahead(sample, a) < ahead(sample, b) else slots["b"])


def check_box(sample: Sample, slots: dict[str, str], answer: str) -> None:
    """The box that is told holds the pixels of the thing's colour, and next to none of them lie outside it."""
    width, height = media_of(sample)[0].size
    name, told = (slots["thing"], answer) if "thing" in slots else (answer, slots["box"])
    box = np.asarray(ast.literal_eval(told)) / 1000 * (width, height, width, height)
    truth = [item.box for item in sample.objects if item.label == name]
    assert min(float(np.abs(box - one).max()) for one in truth) <= 1


def _coloured(sample: Sample, color: str) -> NDArray[np.bool_]:
    pixels = np.asarray(media_of(sample)[0])
    return (named_colours(pixels.reshape(-1, 3)) == color).reshape(pixels.shape[:2])


def test_colours_are_seen_inside_the_boxes_and_vivid_ones_only_there(samples: list[Sample]) -> None:
    checked = 0
    for sample in samples:
        for color, name in (("red", "chair"), ("blue", "vase"), ("green", "refrigerator")):
            mask = _coloured(sample, color)
            inside = np.zeros_like(mask)
            for item in sample.objects:
                left, top, right, bottom = (int(value) for value in item.box)
                if item.label == name:
                    assert mask[top:bottom, left:right].mean() > 0.08, (sample.meta["layout"], name)
                    inside[max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2] = True
                    checked += 1
            assert (mask & ~inside).mean() < 0.002
    assert checked > 40


def _room(style: str) -> Room:
    return Room(
        floor=(200, 200, 200), other=(180, 180, 180), style=style, tile=0.5, wall=-9.0, wall_colour=(220, 220, 220),
        light=(0.3, 1.0, 0.4),
    )  # fmt: skip


def test_hidden_shares_agree_with_two_boxes_in_line() -> None:
    """A box straight behind an equal one is mostly hidden; beside it, it is not."""
    mesh = _unit_box()
    room = _room("checks")
    camera = Camera(place=(0.0, 1.0, 6.0), pitch=0.1, focal=1.0, size=(224, 208))
    behind = [Thing(mesh=mesh, x=0.0, z=0.0, yaw=0.0), Thing(mesh=mesh, x=0.0, z=-2.0, yaw=0.0)]
    beside = [behind[0], Thing(mesh=mesh, x=2.0, z=-2.0, yaw=0.0)]
    first, second = visible_shares(Stage(behind), camera)
    assert first == 1.0
    assert second < 0.4
    assert visible_shares(Stage(beside), camera) == [1.0, 1.0]
    assert set(np.unique(render(Stage(beside), camera, room).owner_HW)) == {-1, 0, 1}


def test_projection_agrees_with_what_is_seen() -> None:
    mesh = _unit_box()
    room = _room("plain")
    camera = Camera(place=(0.5, 2.0, 5.0), pitch=0.3, focal=1.2, size=(256, 208))
    thing = Thing(mesh=mesh, x=0.3, z=0.2, yaw=0.4)
    rows, columns = np.nonzero(render(Stage([thing]), camera, room).owner_HW == 0)
    pixels, _ = camera.project(thing.vertices_V3())
    seen = np.asarray([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert np.abs(seen - [*pixels.min(0), *pixels.max(0)]).max() <= 1.5


def test_a_texture_named_by_a_foreign_path_is_the_only_picture_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "box.obj").write_text(
        CUBE.replace("v -1 0 -1", "vt 0.5 0.5\nv -1 0 -1", 1).replace("f 1 2 3 4", "f 1/1 2/1 3/1 4/1")
    )
    (tmp_path / "box.mtl").write_text("newmtl paint\nKd 0.8 0.1 0.1\nmap_Kd /home/maker/my wood.jpg\n")
    Image.new("RGB", (300, 200), (10, 200, 30)).save(tmp_path / "wood.png")
    mesh = read_mesh(tmp_path / "box.obj", (1.0, 1.0, 1.0), np.eye(3))
    assert mesh is not None
    assert mesh.textures_M4[0, 3] == 1
    assert mesh.pixels_P3[0].tolist() == [10, 200, 30]
    assert max(mesh.textures_M4[0, 1:3]) <= 128


def _unit_box() -> Mesh:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "box.obj"
        path.write_text(CUBE)
        (Path(folder) / "box.mtl").write_text("newmtl paint\nKd 0.8 0.1 0.1\n")
        mesh = read_mesh(path, (1.0, 1.0, 1.0), np.eye(3))
    assert mesh is not None
    return mesh


def test_same_seed_same_scene_and_only_its_own_side_is_shown(material: Furniture) -> None:
    side = [concept_of(name) for name in ("chair", "piano", "vase", "scooter")]
    assert set(side) < set(material.units)
    for seed in range(15):
        first, second = (material.make(np.random.default_rng(seed), side[2], side) for _ in range(2))
        assert np.array_equal(media_of(first)[0], media_of(second)[0])
        assert turns_of(first) == turns_of(second)
        assert "vase" in [item.label for item in first.objects]
        text = " ".join(word for turn in turns_of(first) for word in turn)
        assert "towel rack" not in text
        assert "refrigerator" not in text


def test_missing_material_names_the_file_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"models\.json is missing.*nvila data fetch"):
        FAMILY.open(tmp_path)
    with pytest.raises(DataError, match="no catalogue"):
        FAMILY.prepare(tmp_path, tmp_path / "dest")
