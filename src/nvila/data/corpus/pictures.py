"""Naming: one picture of a known concept on some ground, to be named in everyday words.

Held-out samples show, for every concept, the one rendering that training never sees. Scale, place, ground and
(where harmless) mirroring vary. Scenes of several pictures are left out.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from nvila.data.corpus.assets import Assets
from nvila.data.corpus.canvas import (
    Colour,
    Size,
    background,
    chance,
    damage,
    distance,
    make_sample,
    number,
    pick,
    random_colour,
)
from nvila.data.corpus.concepts import accepted_names
from nvila.data.corpus.phrasing import phrase
from nvila.data.corpus.splits import Split
from nvila.types import LabelledBox, Sample


def make_naming(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """One picture at 50 to 100 % of the shorter side."""
    picture = pick(rng, pick(rng, assets.renderings(split)))
    drawing = Image.fromarray(np.asarray(assets.pixels(picture)))
    if picture.mirrors and chance(rng, 0.5 * difficulty):
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    side = round(min(size) * float(rng.uniform(0.5 + 0.3 * (1 - difficulty), 1.0)))
    drawing = drawing.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    left, top = number(rng, 0, size[0] - side), number(rng, 0, size[1] - side)
    image = background(rng, size, _ground(rng, drawing), plain=0.65)
    image.paste(drawing, (left, top), drawing)
    ink = drawing.getchannel("A").getbbox() or (0, 0, side, side)
    box = (left + ink[0], top + ink[1], left + ink[2], top + ink[3])
    is_flag = picture.concept.startswith("flag of ")
    question = phrase(rng, split, "flag" if is_flag else "naming")
    return make_sample(
        damage(rng, image, amount=0.8 * difficulty),
        question,
        picture.concept,
        task="naming",
        objects=[LabelledBox(label=f"name:{picture.concept}", box=box)],
        answers=accepted_names(picture.concept),
        rendering=picture.name,
    )


def _ground(rng: np.random.Generator, drawing: Image.Image) -> Colour:
    """Mostly light, else any colour that is far from the drawing's mean and from its darkest common tone."""
    if chance(rng, 0.5):
        red, green, blue = (int(value) for value in rng.integers(225, 256, 3))
        return _far_enough(drawing, (red, green, blue)) or (120, 160, 190)
    for _ in range(6):
        colour = random_colour(rng)
        if _far_enough(drawing, colour):
            return colour
    return (255, 255, 255)


def _far_enough(drawing: Image.Image, colour: Colour) -> Colour | None:
    """`colour` when at most a third of the drawing's ink is close to it, otherwise None."""
    pixels = np.asarray(drawing.resize((12, 12), Image.Resampling.BOX))
    ink = pixels[pixels[..., 3] > 128][:, :3]
    if len(ink) == 0:
        return colour
    close = sum(distance(colour, (int(r), int(g), int(b))) < 100 for r, g, b in ink)
    return colour if 3 * close <= len(ink) else None
