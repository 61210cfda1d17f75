"""Naming: one picture of a known concept on some ground, to be named in everyday words.

Held-out samples show, for every concept, the one rendering that training never sees. Scale, place, ground and
(where harmless) mirroring vary; in training the drawing's turn, proportions and colours too. Scenes of several pictures
are left out.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from nvila.data.corpus.assets import Assets
from nvila.data.corpus.canvas import (
    Colour,
    Size,
    Turn,
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
    is_flag = picture.concept.startswith("flag of ")
    if split == "train":
        drawing = _varied(rng, drawing, 0.3 * difficulty if is_flag else difficulty)
    side = round(min(size) * float(rng.uniform(0.5 + 0.3 * (1 - difficulty), 1.0)))
    drawing = drawing.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    left, top = number(rng, 0, size[0] - side), number(rng, 0, size[1] - side)
    image = background(rng, size, _ground(rng, drawing), plain=0.65)
    image.paste(drawing, (left, top), drawing)
    ink = drawing.getchannel("A").getbbox() or (0, 0, side, side)
    box = (left + ink[0], top + ink[1], left + ink[2], top + ink[3])
    question = phrase(rng, split, "flag" if is_flag else "naming")
    return make_sample(
        damage(rng, image, amount=0.8 * difficulty),
        Turn(question=question, answers=tuple(accepted_names(picture.concept))),
        task="naming",
        objects=[LabelledBox(label=f"name:{picture.concept}", box=box)],
        rendering=picture.name,
    )


def _varied(rng: np.random.Generator, drawing: Image.Image, amount: float) -> Image.Image:
    """Another hand's rendering of a drawing (RGBA), so to say: turned, stretched, other colours; `amount` 0..1."""
    if chance(rng, 0.7 * amount):
        width = round(drawing.width * float(rng.uniform(0.8, 1.0)))
        height = round(drawing.height * float(rng.uniform(0.8, 1.0)))
        left, top = (drawing.width - width) // 2, (drawing.height - height) // 2
        stretched = Image.new("RGBA", drawing.size)
        stretched.paste(drawing.resize((width, height), Image.Resampling.BILINEAR), (left, top))
        drawing = stretched.rotate(float(rng.uniform(-14, 14)), Image.Resampling.BILINEAR)
    if chance(rng, 0.7 * amount):
        pixels = np.asarray(drawing).astype(np.float32)
        gray = pixels[..., :3].mean(axis=2, keepdims=True)
        saturation = 0.0 if chance(rng, 0.15) else float(rng.uniform(0.5, 1.4))
        colours = gray + saturation * (pixels[..., :3] - gray)
        colours = colours * rng.uniform(0.75, 1.25, 3) + rng.uniform(-25, 25, 3)
        pixels[..., :3] = np.clip(colours, 0, 255)
        drawing = Image.fromarray(pixels.astype(np.uint8))
    return drawing


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
