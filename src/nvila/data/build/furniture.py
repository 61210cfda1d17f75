"""Family `furniture`: renders of 3-D models, one alone (naming) or up to seven on a floor (counting, place, depth).

The models are Sweet Home 3D's. A unit is a concept: all models whose names may be taken for each other. A scene holds
things of like size, so that none is lost, standing apart on the floor; none is hidden by more than a quarter, and
none touches the picture's border. Boxes are (left, top, right, bottom) in pixels and count hidden parts too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nvila.data.build.cutouts_questions import scaled
from nvila.data.build.cutouts_questions import worded as flat_worded
from nvila.data.build.family import Package, one_in_ten
from nvila.data.build.furniture_models import FURNITURE_PACKAGE, Model, Models, write_models
from nvila.data.build.furniture_names import OTHER_ROOMS, ROOMS, UNPLACED, spoken
from nvila.data.build.furniture_questions import Standing, color_answers, main_colour, scene_questions, worded
from nvila.data.build.furniture_render import Camera, Room, Stage, Thing, View, outline, render, visible_shares
from nvila.data.build.stamps_bank import countable, plural_of, with_article
from nvila.data.corpus.canvas import (
    NAMED_COLOURS,
    Colour,
    Turn,
    chance,
    damage,
    make_sample,
    named_colour,
    number,
    pick,
)
from nvila.data.corpus.splits import Split
from nvila.types import LabelledBox, Sample

MOST_HIDDEN = 0.25
LEAST_FILL = 0.1
"""Least part of its box that a thing of a scene fills; of thinner ones (a clothes hanger) too little is seen."""
LIKE_SIZE = 2.2


@dataclass
class Furniture:
    """Opened material of the family."""

    models: Models
    units: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        self.units = sorted(self.models.by_concept)

    def make(self, rng: np.random.Generator, unit: str, same_side: Sequence[str]) -> Sample:
        """A render of one model of `unit` alone (two in five), or a scene in which it occurs."""
        model = pick(rng, self.models.by_concept[unit])
        if chance(rng, 0.4) or not countable(spoken(model.name)):
            return self._single(rng, model, same_side)
        for _ in range(8):
            sample = self._scene(rng, model, same_side)
            if sample is not None:
                return sample
        return self._single(rng, model, same_side)

    def _single(self, rng: np.random.Generator, model: Model, same_side: Sequence[str]) -> Sample:
        yaw = float(rng.uniform(-1.1, 1.1))
        thing = Thing(mesh=self.models.mesh(model), x=0.0, z=0.0, yaw=yaw)
        stage = Stage([thing])
        camera = _framing(rng, stage, fill=float(rng.uniform(0.55, 0.88)))
        view = render(stage, camera, _room(rng, stage, camera))
        names = tuple(dict.fromkeys((model.name, spoken(model.name))))
        turns = [Turn(question=worded(rng, "name"), answers=names)]
        others = self._others(rng, model, same_side, 3)
        if len(others) == 3 and chance(rng, 0.4):
            options = _one_of(rng, [one.name for one in (model, *others)])
            turns = [Turn(question=worded(rng, "choice", options=options), answers=names)]
        later = []
        if model.category in ROOMS and model.name not in UNPLACED:
            home = ROOMS[model.category]
            places = [place for place in (*ROOMS.values(), *OTHER_ROOMS) if place != home]
            wrong = [places[int(index)] for index in rng.permutation(len(places))[:2]]
            options = _one_of(rng, [f"the {place}" for place in (home, *wrong)])
            later.append(Turn(question=worded(rng, "room", options=options), answers=(home, f"the {home}")))
        color = main_colour(view.paint_HW3[view.owner_HW == 0])
        if color is not None:
            later.append(Turn(question=worded(rng, "color", thing=spoken(model.name)), answers=color_answers(color)))
        later += self._presence_and_box(rng, model, others, stage, camera)
        order = rng.permutation(len(later))[: number(rng, 1, 3)]
        later = [later[int(index)] for index in order]
        return self._sample(rng, view, camera, [model], stage, turns + later, unit=model.concept, layout="single")

    def _presence_and_box(
        self, rng: np.random.Generator, model: Model, others: list[Model], stage: Stage, camera: Camera
    ) -> list[Turn]:
        turns = []
        shown, answer = (others[-1], "no") if others and chance(rng, 0.5) else (model, "yes")
        if countable(shown.name):
            question = flat_worded(rng, "present", thing=with_article(shown.name))
            turns.append(Turn(question=question, answers=(answer,)))
        if countable(spoken(model.name)):
            box = scaled(outline(stage.world[0], camera), camera.size)
            turns.append(Turn(question=flat_worded(rng, "box", thing=spoken(model.name)), answers=(box,)))
        return turns

    def _scene(self, rng: np.random.Generator, model: Model, same_side: Sequence[str]) -> Sample | None:
        """None when the things cannot be placed in sight, or too little can be asked."""
        cast = self._cast(rng, model, same_side)
        if len(cast) < 2:
            return None
        spots = _spots(rng, cast)
        if spots is None:
            return None
        things = [
            Thing(mesh=self.models.mesh(one), x=x, z=z, yaw=float(rng.uniform(-0.7, 0.7)))
            for one, (x, z) in zip(cast, spots, strict=True)
        ]
        stage = Stage(things)
        camera = _framing(rng, stage, fill=0.92)
        shortest = min(_shorter(outline(vertices, camera)) for vertices in stage.world)
        if shortest < 0.05 * min(camera.size) or min(visible_shares(stage, camera)) < 1 - MOST_HIDDEN:
            return None
        view = render(stage, camera, _room(rng, stage, camera))
        standing = [_standing(one, stage, camera, view, index) for index, one in enumerate(cast)]
        if min(_fill(one) for one in standing) < LEAST_FILL:
            return None
        absent = self._others(rng, model, same_side, 1, apart_from=cast)
        turns = scene_questions(rng, standing, camera.size, spoken(absent[0].name) if absent else None)
        if len(turns) < 2:
            return None
        return self._sample(rng, view, camera, cast, stage, turns, unit=model.concept, layout="scene")

    def _sample(
        self,
        rng: np.random.Generator,
        view: View,
        camera: Camera,
        cast: list[Model],
        stage: Stage,
        turns: list[Turn],
        *,
        unit: str,
        layout: str,
    ) -> Sample:
        boxes = [outline(vertices, camera) for vertices in stage.world]
        objects = [LabelledBox(label=spoken(one.name), box=box) for one, box in zip(cast, boxes, strict=True)]
        makers = sorted({f"{one.name}: {one.creator}, {one.licence}" for one in cast})
        image = damage(rng, Image.fromarray(view.pixels_HW3))
        return make_sample(
            image,
            *turns,
            task="furniture",
            objects=objects,
            unit=unit,
            layout=layout,
            makers=makers,
            places=[[thing.x, thing.z] for thing in stage.things],
            camera=[*camera.place, camera.pitch, camera.focal],
        )

    def _cast(self, rng: np.random.Generator, model: Model, same_side: Sequence[str]) -> list[Model]:
        """The models to place, one entry a thing, in random order: like in size, apart in name, some repeated."""
        kinds = [model, *self._others(rng, model, same_side, number(rng, 1, 4), like_size=True)]
        cast = [one for one in kinds for _ in range(number(rng, 1, 3) if chance(rng, 0.45) else 1)][:7]
        cast = [self._variant(rng, one) for one in cast]
        return [cast[int(index)] for index in rng.permutation(len(cast))]

    def _variant(self, rng: np.random.Generator, model: Model) -> Model:
        """Another model that is called the same in a scene and is of like size, now and then."""
        same = [
            one
            for one in self.models.by_concept[model.concept]
            if spoken(one.name) == spoken(model.name) and _like_size(one, model)
        ]
        return pick(rng, same) if same and chance(rng, 0.4) else model

    def _others(
        self,
        rng: np.random.Generator,
        model: Model,
        same_side: Sequence[str],
        count: int,
        *,
        like_size: bool = False,
        apart_from: Sequence[Model] = (),
    ) -> list[Model]:
        """Up to `count` models of other concepts of this side, with no word in common with each other."""
        found = [model, *apart_from]
        kept: list[Model] = []
        for _ in range(25 * count):
            if len(kept) == count:
                break
            other = pick(rng, self.models.by_concept[pick(rng, same_side)])
            if like_size and not (_like_size(other, model) and countable(spoken(other.name))):
                continue
            if all(_apart(other, one) for one in found):
                kept.append(other)
                found.append(other)
        return kept


def _one_of(rng: np.random.Generator, options: Sequence[str]) -> str:
    order = [options[int(index)] for index in rng.permutation(len(options))]
    return f"{', '.join(order[:-1])} or {order[-1]}"


def _apart(first: Model, second: Model) -> bool:
    return first.concept != second.concept and not set(first.name.split()) & set(second.name.split())


def _like_size(first: Model, second: Model) -> bool:
    a, b = max(first.extent), max(second.extent)
    return max(a, b) <= LIKE_SIZE * min(a, b)


def _shorter(box: tuple[int, int, int, int]) -> int:
    return min(box[2] - box[0], box[3] - box[1])


def _spots(rng: np.random.Generator, cast: Sequence[Model]) -> list[tuple[float, float]] | None:
    """Places on the floor such that the circles about the footprints do not touch; None when there is no room."""
    radii = [float(np.hypot(one.extent[0], one.extent[2])) / 2 for one in cast]
    wide = 1.5 * (sum(radius**2 for radius in radii) ** 0.5) + 0.4 * max(radii)
    spots: list[tuple[float, float]] = []
    for index, radius in enumerate(radii):
        for _ in range(30):
            x, z = float(rng.uniform(-wide, wide)), float(rng.uniform(-wide, wide)) * 0.9
            if all(
                np.hypot(x - other[0], z - other[1]) > 1.02 * (radius + radii[earlier])
                for earlier, other in enumerate(spots[:index])
            ):
                spots.append((x, z))
                break
        else:
            return None
    return spots


def _framing(rng: np.random.Generator, stage: Stage, *, fill: float) -> Camera:
    """A camera that looks down at the things and has them all in sight, filling up to `fill` of the picture."""
    points = np.concatenate([_corners(vertices) for vertices in stage.world])
    low, high = points.min(0), points.max(0)
    middle = (low + high) / 2
    span = float(np.linalg.norm(high - low))
    width = number(rng, 14, 30) * 16
    size = (width, max(208, round(width * float(rng.uniform(0.7, 1.0)) / 16) * 16))
    pitch = float(rng.uniform(0.22, 0.62))
    focal = float(rng.uniform(0.9, 1.5))
    back = 0.6 * span
    while True:
        place = (float(middle[0]), float(middle[1] + np.sin(pitch) * back), float(middle[2] + np.cos(pitch) * back))
        camera = Camera(place=place, pitch=pitch, focal=focal, size=size)
        pixels, depth = camera.project(points)
        x, y = np.abs(pixels[:, 0] / size[0] - 0.5), np.abs(pixels[:, 1] / size[1] - 0.5)
        if depth.min() > 0.1 * span and max(float(x.max()), float(y.max())) < fill / 2:
            return camera
        back *= 1.06


def _corners(vertices: NDArray[np.float32]) -> NDArray[np.float32]:
    """The eight corners of the box about vertices in the world, (8, 3)."""
    low, high = vertices.min(0), vertices.max(0)
    corners = [(x, y, z) for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])]
    return np.asarray(corners, np.float32)


def _room(rng: np.random.Generator, stage: Stage, camera: Camera) -> Room:
    """A floor with a pattern and a wall behind everything, in colours of the everyday."""
    name = pick(rng, ("white", "gray", "brown", "yellow", "green", "blue", "orange"))
    mixed = (0.35 * np.asarray(named_colour(rng, name)) + 0.65 * np.asarray(NAMED_COLOURS["white"])).astype(int)
    floor: Colour = (int(mixed[0]), int(mixed[1]), int(mixed[2]))
    shade = float(rng.uniform(0.78, 0.93))
    other: Colour = (int(floor[0] * shade), int(floor[1] * shade), int(floor[2] * shade))
    red, green, blue = rng.integers(150, 246, 3).tolist()
    behind = min(float(vertices[:, 2].min()) for vertices in stage.world)
    reach = camera.place[2] - behind
    return Room(
        floor=floor,
        other=other,
        style=pick(rng, ("plain", "checks", "planks")),
        tile=float(rng.uniform(0.05, 0.16)) * reach,
        wall=behind - float(rng.uniform(0.1, 0.8)) * reach,
        wall_colour=(red, green, blue),
        light=(float(rng.uniform(-0.8, 0.8)), float(rng.uniform(0.9, 1.6)), float(rng.uniform(0.2, 1.0))),
    )


def _fill(one: Standing) -> float:
    left, top, right, bottom = one.box
    return one.area / ((right - left) * (bottom - top))


def _standing(model: Model, stage: Stage, camera: Camera, view: View, index: int) -> Standing:
    vertices = stage.world[index]
    along = camera.place[2] - vertices[:, 2]  # on the floor: the camera's tilt does not make a tall thing nearer
    mine = view.owner_HW == index
    name = spoken(model.name)
    middle = (vertices.min(0) + vertices.max(0)) / 2
    return Standing(
        name=name,
        plural=plural_of(name),
        box=outline(vertices, camera),
        area=int(mine.sum()),
        near=float(along.min()),
        far=float(along.max()),
        distance=float(np.linalg.norm(middle - np.asarray(camera.place))),
        tall=model.extent[1],
        color=main_colour(view.paint_HW3[mine]),
    )


@dataclass(frozen=True)
class FurnitureFamily:
    """See the module's text."""

    name: str = "furniture"
    packages: tuple[Package, ...] = (FURNITURE_PACKAGE,)

    def prepare(self, fetched: Path, dest: Path) -> None:
        """Write the models from the unpacked package. Raises DataError when it holds no catalogue."""
        write_models(fetched / FURNITURE_PACKAGE.name, dest)

    def open(self, material: Path) -> Furniture:
        """Raises DataError when the index of the models is missing."""
        return Furniture(Models(material))

    def side(self, unit: str) -> Split:
        """A tenth of the concepts is held out."""
        return one_in_ten("furniture", unit)


FAMILY = FurnitureFamily()
