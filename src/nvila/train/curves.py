"""`loss.png`: the losses of a whole run, stage after stage, and the learning rates below.

Reads the `metrics.jsonl` that a run appends to, as a run that was killed leaves it: a line that is cut off is passed
over, and where a stage went back to a checkpoint, what it had logged behind that is left out. The logged losses are
faint, their exponential mean is strong. Drawn with Pillow alone: a training needs no plotting library otherwise.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from nvila.errors import DataError
from nvila.utils.atomic import atomic_write_bytes

Point = tuple[float, float]
Colour = tuple[int, int, int]
Entry = tuple[int, dict[str, float]]
"""A step of a stage, and its loss and learning rates."""

SIZE = (1000, 640)
RAW: Colour = (176, 203, 236)
SMOOTH: Colour = (24, 84, 164)
RATES: tuple[Colour, ...] = ((200, 90, 20), (40, 140, 60), (130, 60, 160), (150, 120, 20))
_GRID: Colour = (225, 225, 225)
_EDGE: Colour = (120, 120, 120)
_INK: Colour = (30, 30, 30)
_RATE_KEY = "learning_rate"
_HUGE = 1e300
_FINER = 2
"""Everything is drawn this much larger and then reduced, which smooths the lines."""


@dataclass(frozen=True, kw_only=True)
class StageCurves:
    """One stage: `end` is its last step counted from the run's begin; points are (step of the run, value)."""

    name: str
    end: int
    losses: list[Point]
    rates: dict[str, list[Point]]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Values between `low` and `high`, evenly or (`log`) by their logarithm."""

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Where `value` lies: 0 at `low`, 1 at `high`."""
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return (value - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values within the axis, about five of them."""
        if not self.log:
            return _round_steps(self.low, self.high)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        digits = (1, 2, 5) if last - first <= 3 else (1,)
        values = (digit * 10.0**power for power in range(first, last + 1) for digit in digits)
        return [value for value in values if self.low <= value <= self.high]


def write_curves(metrics: Path, out: Path) -> None:
    """Draw the run whose log is `metrics` (metrics.jsonl) into `out`, a PNG of SIZE pixels.

    Raises DataError when the log cannot be read or tells no loss.
    """
    stages = read_stages(metrics)
    stream = io.BytesIO()
    draw_stages(stages).save(stream, "PNG")
    atomic_write_bytes(out, stream.getvalue())


def read_stages(metrics: Path) -> list[StageCurves]:
    """The stages of a log in the order in which they began, losses and learning rates at the steps of the run.

    Entries without a loss, a step or a stage are passed over, and so are numbers that are not finite.
    Raises DataError when the file cannot be read or no entry has a loss.
    """
    try:
        lines = metrics.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"cannot read the log of the training {metrics}: {error.strerror}") from error
    logged: dict[str, list[Entry]] = {}
    for stage, step, values in filter(None, map(_parsed, lines)):
        entries = logged.setdefault(stage, [])
        while entries and entries[-1][0] >= step:  # it went back to a checkpoint
            entries.pop()
        entries.append((step, values))
    if not logged:
        raise DataError(f"{metrics} has no entry with a stage, a step and a loss; is it the metrics.jsonl of a run?")
    stages, start = [], 0
    for name, entries in logged.items():
        stages.append(_stage(name, start, entries))
        start = stages[-1].end
    return stages


def _parsed(line: str) -> tuple[str, int, dict[str, float]] | None:
    """Stage, step, and the loss and learning rates of a line, or None where it does not tell them."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict):
        return None
    stage, step = entry.get("stage"), entry.get("step")
    values = {key: float(value) for key, value in entry.items() if _wanted(key) and _is_finite(value)}
    if not isinstance(stage, str) or not isinstance(step, int) or step < 0 or "loss" not in values:
        return None
    return stage, step, values


def _wanted(key: str) -> bool:
    return key == "loss" or key.startswith(_RATE_KEY)


def _is_finite(value: Any) -> bool:
    """Also False for whole numbers that no float holds."""
    return isinstance(value, int | float) and abs(value) < _HUGE


def _stage(name: str, start: int, entries: Sequence[Entry]) -> StageCurves:
    keys = sorted({key for _, values in entries for key in values})
    curves = {key: [(float(start + step), values[key]) for step, values in entries if key in values] for key in keys}
    losses = curves.pop("loss")
    return StageCurves(name=name, end=start + max(1, entries[-1][0]), losses=losses, rates=curves)


def smoothed(points: Sequence[Point]) -> list[Point]:
    """The exponential mean over about a fiftieth of the points, ten at least, unbiased at the start."""
    weight = 2.0 / (1.0 + max(10.0, len(points) / 50))
    mean, total, result = 0.0, 0.0, []
    for step, value in points:
        mean += weight * (value - mean)
        total += weight * (1.0 - total)
        result.append((step, mean / total))
    return result


def loss_axis(losses: Iterable[float]) -> Axis:
    """Logarithmic when the losses are positive and span a decade or more; a little wider than they are."""
    values = list(losses)
    low, high = min(values), max(values)
    if low > 0 and high / low >= 10:
        margin = (high / low) ** 0.04
        return Axis(low=low / margin, high=high * margin, log=True)
    margin = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
    return Axis(low=low - margin, high=high + margin)


def draw_stages(stages: Sequence[StageCurves]) -> Image.Image:
    """The picture: losses in the upper two thirds, learning rates below, both over the steps of the run."""
    pen = Pen()
    steps = Axis(low=0.0, high=float(stages[-1].end))
    losses = loss_axis(value for stage in stages for _, value in stage.losses)
    keys = sorted({key for stage in stages for key in stage.rates})
    peak = max((value for stage in stages for points in stage.rates.values() for _, value in points), default=0.0)
    upper = Panel(pen=pen, box=(80, 45, SIZE[0] - 25, 410), x=steps, y=losses)
    lower = Panel(pen=pen, box=(80, 465, SIZE[0] - 25, 585), x=steps, y=Axis(low=0.0, high=1.05 * peak or 1.0))
    upper.frame(stages, names=True)
    lower.frame(stages, names=False)
    upper.title("loss, log scale" if losses.log else "loss", [("logged", RAW), ("smoothed", SMOOTH)])
    lower.title("learning rate", [(_rate_name(key), _rate_colour(keys, key)) for key in keys])
    pen.text((SIZE[0] - 25, SIZE[1] - 18), "step", anchor="rm")
    for stage in stages:
        upper.curve(stage.losses, RAW, width=1)
        upper.curve(smoothed(stage.losses), SMOOTH, width=2)
        for key, points in stage.rates.items():
            lower.curve(points, _rate_colour(keys, key), width=2)
    return pen.finished()


def _rate_name(key: str) -> str:
    """`learning_rate_vision` is called "vision"; the one without a name is "all"."""
    return key.removeprefix(_RATE_KEY).strip("_/. ") or "all"


def _rate_colour(keys: Sequence[str], key: str) -> Colour:
    return RATES[keys.index(key) % len(RATES)]


class Pen:
    """Draws on an image of SIZE pixels in that image's coordinates, smoothly."""

    def __init__(self) -> None:
        self._image = Image.new("RGB", (SIZE[0] * _FINER, SIZE[1] * _FINER), "white")
        self._draw = ImageDraw.Draw(self._image)
        self._font = ImageFont.load_default(12 * _FINER)

    def line(self, points: Sequence[Point], colour: Colour, width: int = 1) -> None:
        """A line through (x, y) `points`."""
        self._draw.line([(x * _FINER, y * _FINER) for x, y in points], colour, width * _FINER, joint="curve")

    def dot(self, point: Point, colour: Colour, radius: float) -> None:
        """A filled circle about (x, y)."""
        x, y, r = point[0] * _FINER, point[1] * _FINER, radius * _FINER
        self._draw.ellipse((x - r, y - r, x + r, y + r), colour)

    def text(self, at: Point, text: str, *, anchor: str, colour: Colour = _INK) -> float:
        """`text` at (x, y) by Pillow's `anchor`; gives its width."""
        self._draw.text((at[0] * _FINER, at[1] * _FINER), text, colour, self._font, anchor)
        return self._font.getlength(text) / _FINER

    def cut(self, text: str, width: float) -> str:
        """As much of `text` as fits into `width` pixels."""
        while text and self._font.getlength(text) > width * _FINER:
            text = text[:-1]
        return text

    def finished(self) -> Image.Image:
        """The image at its own size."""
        return self._image.reduce(_FINER)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes. `box`: (left, top, right, bottom) pixels."""

    pen: Pen
    box: tuple[int, int, int, int]
    x: Axis
    y: Axis

    def place(self, point: Point) -> Point:
        """The pixel of a (step, value)."""
        left, top, right, bottom = self.box
        return left + self.x.share(point[0]) * (right - left), bottom - self.y.share(point[1]) * (bottom - top)

    def frame(self, stages: Sequence[StageCurves], *, names: bool) -> None:
        """Grid, labels of both axes, and where each stage begins, with its name as far as it fits."""
        left, top, right, bottom = self.box
        for value in self.y.ticks():
            _, y = self.place((self.x.low, value))
            self.pen.line([(left, y), (right, y)], _GRID)
            self.pen.text((left - 6, y), f"{value:.4g}", anchor="rm")
        for step in self.x.ticks():
            x, _ = self.place((step, self.y.high))
            self.pen.line([(x, bottom), (x, bottom + 4)], _INK)
            self.pen.text((x, bottom + 7), f"{step:,.0f}", anchor="ma")
        start = 0
        for stage in stages:
            (x, _), (end, _) = (self.place((step, self.y.high)) for step in (start, stage.end))
            self.pen.line([(x, top), (x, bottom)], _EDGE)
            name = self.pen.cut(stage.name, end - x - 6) if names else ""
            self.pen.text((x + 4, top + 2), name, anchor="la", colour=_EDGE)
            start = stage.end
        self.pen.line([(left, top), (left, bottom), (right, bottom)], _INK)

    def title(self, text: str, legend: Sequence[tuple[str, Colour]]) -> None:
        """What the panel shows, and its colours, above it."""
        left, top, _, _ = self.box
        x = left + self.pen.text((left, top - 14), text, anchor="lm") + 24
        for name, colour in legend:
            self.pen.line([(x, top - 14), (x + 18, top - 14)], colour, width=3)
            x += 24 + self.pen.text((x + 24, top - 14), name, anchor="lm") + 18

    def curve(self, points: Sequence[Point], colour: Colour, width: int) -> None:
        """A line through (step, value) `points`, and a dot where there is but one."""
        places = [self.place(point) for point in points]
        if len(places) == 1:
            self.pen.dot(places[0], colour, radius=1.0 + width)
        self.pen.line(places, colour, width)


def _round_steps(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high]."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
