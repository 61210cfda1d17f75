"""Draws a script: where everybody stands, how events change that frame by frame, and the pictures of it.

Every actor keeps to a cell of the frame; only a visit leaves it and returns. A word stands in a strip at the upper edge
that no cell reaches into. Frames that look alike share one picture. `progress` runs over an event from above 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import pi, sin
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from nvila.data.build.events.actors import PALE, SHAPE_ACTORS, shape_sprite
from nvila.data.build.events.script import MOVES, Event, Script
from nvila.data.build.maps.fonts import FONT_FILES, open_font
from nvila.data.corpus.canvas import Colour, chance, pick

GROWTH = 1.7
STRIP_SHARE = 0.17


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How an actor is seen in a frame: centre in pixels, side of its sprite, opacity 0..1, turn in degrees.

    `tint`: a colour's name and how far, 0..1, a shape has taken it.
    """

    x: float
    y: float
    side: float
    opacity: float = 1.0
    turn: float = 0.0
    tint: tuple[str, float] = ("", 0.0)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a clip's pictures share: the sprites of its cast, the font and place of words, whether fading is growing."""

    sprites: Mapping[str, Image.Image]
    fonts: Path
    font: str
    pops: bool


class Sprites:
    """The drawn things of a material folder by name."""

    def __init__(self, root: Path, names: tuple[str, ...]) -> None:
        self._rows = {name: row for row, name in enumerate(names)}
        self._pixels: NDArray[np.uint8] = np.load(root / "sprites.npy", mmap_mode="r", allow_pickle=False)

    def sprite(self, actor: str) -> Image.Image:
        """An actor as RGBA, drawn or a shape."""
        if actor in SHAPE_ACTORS:
            return _shape(actor)
        return Image.fromarray(np.asarray(self._pixels[self._rows[actor]]))


@lru_cache(maxsize=512)
def _shape(actor: str, color: str | None = None) -> Image.Image:
    return shape_sprite(actor, color)


def shoot(rng: np.random.Generator, script: Script, sprites: Sprites, fonts: Path) -> list[Image.Image]:
    """All frames of a script as RGB pictures of its size."""
    stage = Stage(
        sprites={actor: sprites.sprite(actor) for actor in script.cast},
        fonts=fonts,
        font=pick(rng, FONT_FILES),
        pops=chance(rng, 0.4),
    )
    poses = _places(rng, script)
    for event in script.events:
        if event.action == "appears":
            poses[event.actor] = replace(poses[event.actor], opacity=0.0)
    ends = {event: _destination(rng, script, event) for event in script.events}
    ground: Colour = PALE[script.ground]
    frames: list[Image.Image] = []
    for frame in range(script.num_frames):
        running = next((event for event in script.events if event.first <= frame < event.stop), None)
        if running is None and frames and not any(event.stop == frame for event in script.events):
            frames.append(frames[-1])
            continue
        seen, shade, word = dict(poses), ground, ""
        if running is not None:
            progress = (frame - running.first + 1) / (running.stop - running.first)
            if running.actor == "background":
                shade = _mixed(ground, PALE[running.detail], progress)
            elif running.action == "is shown":
                word = running.detail
            else:
                seen[running.actor] = _posed(poses, running, progress, frame, ends[running], stage)
            if frame == running.stop - 1:
                poses, ground = seen, shade
        frames.append(_picture(script, stage, seen, shade, word))
    return frames


def _mixed(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def cells(script: Script) -> list[tuple[float, float, float, float]]:
    """(left, top, right, bottom) of each actor's part of the frame, below the strip of words where there is one."""
    width, height = script.size
    top = height * STRIP_SHARE if any(event.action == "is shown" for event in script.events) else 0.0
    middle, centre = (top + height) / 2, width / 2
    if len(script.cast) <= 1:
        return [(0.0, top, float(width), float(height))]
    if len(script.cast) == 2:
        return [(0.0, top, centre, float(height)), (centre, top, float(width), float(height))]
    left, right = (0.0, centre), (centre, float(width))
    return [(x[0], y[0], x[1], y[1]) for y in ((top, middle), (middle, float(height))) for x in (left, right)]


def _places(rng: np.random.Generator, script: Script) -> dict[str, Pose]:
    """Where everybody is at the start: at the far end of the way that its first move along an axis takes."""
    every = cells(script)
    order = rng.permutation(len(every))
    poses = {}
    for actor, at in zip(script.cast, order, strict=False):
        left, top, right, bottom = every[int(at)]
        side = min(right - left, bottom - top) * float(rng.uniform(0.34, 0.42))
        own = [event.action for event in script.events if event.actor == actor]
        if "grows" not in own and "spins" not in own:
            side *= 1.2
        reach = side / 2 * (GROWTH if "grows" in own else 1.25 if "spins" in own else 1.0) + 1
        place = []
        for axis, (low, high) in enumerate(((left + reach, right - reach), (top + reach, bottom - reach))):
            step = next((MOVES[action][axis] for action in own if action in MOVES and MOVES[action][axis]), 0)
            share = {0: rng.uniform(0.1, 0.9), -1: rng.uniform(0.9, 1.0), 1: rng.uniform(0.0, 0.1)}[step]
            place.append(low + (high - low) * float(share))
        poses[actor] = Pose(x=place[0], y=place[1], side=side)
    return poses


def _destination(rng: np.random.Generator, script: Script, event: Event) -> float:
    """How many pixels a move goes: most of the room that its actor's cell leaves."""
    if event.action not in MOVES:
        return 0.0
    left, top, right, bottom = cells(script)[0]
    cell = right - left if MOVES[event.action][0] else bottom - top
    own = [other.action for other in script.events if other.actor == event.actor]
    reach = min(right - left, bottom - top) * 0.42 / 2
    reach *= GROWTH if "grows" in own else 1.25 if "spins" in own else 1.2
    return (cell - 2 * reach - 2) * float(rng.uniform(0.8, 0.9))


def _posed(poses: Mapping[str, Pose], event: Event, progress: float, frame: int, way: float, stage: Stage) -> Pose:
    """How the actor of an event is seen at a point of it."""
    pose = poses[event.actor]
    if event.action in MOVES:
        dx, dy = MOVES[event.action]
        return replace(pose, x=pose.x + dx * way * progress, y=pose.y + dy * way * progress)
    if event.action == "appears":
        return replace(pose, opacity=1.0, side=pose.side * progress) if stage.pops else replace(pose, opacity=progress)
    if event.action == "disappears":
        left = 1 - progress
        if stage.pops and left > 0:
            return replace(pose, side=max(1.0, pose.side * left))
        return replace(pose, opacity=left)
    if event.action in ("grows", "shrinks"):
        factor = GROWTH if event.action == "grows" else 1 / GROWTH
        return replace(pose, side=pose.side * (1 + (factor - 1) * progress))
    if event.action == "blinks":
        half = (event.stop - event.first) // (2 * int(event.detail))
        return replace(pose, opacity=float((frame - event.first) // half % 2))
    if event.action == "spins":
        return replace(pose, turn=360 * progress % 360)
    if event.action == "visits":
        host = poses[event.detail]
        gap = 1 - 0.5 * (pose.side + host.side) / max(1.0, np.hypot(host.x - pose.x, host.y - pose.y))
        share = sin(pi * progress) * float(max(0.3, gap))
        return replace(pose, x=pose.x + (host.x - pose.x) * share, y=pose.y + (host.y - pose.y) * share)
    assert event.action == "changes colour", event.action
    return replace(pose, tint=(event.detail, progress))


def _picture(script: Script, stage: Stage, poses: Mapping[str, Pose], shade: Colour, word: str) -> Image.Image:
    image = Image.new("RGB", script.size, shade)
    for actor, pose in poses.items():
        side = round(pose.side)
        if pose.opacity <= 0 or side < 1:
            continue
        sprite = stage.sprites[actor]
        if pose.tint[1] > 0:
            shape = _shape(actor, pose.tint[0])
            sprite = Image.blend(sprite, shape, pose.tint[1])
        if pose.turn:
            sprite = sprite.rotate(pose.turn, Image.Resampling.BILINEAR)
        sprite = sprite.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
        alpha = sprite.getchannel("A")
        if pose.opacity < 1:
            alpha = alpha.point([round(value * pose.opacity) for value in range(256)])
        image.paste(sprite, (round(pose.x - side / 2), round(pose.y - side / 2)), alpha)
    if word:
        _write_word(image, stage, word)
    return image


def _write_word(image: Image.Image, stage: Stage, word: str) -> None:
    """A word on a white strip at the upper edge."""
    height = round(image.height * STRIP_SHARE)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, image.width, height), fill="white")
    font = open_font(stage.fonts, stage.font, max(14, round(height * 0.72)))
    draw.text((image.width // 2, height // 2), word, font=font, anchor="mm", fill="black")
