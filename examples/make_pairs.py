"""Draws pairs of pictures with questions that need both, as OpenAI messages: data for docs/examples/comparison.md.

    python examples/make_pairs.py FOLDER [--train 1200] [--heldout 200]

writes `FOLDER/train.jsonl`, `FOLDER/heldout.jsonl` and the pictures in `FOLDER/pictures`. A number is that of the
pairs; one question is asked about each. Needs nothing but Pillow.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLOURS = {"red": (205, 40, 40), "green": (40, 150, 60), "blue": (40, 70, 205), "yellow": (230, 200, 40)}
SHAPES = ("circle", "square", "triangle")
SIDE = 112
"""Pixels of a picture's sides: one tile of nvila-mini."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """What a picture shows; `radius` is in pixels."""

    shape: str
    colour: str
    radius: int


def make_pair(rng: random.Random) -> tuple[Item, Item, str, str]:
    """Two things, a question, and its answer; the answers to a question are equally frequent."""
    small, large = rng.randint(14, 24), rng.randint(34, 46)
    first = Item(shape=rng.choice(SHAPES), colour=rng.choice(list(COLOURS)), radius=rng.choice((small, large)))
    radius = small + large - first.radius
    is_same = rng.random() < 0.5
    match rng.choice(("size", "shape", "colour")):
        case "size":
            second = Item(shape=rng.choice(SHAPES), colour=rng.choice(list(COLOURS)), radius=radius)
            answer = "the first" if first.radius > radius else "the second"
            return first, second, "Which picture shows the larger thing?", answer
        case "shape":
            shape = first.shape if is_same else _other(rng, SHAPES, first.shape)
            second = Item(shape=shape, colour=rng.choice(list(COLOURS)), radius=radius)
            return first, second, "Is it the same shape in both pictures?", "yes" if is_same else "no"
        case _:
            colour = first.colour if is_same else _other(rng, list(COLOURS), first.colour)
            second = Item(shape=rng.choice(SHAPES), colour=colour, radius=radius)
            return first, second, "Is it the same colour in both pictures?", "yes" if is_same else "no"


def _other(rng: random.Random, names: Sequence[str], name: str) -> str:
    return rng.choice([other for other in names if other != name])


def draw_item(item: Item, rng: random.Random) -> Image.Image:
    """(112, 112) pixels: the thing somewhere on a pale ground."""
    ground = rng.randint(225, 255)
    picture = Image.new("RGB", (SIDE, SIDE), (ground, ground, rng.randint(225, 255)))
    x, y = (rng.randint(item.radius + 2, SIDE - item.radius - 2) for _ in range(2))
    box = (x - item.radius, y - item.radius, x + item.radius, y + item.radius)
    draw = ImageDraw.Draw(picture)
    if item.shape == "circle":
        draw.ellipse(box, COLOURS[item.colour])
    elif item.shape == "square":
        draw.rectangle(box, COLOURS[item.colour])
    else:
        draw.polygon([(x, box[1]), (box[0], box[3]), (box[2], box[3])], COLOURS[item.colour])
    return picture


def record_of(name: str, pictures: Sequence[str], question: str, answer: str) -> dict[str, Any]:
    """One turn with all pictures, then the question."""
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": picture}} for picture in pictures]
    parts.append({"type": "text", "text": question})
    return {"id": name, "messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]}


def write_part(folder: Path, name: str, count: int) -> None:
    """`folder/NAME.jsonl`, with so many pairs; the same for the same name and number."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rng = random.Random(name)
    lines = []
    for number in range(count):
        first, second, question, answer = make_pair(rng)
        pictures = [f"pictures/{name}-{number:04}-{place}.png" for place in (1, 2)]
        for picture, item in zip(pictures, (first, second), strict=True):
            draw_item(item, rng).save(folder / picture)
        lines.append(json.dumps(record_of(f"{name}-{number}", pictures, question, answer)) + "\n")
    (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=1200, help="pairs to learn from")
    parser.add_argument("--heldout", type=int, default=200, help="pairs to score on")
    given = parser.parse_args(arguments)
    write_part(given.folder, "train", given.train)
    write_part(given.folder, "heldout", given.heldout)


if __name__ == "__main__":
    main()
