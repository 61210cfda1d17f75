"""One sample of a map: chooses what to mark, name, number or list, draws it, and asks two to five questions.

Four ways of showing: `marked` (one division by colour or by a mark; needs knowledge of the place), `named` (names are
written), `numbered` (numbers, with or without a key), and `legend` (colours that a legend explains).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nvila.data.build.maps import draw, questions
from nvila.data.build.maps.atlas import MapSheet
from nvila.data.build.maps.draw import Scaled
from nvila.data.build.maps.questions import Asked, Subject
from nvila.data.corpus.canvas import (
    NAMED_COLOURS,
    Colour,
    chance,
    damage,
    distance,
    make_sample,
    named_colour,
    number,
    pick,
)
from nvila.types import LabelledBox, Sample

MAX_TURNS = 5
HIGHLIGHTS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
LEAST_AREA = 60
LEAST_DEPTH = 3.0

Draft = tuple[Image.Image, list[Asked], list[int], str]


def make_map_sample(rng: np.random.Generator, sheet: MapSheet, labels_HW: NDArray[np.uint8], folder: Path) -> Sample:
    """A picture of a map with its questions.

    `meta`: the map's name, how it is shown, the kinds of the questions, and the labels of what is marked or named.
    """
    ways: tuple[Callable[..., Draft | None], ...] = (_marked, _named, _numbered, _legend)
    shares = (0.34, 0.22, 0.22, 0.22)
    while True:
        scaled = draw.scale_map(sheet, labels_HW, number(rng, 336, 704))
        draft = ways[int(rng.choice(4, p=shares))](rng, scaled, usable(scaled), folder)
        if draft is not None and len(draft[1]) >= 2:
            break
    image, asked, shown, way = draft
    chosen = [asked[int(index)] for index in rng.permutation(len(asked))[: number(rng, 3, MAX_TURNS)]]
    boxes = [LabelledBox(label=sheet.regions[label].name, box=tuple(map(float, scaled.box(label)))) for label in shown]  # type: ignore[arg-type]
    return make_sample(
        damage(rng, image, amount=0.6),
        *(item.turn for item in chosen),
        task="maps",
        objects=boxes,
        unit=sheet.unit,
        shown_as=way,
        kinds=[item.kind for item in chosen],
        shown=[sheet.regions[label].name for label in shown],
    )


def usable(scaled: Scaled) -> list[int]:
    """Labels of the divisions that are large enough at this size and whose name is theirs alone."""
    regions = scaled.sheet.regions
    names = Counter(region.name for region in regions)
    areas = np.bincount(scaled.labels_HW.ravel(), minlength=len(regions))
    return [
        label
        for label, region in enumerate(regions)
        if region.place == "division"
        and names[region.name] == 1
        and areas[label] >= LEAST_AREA
        and scaled.depth(label) >= LEAST_DEPTH
    ]


def _some(rng: np.random.Generator, labels: Sequence[int], low: int, high: int) -> list[int]:
    count = min(len(labels), number(rng, low, high))
    return [labels[int(index)] for index in rng.permutation(len(labels))[:count]]


def _kept(*asked: Asked | None) -> list[Asked]:
    return [item for item in asked if item is not None]


def _marked(rng: np.random.Generator, scaled: Scaled, labels: list[int], folder: Path) -> Draft | None:
    """One division stands out by its colour, or carries a mark."""
    if not labels:
        return None
    label = pick(rng, labels)
    if chance(rng, 0.5):
        colours = draw.choose_colours(rng, scaled, "uniform")
        color = pick(rng, HIGHLIGHTS)
        colours[label] = named_colour(rng, color)
        image = draw.paint_map(rng, scaled, colours)
        mark = f"in {color}"
    else:
        colours = draw.choose_colours(rng, scaled, pick(rng, ("source", "pastel", "uniform")))
        image = draw.paint_map(rng, scaled, colours)
        color, shape = _standing_out(rng, colours[label]), pick(rng, draw.MARKS)
        radius = max(3, min(8, int(scaled.depth(label) * 0.6)))
        draw.draw_mark(image, shape, scaled.anchor(label), radius, NAMED_COLOURS[color])
        mark = f"by the tip of the {color} arrow" if shape == "arrow" else f"with {with_article(color)} {shape}"
    about = Subject(scaled=scaled, size=image.size, calls={}, mark=mark)
    asked = _kept(
        questions.ask_name(rng, about, label),
        questions.ask_title(rng, about),
        questions.ask_capital(rng, about, label),
        questions.ask_num_borders(rng, about, label),
        questions.ask_water(rng, about, label),
        questions.ask_box(rng, about, label),
    )
    return image, asked, [label], "marked"


def with_article(color: str) -> str:
    """`a green`, `an orange`."""
    return f"{'an' if color == 'orange' else 'a'} {color}"


def _standing_out(rng: np.random.Generator, ground: Colour) -> str:
    names = [name for name in (*HIGHLIGHTS, "black", "white") if distance(NAMED_COLOURS[name], ground) > 150]
    return str(pick(rng, names))


def _named(rng: np.random.Generator, scaled: Scaled, labels: list[int], folder: Path) -> Draft | None:
    """Names are written over their divisions."""
    image = draw.paint_map(rng, scaled, draw.choose_colours(rng, scaled, pick(rng, ("source", "pastel", "uniform"))))
    font = draw.choose_font(rng, folder, number(rng, 11, 15))
    names = [region.name for region in scaled.sheet.regions]
    shown = [label for label in _some(rng, labels, 6, 30) if draw.write_name(image, scaled, label, names[label], font)]
    if len(shown) < 3:
        return None
    about = Subject(scaled=scaled, size=image.size, calls={label: names[label] for label in shown})
    some = pick(rng, shown)
    asked = _pair_questions(rng, about, shown) + _kept(
        questions.ask_box(rng, about, some, call=names[some]),
        questions.ask_capital(rng, about, some, call=names[some]),
        questions.ask_title(rng, about) if chance(rng, 0.5) else None,
    )
    return image, asked, shown, "named"


def _numbered(rng: np.random.Generator, scaled: Scaled, labels: list[int], folder: Path) -> Draft | None:
    """Numbers stand on some divisions; a key beside the map may say which is which."""
    image = draw.paint_map(rng, scaled, draw.choose_colours(rng, scaled, pick(rng, ("source", "pastel", "uniform"))))
    font = draw.choose_font(rng, folder, number(rng, 12, 16))
    shown: list[int] = []
    for label in _some(rng, labels, 8, 12):
        if len(shown) < 8 and draw.write_badge(image, scaled, label, str(len(shown) + 1), font):
            shown.append(label)
    if len(shown) < 3:
        return None
    names = {label: scaled.sheet.regions[label].name for label in shown}
    has_key = chance(rng, 0.75)
    if has_key:
        rows: list[tuple[Colour | str, str]] = [(str(index + 1), names[label]) for index, label in enumerate(shown)]
        image = draw.add_legend(rng, image, rows, font)
    numbers = {label: str(index + 1) for index, label in enumerate(shown)}
    about = Subject(scaled=scaled, size=image.size, calls={label: f"number {numbers[label]}" for label in shown})
    by_name = Subject(scaled=scaled, size=image.size, calls=names)
    one, other = _some(rng, shown, 2, 2)
    asked = _pair_questions(rng, by_name if has_key and chance(rng, 0.5) else about, shown) + _kept(
        about.ask(rng, "by_number", [names[one]], a=numbers[one]),
        about.ask(rng, "number_of", [numbers[other]], a=names[other]),
        questions.ask_capital(rng, about, one, call=f"number {numbers[one]}"),
        questions.ask_box(rng, by_name, other, call=names[other]) if has_key else None,
    )
    return image, asked, shown, "numbered with a key" if has_key else "numbered"


def _legend(rng: np.random.Generator, scaled: Scaled, labels: list[int], folder: Path) -> Draft | None:
    """Some divisions are coloured, and a legend names them."""
    shown = _some(rng, labels, 3, 6)
    if len(shown) < 3:
        return None
    colours = draw.choose_colours(rng, scaled, "uniform")
    order = [HIGHLIGHTS[int(index)] for index in rng.permutation(len(HIGHLIGHTS))]
    color_of = dict(zip(shown, order, strict=False))
    for label, color in color_of.items():
        colours[label] = named_colour(rng, color)
    image = draw.paint_map(rng, scaled, colours)
    names = {label: scaled.sheet.regions[label].name for label in shown}
    rows: list[tuple[Colour | str, str]] = [(colours[label], names[label]) for label in shown]
    image = draw.add_legend(rng, image, rows, draw.choose_font(rng, folder, number(rng, 12, 18)))
    about = Subject(scaled=scaled, size=image.size, calls=names)
    one, other, third = _some(rng, shown, 3, 3)
    asked = _pair_questions(rng, about, shown) + _kept(
        about.ask(rng, "by_color", [names[one]], color=color_of[one]),
        about.ask(rng, "color_of", [color_of[other]], a=names[other]),
        about.ask(rng, "num_listed", [str(len(shown))]),
        questions.ask_box(rng, about, third, call=names[third]),
        questions.ask_capital(rng, about, third, call=names[third]),
    )
    return image, asked, shown, "legend"


def _pair_questions(rng: np.random.Generator, about: Subject, shown: list[int]) -> list[Asked]:
    """Questions about two or more of the divisions that are shown."""
    first, second = _some(rng, shown, 2, 2)
    third, fourth = _some(rng, shown, 2, 2)
    return _kept(
        questions.ask_further(rng, about, first, second),
        questions.ask_larger(rng, about, third, fourth),
        questions.ask_borders(rng, about, *_touching_or_not(rng, about.scaled, shown)),
        questions.ask_furthest(rng, about, _some(rng, shown, 3, 6)),
    )


def _touching_or_not(rng: np.random.Generator, scaled: Scaled, shown: list[int]) -> tuple[int, int]:
    """Two divisions that border each other in half of the cases, where some do."""
    pairs = [(min(pair), max(pair)) for pair in combinations(shown, 2)]
    touching = [pair for pair in pairs if pair in scaled.borders]
    apart = [pair for pair in pairs if pair not in scaled.borders]
    wanted = touching if chance(rng, 0.5) else apart
    first, second = pick(rng, wanted or pairs)
    return (first, second) if chance(rng, 0.5) else (second, first)
