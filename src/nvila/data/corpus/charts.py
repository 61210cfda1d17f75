"""Simple charts drawn directly: bars, pies and lines with labels, and questions whose answers are labels or numbers.

The asked-for extreme always stands out clearly (a tenth of the axis or more), so that a person can answer by eye.
Legends, stacked bars, several series and axis titles are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from nvila.data.corpus.assets import Assets
from nvila.data.corpus.canvas import (
    NAMED_COLOURS,
    Colour,
    Size,
    Turn,
    chance,
    damage,
    distance,
    luminance,
    make_sample,
    named_colour,
    number,
    paint,
    pick,
)
from nvila.data.corpus.faces import Face
from nvila.data.corpus.phrasing import phrase
from nvila.data.corpus.splits import Split
from nvila.types import LabelledBox, Sample

LABEL_SETS = (
    tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"),
    ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
    ("Q1", "Q2", "Q3", "Q4"),
    tuple(str(year) for year in range(2015, 2031)),
)
HIGH_WORDS = (("highest", "highest"), ("tallest", "largest"), ("largest", "greatest"), ("biggest", "biggest"))
BAR_ROLES = ("other", "highest", "lowest")
"""What a bar's dense label says of it; its box reaches down to its label's foot."""
LOW_WORDS = (("lowest", "lowest"), ("shortest", "smallest"), ("smallest", "least"))


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A chart being drawn: the area for data (left, top, right, bottom) in pixels, and what texts are drawn with."""

    size: Size
    area: tuple[int, int, int, int]
    face: Face
    ink: Colour
    paper: Colour
    ramp: tuple[Colour, ...]


def _labels(rng: np.random.Generator, assets: Assets, split: Split, count: int, room: int, face: Face) -> list[str]:
    """`count` distinct labels, each at most `room` pixels wide: a run of a known set, letters, or words."""
    for _ in range(8):
        draw = rng.random()
        if draw < 0.45:
            options = pick(rng, LABEL_SETS)
            if len(options) < count:
                continue
            start = number(rng, 0, len(options) - count)
            labels = list(options[start : start + count])
        else:
            words = assets.words(split)[:4000]
            labels = list(dict.fromkeys(pick(rng, words).capitalize() for _ in range(count)))
        if len(labels) == count and max(face.width(label) for label in labels) <= room:
            return labels
    start = number(rng, 0, 26 - count)
    return list(LABEL_SETS[0][start : start + count])


def _values(rng: np.random.Generator, count: int, top: int) -> list[int]:
    """Whole numbers in [top/12, top]; the highest and the lowest stand out by a tenth of `top`."""
    gap = max(1, top // 10)
    while True:
        values = [number(rng, max(1, top // 12), top) for _ in range(count)]
        ranked = sorted(values)
        if ranked[1] - ranked[0] >= gap and ranked[-1] - ranked[-2] >= gap:
            return values


def _start_plot(
    rng: np.random.Generator, assets: Assets, split: Split, size: Size, *, room_above: bool = False
) -> Plot:
    sizes = [px for px in (10, 11, 12, 13, 14, 16, 18) if px <= max(12, size[1] // 8)]
    face = assets.face(assets.choose_font(rng, split), pick(rng, sizes[-4:]))
    dark = chance(rng, 0.15)
    low, high = (0, 50) if dark else (228, 255)
    red, green, blue = (number(rng, low, high) for _ in range(3))
    ink = (230, 230, 230) if dark else (25, 25, 30)
    pitch = face.ascent + face.descent
    area = (number(rng, 4, 10), 4 + room_above * (face.ascent + 1), size[0] - number(rng, 3, 8), size[1] - pitch - 2)
    known = [rgb for rgb in NAMED_COLOURS.values() if distance(rgb, (red, green, blue)) > 100]
    order = rng.permutation(len(known))
    ramp = tuple(known[int(i)] for i in order)
    return Plot(size=size, area=area, face=face, ink=ink, paper=(red, green, blue), ramp=ramp)


def _write(
    image: Image.Image, plot: Plot, texts: list[tuple[str, float, int]], ink: Colour | None = None
) -> list[LabelledBox]:
    """Write each (text, centre x, baseline); return the letters' boxes."""
    mask_HW = np.zeros((plot.size[1], plot.size[0]), dtype=np.uint8)
    boxes: list[LabelledBox] = []
    for text, centre, baseline in texts:
        width = plot.face.width(text)
        left = min(max(1.0, centre - width / 2), max(1.0, plot.size[0] - width - 1))
        boxes += plot.face.draw(mask_HW, text, left, baseline)
    paint(image, mask_HW, ink or plot.ink)
    return boxes


@dataclass(frozen=True, kw_only=True)
class Bars:
    """A drawn bar chart: its picture and dense labels, and what questions are about."""

    image: Image.Image
    boxes: list[LabelledBox]
    labels: list[str]
    values: list[int]
    with_values: bool


def make_bar(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """Two to six upright bars; which is highest or lowest, the value of one (if written), or how many.

    At low difficulty often two or three.
    """
    chart = _draw_bars(rng, assets, split, size, difficulty)
    draw = rng.random()
    ask = "highest" if draw < 0.38 else "lowest" if draw < 0.76 else "count"
    if chart.with_values and 0.76 <= draw < 0.92:
        ask = "value"
    turn = _ask_bar(rng, split, chart, ask)
    return make_sample(
        chart.image, turn, task="bar", objects=chart.boxes, labels=chart.labels, values=chart.values, ask=ask
    )


def make_bars(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """A bar chart as in `bar` and all its questions: highest, lowest, how many, and the value of one (if written)."""
    chart = _draw_bars(rng, assets, split, size, difficulty)
    asks = ["highest", "lowest", "count", *["value"] * chart.with_values]
    turns = [_ask_bar(rng, split, chart, asks[int(place)]) for place in rng.permutation(len(asks))]
    return make_sample(chart.image, *turns, task="bars", objects=chart.boxes)


def _draw_bars(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Bars:
    top = pick(rng, (10, 20, 50, 100))
    with_values = chance(rng, 0.45)
    plot = _start_plot(rng, assets, split, size, room_above=with_values)
    left, upper, right, bottom = plot.area
    most_bars = min(6, max(3, (right - left) // 16)) if chance(rng, difficulty) else 3
    count = number(rng, 2, most_bars)
    values = _values(rng, count, top)
    pitch = (right - left) / count
    labels = _labels(rng, assets, split, count, int(pitch) - 2, plot.face)
    image = Image.new("RGB", size, plot.paper)
    draw = ImageDraw.Draw(image)
    one_colour = chance(rng, 0.5)
    fill, texts = float(rng.uniform(0.5, 0.85)), []
    boxes: list[LabelledBox] = []
    if chance(rng, 0.4):
        for step in range(1, 5):
            y = bottom - step * (bottom - upper) // 4
            draw.line(
                (left, y, right, y), fill=tuple((a * 3 + b) // 4 for a, b in zip(plot.paper, plot.ink, strict=True))
            )
    for index, (label, value) in enumerate(zip(labels, values, strict=True)):
        centre = left + (index + 0.5) * pitch
        y = bottom - value / top * (bottom - upper)
        colour = plot.ramp[0 if one_colour else index % len(plot.ramp)]
        draw.rectangle((centre - fill * pitch / 2, y, centre + fill * pitch / 2, bottom), fill=colour)
        texts.append((label, centre, bottom + plot.face.ascent + 1))
        role = "highest" if value == max(values) else "lowest" if value == min(values) else "other"
        column = (centre - fill * pitch / 2, y, centre + fill * pitch / 2, float(size[1]))
        boxes.append(LabelledBox(label=f"bar:{role}", box=column))
        if with_values:
            texts.append((str(value), centre, round(y) - 2))
    draw.line((left, bottom, right, bottom), fill=plot.ink)
    if chance(rng, 0.6):
        draw.line((left, upper, left, bottom), fill=plot.ink)
    boxes += _write(image, plot, texts)
    image = damage(rng, image, amount=0.35 * difficulty)
    return Bars(image=image, boxes=boxes, labels=labels, values=values, with_values=with_values)


def _ask_bar(rng: np.random.Generator, split: Split, chart: Bars, ask: str) -> Turn:
    """A question about the chart; `ask` is highest, lowest, value (of any bar) or count."""
    if ask == "value":
        index = number(rng, 0, len(chart.labels) - 1)
        question = phrase(rng, split, "bar_value", label=chart.labels[index])
        return Turn(question=question, answers=(str(chart.values[index]),))
    if ask == "count":
        return Turn(question=phrase(rng, split, "bar_count"), answers=(str(len(chart.labels)),))
    word, most = pick(rng, HIGH_WORDS if ask == "highest" else LOW_WORDS)
    label = chart.labels[int(np.argmax(chart.values) if ask == "highest" else np.argmin(chart.values))]
    question = phrase(rng, split, "highest", highest=word, most=most)
    return Turn(question=question, answers=(label, f"the {label} bar"))


def make_pie(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """Two to five slices labelled inside; which is the biggest or the smallest."""
    plot = _start_plot(rng, assets, split, size)
    count = number(rng, 2, min(5, len(plot.ramp)))
    while True:
        shares = rng.dirichlet(np.full(count, 3.0))
        ranked = np.sort(shares)
        if ranked[0] > 0.1 and ranked[1] - ranked[0] > 0.06 and ranked[-1] - ranked[-2] > 0.06:
            break
    radius = min(size) * float(rng.uniform(0.4, 0.48))
    cx, cy = size[0] / 2 + number(rng, -2, 2), size[1] / 2 + number(rng, -2, 2)
    labels = _labels(rng, assets, split, count, int(radius * 0.6), plot.face)
    image = Image.new("RGB", size, plot.paper)
    draw = ImageDraw.Draw(image)
    angle = float(rng.uniform(0, 360))
    dark: list[tuple[str, float, int]] = []
    light: list[tuple[str, float, int]] = []
    for label, share, colour in zip(labels, shares, plot.ramp, strict=False):
        end = angle + 360 * float(share)
        draw.pieslice((cx - radius, cy - radius, cx + radius, cy + radius), angle, end, fill=colour, outline=plot.paper)
        middle = np.deg2rad((angle + end) / 2)
        x, y = cx + 0.62 * radius * np.cos(middle), cy + 0.62 * radius * np.sin(middle)
        text = (label, float(x), round(float(y) + plot.face.ascent * 0.4))
        (dark if luminance(colour) > 120 else light).append(text)
        angle = end
    boxes = _write(image, plot, dark, (10, 10, 10)) + _write(image, plot, light, (250, 250, 250))
    biggest = chance(rng, 0.6)
    word = pick(rng, ("biggest", "largest")) if biggest else "smallest"
    answer = labels[int(np.argmax(shares) if biggest else np.argmin(shares))]
    return make_sample(
        damage(rng, image, amount=0.35 * difficulty),
        Turn(question=phrase(rng, split, "slice", biggest=word), answers=(answer,)),
        task="pie",
        objects=boxes,
        labels=labels,
        values=[round(float(share), 3) for share in shares],
        ask=word,
    )


def make_line_chart(rng: np.random.Generator, assets: Assets, split: Split, size: Size, difficulty: float) -> Sample:
    """Three to six points joined by a line; whether it goes up or down, and where it is highest or lowest."""
    plot = _start_plot(rng, assets, split, size)
    left, upper, right, bottom = plot.area
    count = number(rng, 3, 6)
    ask = "trend" if chance(rng, 0.4) else "peak"
    rising = chance(rng, 0.5)
    values = _trend(rng, count, rising) if ask == "trend" else _values(rng, count, 100)
    pitch = (right - left) / count
    labels = _labels(rng, assets, split, count, int(pitch) - 1, plot.face)
    centres = [left + (index + 0.5) * pitch for index in range(count)]
    points = [(x, bottom - value / 105 * (bottom - upper)) for x, value in zip(centres, values, strict=True)]
    image = Image.new("RGB", size, plot.paper)
    draw = ImageDraw.Draw(image)
    colour = named_colour(rng, "blue") if distance(plot.paper, NAMED_COLOURS["blue"]) > 150 else plot.ramp[0]
    colour = plot.ramp[0] if chance(rng, 0.7) else colour
    draw.line(points, fill=colour, width=number(rng, 1, 3), joint="curve")
    if chance(rng, 0.6):
        for x, y in points:
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
    draw.line((left, upper, left, bottom, right, bottom), fill=plot.ink)
    texts = [(label, x, bottom + plot.face.ascent + 1) for label, x in zip(labels, centres, strict=True)]
    boxes = _write(image, plot, texts)
    if ask == "trend":
        question, answer = phrase(rng, split, "trend"), "up" if rising else "down"
    else:
        high = chance(rng, 0.5)
        answer = labels[int(np.argmax(values) if high else np.argmin(values))]
        question = phrase(rng, split, "peak", highest="highest" if high else "lowest")
        ask = "highest" if high else "lowest"
    return make_sample(
        damage(rng, image, amount=0.35 * difficulty),
        Turn(question=question, answers=(answer,)),
        task="line_chart",
        objects=boxes,
        labels=labels,
        values=values,
        ask=ask,
    )


def _trend(rng: np.random.Generator, count: int, rising: bool) -> list[int]:
    """Values that climb from a low to a high level with little jitter, or the reverse."""
    steps = np.linspace(number(rng, 8, 30), number(rng, 65, 100), count) + rng.integers(-5, 6, count)
    values = [int(min(100, max(4, value))) for value in steps]
    return values if rising else values[::-1]
