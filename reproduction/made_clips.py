"""Clips of which a sparse sampling misses the point: one shape sways all the time, another is there for four frames.

The question is what appears for a moment. Of a clip of 16 frames eight evenly spread ones always show it, of 64 about
every other time, of 256 about one time in nine; 32 frames see it always, always, and every other time. Averaging over
k frames leaves it as 4/k of a pooled frame at most. A clip with fewer frames than are asked for has them repeated, as
files of frames always have. Shapes and colours are the corpus's own, which nvila-mini knows. Leaves out cameras, cuts
and sound.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nvila.data.corpus.canvas import chance, named_colour
from nvila.data.corpus.shapes import COLOURS, SHAPES, Shape, draw_shapes, ground_for
from nvila.utils.atomic import atomic_directory

LENGTHS: Mapping[str, int] = {"short": 16, "medium": 64, "long": 256}
"""Frames of a clip in each column."""
EVENT_FRAMES = 4
SWAY_FRAMES = 16
"""Frames after which the swaying shape is where it was, so that a clip has few different frames to compute."""
QUESTION = "Which shape appears for a moment?"


def write_clips(dest: Path, *, train: int, held_out: int, side: int, lengths: Mapping[str, int] = LENGTHS) -> None:
    """Write `train.jsonl` and `heldout.jsonl` with so many clips of each length into the new folder `dest`.

    A clip is a folder of PNG files of `side` pixels; frames that are alike are one file under several names. A record
    is in OpenAI's messages form, with `column` and `answers` beside it.
    """
    with atomic_directory(dest) as folder:
        for split, count in (("train", train), ("heldout", held_out)):
            lines = []
            for column, num_frames in lengths.items():
                for number in range(count):
                    name = f"{split}-{column}-{number:05d}"
                    rng = np.random.default_rng([zlib.crc32(split.encode()), num_frames, number])
                    answer = _write_clip(folder / "clips" / name, rng, num_frames, side)
                    lines.append(json.dumps(_record(name, column, answer)))
            (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class MadeClip:
    """Frames, alike ones the same object; what appears (colour and shape), and the first frame that shows it."""

    frames: list[Image.Image]
    answer: str
    start: int


def make_clip(rng: np.random.Generator, num_frames: int, side: int) -> MadeClip:
    """A clip of so many frames of `side` pixels."""
    shapes, colours = rng.permutation(len(SHAPES))[:2], rng.permutation(len(COLOURS))[:2]
    names = [(SHAPES[int(shape)], COLOURS[int(color)]) for shape, color in zip(shapes, colours, strict=True)]
    ground = Image.new("RGB", (side, side), ground_for(rng, {color for _, color in names}))
    high, low = (0.28, 0.72) if chance(rng, 0.5) else (0.72, 0.28)
    still = _shape(rng, names[0], x=0.5, y=high, side=side)
    event = _shape(rng, names[1], x=float(rng.uniform(0.25, 0.75)), y=low, side=side)
    start = int(rng.integers(0, num_frames - EVENT_FRAMES + 1))
    drawn: dict[tuple[int, bool], Image.Image] = {}
    frames = []
    for frame in range(num_frames):
        key = (frame % SWAY_FRAMES, start <= frame < start + EVENT_FRAMES)
        if key not in drawn:
            drawn[key] = draw_shapes(ground, [_swayed(still, key[0], side), *([event] if key[1] else [])])
        frames.append(drawn[key])
    return MadeClip(frames=frames, answer=event.name, start=start)


def _shape(rng: np.random.Generator, name: tuple[str, str], *, x: float, y: float, side: int) -> Shape:
    """A shape of that kind and colour with its middle at (x, y) in parts of the side."""
    radius = float(rng.uniform(0.12, 0.18)) * side
    return Shape(shape=name[0], color=name[1], rgb=named_colour(rng, name[1]), x=x * side, y=y * side, radius=radius)


def _swayed(shape: Shape, phase: int, side: int) -> Shape:
    return replace(shape, x=shape.x + 0.25 * side * float(np.sin(2 * np.pi * phase / SWAY_FRAMES)))


def _write_clip(folder: Path, rng: np.random.Generator, num_frames: int, side: int) -> str:
    folder.mkdir(parents=True)
    clip = make_clip(rng, num_frames, side)
    first: dict[int, Path] = {}
    for number, frame in enumerate(clip.frames):
        path = folder / f"{number:04d}.png"
        if id(frame) in first:
            os.link(first[id(frame)], path)
        else:
            frame.save(path)
            first[id(frame)] = path
    return clip.answer


def _record(name: str, column: str, answer: str) -> dict[str, Any]:
    return {
        "id": name,
        "column": column,
        "videos": [f"clips/{name}"],
        "messages": [
            {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]},
            {"role": "assistant", "content": answer},
        ],
        "answers": [[answer]],
    }
