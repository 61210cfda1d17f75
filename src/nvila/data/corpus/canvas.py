"""What every picture needs: colours with names, backgrounds, small damage (noise, blur, JPEG), and the Sample.

Sizes are (width, height) in pixels, colours are RGB 0..255. Everything random comes from the caller's generator.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from nvila.types import ImagePart, LabelledBox, Message, Sample, TextPart, VideoPart

Colour = tuple[int, int, int]
Size = tuple[int, int]

NAMED_COLOURS: dict[str, Colour] = {
    "red": (220, 30, 35),
    "orange": (255, 140, 10),
    "yellow": (250, 220, 30),
    "green": (35, 155, 60),
    "blue": (35, 80, 215),
    "purple": (130, 45, 175),
    "pink": (255, 130, 185),
    "brown": (120, 70, 30),
    "black": (15, 15, 15),
    "white": (250, 250, 250),
    "gray": (128, 128, 128),
}


def number(rng: np.random.Generator, low: int, high: int) -> int:
    """A random whole number in [low, high], both included."""
    return int(rng.integers(low, high + 1))


def pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    """A random element of a non-empty sequence."""
    return options[int(rng.integers(len(options)))]


def chance(rng: np.random.Generator, probability: float) -> bool:
    """True with the given probability."""
    return bool(rng.random() < probability)


def luminance(colour: Colour) -> float:
    """Perceived brightness, 0..255."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def distance(first: Colour, second: Colour) -> float:
    """Euclidean distance of two colours, 0..442."""
    return float(sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) ** 0.5)


def random_colour(rng: np.random.Generator) -> Colour:
    """Any colour, uniform in RGB."""
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return (red, green, blue)


def named_colour(rng: np.random.Generator, name: str) -> Colour:
    """A slight variation of a named colour that still deserves its name."""
    spread = 8 if name in ("black", "white", "gray", "brown", "orange") else 16
    shift = rng.integers(-spread, spread + 1, 3)
    red, green, blue = (min(255, max(0, value + int(d))) for value, d in zip(NAMED_COLOURS[name], shift, strict=True))
    return (red, green, blue)


def ink_and_paper(rng: np.random.Generator, difficulty: float, *, contrast: int = 80) -> tuple[Colour, Colour]:
    """A foreground and a background that can be told apart: dark on light at difficulty 0, anything at 1.

    `contrast`: the least difference in luminance, 0..127.
    """
    if not chance(rng, difficulty):
        return _gray(rng, 0, 60), _gray(rng, 215, 255)
    if chance(rng, 0.25):
        dark, light = _gray(rng, 0, 50), _gray(rng, 200, 255)
        return (light, dark) if chance(rng, 0.5) else (dark, light)
    paper = random_colour(rng)
    for _ in range(12):
        ink = random_colour(rng)
        if abs(luminance(ink) - luminance(paper)) >= contrast:
            return ink, paper
    return ((255, 255, 255) if luminance(paper) < 128 else (0, 0, 0)), paper


def _gray(rng: np.random.Generator, low: int, high: int) -> Colour:
    level = number(rng, low, high)
    red, green, blue = (min(255, max(0, level + int(d))) for d in rng.integers(-8, 9, 3))
    return (red, green, blue)


def background(rng: np.random.Generator, size: Size, colour: Colour, *, plain: float = 0.6) -> Image.Image:
    """An RGB picture about `colour`: plain with probability `plain`, otherwise a soft gradient or coarse texture."""
    if chance(rng, plain):
        return Image.new("RGB", size, colour)
    corners = np.clip(np.asarray(colour) + rng.integers(-22, 23, (2, 2, 3)), 0, 255).astype(np.uint8)
    if chance(rng, 0.3):
        side = number(rng, 4, 16)
        corners = np.clip(np.asarray(colour) + rng.integers(-14, 15, (side, side, 3)), 0, 255).astype(np.uint8)
    return Image.fromarray(corners).resize(size, Image.Resampling.BILINEAR)


def damage(rng: np.random.Generator, image: Image.Image, *, amount: float = 1.0) -> Image.Image:
    """Slight noise, blur or JPEG traces on about half of the pictures (`amount` 1) or on none (0)."""
    draw = rng.random() / max(amount, 1e-6)
    if draw < 0.2:
        pixels = np.asarray(image)
        level = number(rng, 3, 12)
        noise = rng.integers(-level, level + 1, pixels.shape, dtype=np.int16)
        return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))
    if draw < 0.32:
        return image.filter(ImageFilter.BoxBlur(float(rng.uniform(0.3, 0.6))))
    if draw < 0.45:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=number(rng, 45, 90))
        return Image.open(stream).convert("RGB")
    return image


def paint(image: Image.Image, mask_HW: NDArray[np.uint8], colour: Colour) -> None:
    """Blend `colour` into `image` in place where `mask_HW` (H, W) uint8 says."""
    image.paste(colour, (0, 0, *image.size), Image.fromarray(mask_HW))


Named = tuple[str, tuple[tuple[float, float], ...]]
"""Words of a question, and the middles (x, y) in pixels of the things that they name."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A question and the answers that are accepted; the first is the one that is taught."""

    question: str
    answers: tuple[str, ...]
    named: tuple[Named, ...] = ()
    """What the question names and where it is."""


def make_sample(
    media: Image.Image | list[Image.Image],
    *turns: Turn,
    task: str,
    objects: Sequence[LabelledBox] = (),
    **meta: Any,
) -> Sample:
    """A sample of one turn or several about one picture or clip. `id` is set by `generate`.

    `meta` gains the task, the first turn's question, answer and accepted answers, and of every turn under "accepted"
    the accepted answers, under "named" what its question names and where.
    """
    part = VideoPart(video=media) if isinstance(media, list) else ImagePart(image=media)
    messages: list[Message] = []
    for turn in turns:
        lead = (part,) if not messages else ()
        messages.append(Message(role="user", content=(*lead, TextPart(text=turn.question))))
        messages.append(Message(role="assistant", content=(TextPart(text=turn.answers[0]),)))
    first = turns[0]
    told = {"answer": first.answers[0], "answers": list(first.answers), "question": first.question}
    of_turns = {"accepted": [list(turn.answers) for turn in turns], "named": [turn.named for turn in turns]}
    return Sample(
        id=task,
        source=f"corpus/{task}",
        messages=tuple(messages),
        objects=tuple(objects),
        meta={"task": task, **told, **of_turns, **meta},
    )
