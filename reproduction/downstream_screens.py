"""Two drawn tasks on screens: which action opens an app, and the caption of the widget in a frame.

They stand for AITZ and Widget Caption in kind alone. nvila-mini knows the shapes and colours of the icons, and nothing
of screens, actions or widgets. Answers are equally frequent. The held-out side has other layouts, colours and wordings,
and icons that training never asks for. Words on screens are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from downstream_canvas import SIDE, Canvas, Drawn, Kind, Look, kinds_of, others, shape_at, shuffled

from nvila.data.corpus.canvas import Colour, chance, luminance, number, pick
from nvila.data.corpus.splits import Split

LOOKS: Mapping[Split, tuple[Look, ...]] = MappingProxyType(
    {
        "train": (
            Look((250, 250, 250), (60, 90, 160), (210, 212, 222)),
            Look((222, 232, 242), (40, 40, 50), (252, 252, 252)),
            Look((30, 32, 40), (90, 150, 210), (225, 226, 232)),
        ),
        "heldout": (
            Look((245, 238, 222), (120, 80, 60), (255, 255, 250)),
            Look((205, 228, 215), (35, 90, 80), (240, 250, 245)),
        ),
    }
)
TAPS = tuple(f"tap {row} {column}" for row in ("top", "middle", "bottom") for column in ("left", "right"))
ACTIONS = (*TAPS, "scroll down")
ACTION_WORDINGS: Mapping[Split, tuple[str, ...]] = MappingProxyType(
    {
        "train": ("Open the {}. What is the next action?", "Goal: start the {}. Action?", "Which action opens the {}?"),
        "heldout": ("You want the {}. What do you do on this screen?", "Task: launch the {}. Next action?"),
    }
)
CAPTION_WORDINGS: Mapping[Split, tuple[str, ...]] = MappingProxyType(
    {
        "train": ("Caption the widget in the frame.", "What is the framed widget?", "Describe the widget in the box."),
        "heldout": ("Give a caption for the framed part of this screen.", "Which widget does the frame mark?"),
    }
)
FRAMES: Mapping[Split, tuple[Colour, ...]] = MappingProxyType(
    {"train": ((230, 30, 30), (240, 140, 0)), "heldout": ((215, 0, 140),)}
)
ROWS = 4


def draw_action(rng: np.random.Generator, split: Split) -> Drawn:
    """Six places for icons of apps; the one that is wanted is at one of them, or further down."""
    look: Look = pick(rng, LOOKS[split])
    answer: str = pick(rng, ACTIONS)
    wanted: Kind = pick(rng, kinds_of(split))
    header, footer = (number(rng, 8, 14), 0) if split == "train" else (number(rng, 3, 6), number(rng, 8, 12))
    columns = (28, 84) if split == "train" else (number(rng, 30, 36), number(rng, 74, 80))
    canvas = Canvas(look.ground)
    canvas.box((0, 0, SIDE, header), look.thing)
    canvas.box((0, SIDE - footer, SIDE, SIDE), look.thing)
    pitch = (SIDE - header - footer) / 3
    shapes = []
    for place, (name, other) in enumerate(zip(TAPS, others(rng, wanted, len(TAPS)), strict=True)):
        if name != answer and chance(rng, 0.15):
            continue
        x, y = columns[place % 2], header + pitch * (place // 2 + 0.5)
        canvas.box((x - 14, y - 14, x + 14, y + 14), look.line, radius=4 if split == "train" else 10)
        shapes.append(shape_at(rng, wanted if name == answer else other, x, y, 9.5))
    question = pick(rng, ACTION_WORDINGS[split]).format(" ".join(wanted) + " app")
    return Drawn(image=canvas.finished(shapes), question=question, answer=answer)


def draw_caption(rng: np.random.Generator, split: Split) -> Drawn:
    """Rows of two widgets, all different, of which one is framed."""
    look: Look = pick(rng, LOOKS[split])
    names = shuffled(rng, list(CAPTIONS))[: 2 * ROWS]
    marked = number(rng, 0, len(names) - 1)
    top = 4 if split == "train" else number(rng, 8, 14)
    pitch = (SIDE - top) / ROWS
    inset = 8 if split == "train" else 14
    canvas = Canvas(look.ground)
    canvas.box((0, 0, SIDE, top - 2), look.thing)
    ink = (40, 42, 50) if luminance(look.ground) > 128 else (235, 236, 240)
    for place, name in enumerate(names):
        left = inset + (place % 2) * (SIDE / 2 - inset / 2)
        middle = (left + (SIDE / 2 - 1.5 * inset) / 2, top + pitch * (place // 2 + 0.5))
        CAPTIONS[name](canvas, *middle, Look(look.ground, look.thing, ink))
        if place == marked:
            x, y = middle
            canvas.box((x - 21, y - 12, x + 21, y + 12), None, outline=pick(rng, FRAMES[split]))
    return Drawn(image=canvas.finished(), question=pick(rng, CAPTION_WORDINGS[split]), answer=names[marked])


def _switch(on: bool) -> Callable[..., None]:
    def draw(canvas: Canvas, x: float, y: float, look: Look) -> None:
        canvas.box((x - 13, y - 7, x + 13, y + 7), look.thing if on else (150, 150, 155), radius=7)
        canvas.disc(x + (6 if on else -6), y, 5.2, (255, 255, 255))

    return draw


def _check(checked: bool) -> Callable[..., None]:
    def draw(canvas: Canvas, x: float, y: float, look: Look) -> None:
        canvas.box((x - 8, y - 8, x + 8, y + 8), None, outline=look.line)
        if checked:
            canvas.line([(x - 5, y), (x - 1, y + 4), (x + 5, y - 5)], look.line, 2)

    return draw


def _slider(share: float) -> Callable[..., None]:
    def draw(canvas: Canvas, x: float, y: float, look: Look) -> None:
        canvas.box((x - 16, y - 1.5, x + 16, y + 1.5), look.line)
        canvas.disc(x - 16 + 32 * share, y, 5, look.thing)

    return draw


def _bar(share: float) -> Callable[..., None]:
    def draw(canvas: Canvas, x: float, y: float, look: Look) -> None:
        canvas.box((x - 17, y - 5, x + 17, y + 5), (170, 172, 180))
        canvas.box((x - 17, y - 5, x - 17 + 34 * share, y + 5), look.thing)

    return draw


def _button(*strokes: tuple[tuple[float, float], ...], filled: bool = False) -> Callable[..., None]:
    """A button with a sign of strokes, or of a filled polygon, in units of a twelfth of its height."""

    def draw(canvas: Canvas, x: float, y: float, look: Look) -> None:
        canvas.box((x - 15, y - 9, x + 15, y + 9), look.thing, radius=3)
        for stroke in strokes:
            points = [(x + dx, y + dy) for dx, dy in stroke]
            if filled:
                canvas.polygon(points, (255, 255, 255))
            else:
                canvas.line(points, (255, 255, 255), 2)

    return draw


def _search(canvas: Canvas, x: float, y: float, look: Look) -> None:
    canvas.box((x - 18, y - 8, x + 18, y + 8), (255, 255, 255), radius=8, outline=look.line)
    canvas.disc(x - 9, y - 1, 4, (60, 60, 65))
    canvas.disc(x - 9, y - 1, 2.2, (255, 255, 255))
    canvas.line([(x - 6, y + 2), (x - 3, y + 5)], (60, 60, 65), 2)


CAPTIONS: Mapping[str, Callable[..., None]] = MappingProxyType(
    {
        "switch turned on": _switch(True),
        "switch turned off": _switch(False),
        "checked box": _check(True),
        "empty box": _check(False),
        "slider at the left": _slider(0.08),
        "slider at the right": _slider(0.92),
        "progress at the start": _bar(0.2),
        "progress near the end": _bar(0.85),
        "play button": _button(((-4, -6), (6, 0), (-4, 6)), filled=True),
        "pause button": _button(((-3, -5), (-3, 5)), ((3, -5), (3, 5))),
        "add button": _button(((-6, 0), (6, 0)), ((0, -6), (0, 6))),
        "close button": _button(((-5, -5), (5, 5)), ((-5, 5), (5, -5))),
        "menu button": _button(((-7, -5), (7, -5)), ((-7, 0), (7, 0)), ((-7, 5), (7, 5))),
        "back button": _button(((3, -6), (-4, 0), (3, 6))),
        "next button": _button(((-3, -6), (4, 0), (-3, 6))),
        "search field": _search,
    }
)
"""Captions and what draws each: on a canvas, about (x, y), `look.line` being the ink."""
