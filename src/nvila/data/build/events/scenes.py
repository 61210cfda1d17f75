"""Clips of scenes with hard cuts: in each, one or two things before a ground of their own, swaying a little.

A scene is an event with the action "is seen" of each of its things; nothing is in two scenes, and grounds change at
every cut. Scenes fill the clip without gaps.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from nvila.data.build.events.actors import GROUND_COLOURS, PALE, with_article
from nvila.data.build.events.film import Sprites
from nvila.data.build.events.script import FRAME_RATES, MAX_SECONDS, MIN_SECONDS, SEEN, Actors, choose_size
from nvila.data.corpus.canvas import Size, chance, number, pick

SCENE_S = (2.5, 6.0)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One scene: who is seen before which ground, from frame `first` to before `stop`."""

    actors: tuple[str, ...]
    ground: str
    first: int
    stop: int

    @property
    def names(self) -> str:
        """Who is seen, with articles."""
        return " and ".join(with_article(actor) for actor in self.actors)

    @property
    def sentence(self) -> str:
        """The scene as a sentence."""
        verb = "is" if len(self.actors) == 1 else "are"
        text = f"{self.names} {verb} seen on {with_article(self.ground)} background."
        return text[0].upper() + text[1:]


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """A clip of scenes before it is drawn."""

    size: Size
    fps: int
    scenes: tuple[Scene, ...]

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.scenes[-1].stop / self.fps

    def times(self, scene: Scene) -> tuple[float, float]:
        """Start and end of a scene in seconds."""
        return scene.first / self.fps, scene.stop / self.fps


def write_cuts(rng: np.random.Generator, unit: str, allowed: Collection[str], actors: Actors) -> Cuts:
    """Two to five scenes, one of which shows the actor of `unit`; the others' actors are seen in `allowed` units."""
    others = [actor for actor in actors if f"{actor}/{SEEN}" in allowed and f"{actor}/{SEEN}" != unit]
    order = [others[int(index)] for index in rng.permutation(len(others))]
    fps = pick(rng, FRAME_RATES)
    num_scenes = min(number(rng, 2, 5), 1 + len(order))
    own = number(rng, 0, num_scenes - 1)
    scenes: list[Scene] = []
    grounds: list[str] = []
    at = 0
    for index in range(num_scenes):
        cast = [unit.split("/")[0]] if index == own else [order.pop()]
        if order and len(order) > num_scenes and chance(rng, 0.5):
            cast.append(order.pop())
        hiding = {color for actor in cast for color in actors[actor]}
        free = [color for color in GROUND_COLOURS if color not in hiding | set(grounds)]
        if not free:
            return write_cuts(rng, unit, allowed, actors)
        grounds.append(pick(rng, free))
        stop = at + round(float(rng.uniform(*SCENE_S)) * fps)
        scenes.append(Scene(actors=tuple(cast), ground=grounds[-1], first=at, stop=stop))
        at = stop
    return Cuts(size=choose_size(rng), fps=fps, scenes=tuple(_fitted(scenes, fps)))


def _fitted(scenes: Sequence[Scene], fps: int) -> list[Scene]:
    """The scenes stretched or shrunk to a length that a clip may have."""
    length = scenes[-1].stop
    factor = min(max(1.0, MIN_SECONDS * fps / length), MAX_SECONDS * fps / length)
    cuts = [round(scene.stop * factor) for scene in scenes]
    starts = [0, *cuts[:-1]]
    return [
        Scene(actors=scene.actors, ground=scene.ground, first=first, stop=stop)
        for scene, first, stop in zip(scenes, starts, cuts, strict=True)
    ]


def shoot_cuts(rng: np.random.Generator, cuts: Cuts, sprites: Sprites) -> list[Image.Image]:
    """All frames as RGB pictures."""
    frames: list[Image.Image] = []
    for scene in cuts.scenes:
        frames += _shoot_scene(rng, cuts.size, scene, sprites)
    return frames


def _shoot_scene(rng: np.random.Generator, size: Size, scene: Scene, sprites: Sprites) -> list[Image.Image]:
    width, height = size
    cell = width / len(scene.actors)
    parts = []
    for index, actor in enumerate(scene.actors):
        side = round(min(cell, height) * float(rng.uniform(0.5, 0.75)))
        sprite = sprites.sprite(actor).resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
        x = round(index * cell) + number(rng, 3, max(3, round(cell) - side - 3))
        parts.append((sprite, x, number(rng, 3, max(3, height - side - 3)), float(rng.uniform(0, 6))))
    frames = []
    for frame in range(scene.stop - scene.first):
        image = Image.new("RGB", size, PALE[scene.ground])
        for sprite, x, y, phase in parts:
            image.paste(sprite, (x + round(2 * np.sin(phase + frame * 0.7)), y), sprite)
        frames.append(image)
    return frames
