"""Questions about drawn charts and tables, each with one right answer that can be read from the picture.

Numbers are asked for only where they are printed. What is compared by eye differs by at least 6 % of the value axis'
range (3 % from a tick that is asked about); printed numbers may differ by less. Makers return None where their
question has no such answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from nvila.data.build.tables.draw import Drawing
from nvila.data.build.tables.values import Bins, Categories, Groups, Points, as_written
from nvila.data.build.tables.wordings import WORDINGS
from nvila.data.corpus.canvas import Turn, chance, number, pick

GAP = 0.06
PLACES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
Maker = Callable[[], Turn | None]


def ask(rng: np.random.Generator, kind: str, *answers: str, **slots: str) -> Turn:
    """A question in a random wording; the first answer is taught, all are accepted."""
    return Turn(question=pick(rng, WORDINGS[kind]).format(**slots), answers=tuple(dict.fromkeys(answers)))


def extreme(values: Sequence[float], gap: float, highest: bool, rank: int = 0) -> int | None:
    """The index of the highest (or lowest) value, or of the one `rank` places behind, if more than `gap` apart from

    its neighbours in rank.
    """
    order = sorted(range(len(values)), key=lambda place: values[place], reverse=highest)
    if rank + 1 >= len(order):
        return None
    near = [order[place] for place in (rank - 1, rank + 1) if 0 <= place < len(order)]
    return order[rank] if all(abs(values[order[rank]] - values[other]) > gap for other in near) else None


class CategoryQuestions:
    """Questions about bars and lines: what was drawn and how."""

    def __init__(self, rng: np.random.Generator, data: Categories, drawing: Drawing, mark: str) -> None:
        self._rng, self._data, self._drawing, self._mark = rng, data, drawing, mark
        self._gap = GAP * (drawing.high - drawing.low)
        self._series = number(rng, 0, len(data.series) - 1)
        self._called = f'"{data.series[self._series]}"' if len(data.series) > 1 else "value"
        self._values = data.values[self._series]

    def makers(self) -> dict[str, Maker]:
        """The kinds that fit the chart, by name."""
        found: dict[str, Maker] = {
            "highest": self._highest,
            "lowest": self._lowest,
            "second": self._second,
            "compare": self._compare,
        }
        if self._drawing.printed:
            found |= {"value": self._value, "difference": self._difference, "sum": self._sum}
        if len(self._data.series) > 1:
            found |= {"colour_of": self._colour_of, "of_colour": self._of_colour, "top_series": self._top_series}
            found |= {"series_count": self._series_count}
        if self._mark == "bars":
            found |= {"place": self._place}
            found |= {"count": self._count, "above": self._above} if len(self._data.series) == 1 else {}
        elif self._data.ordered:
            found |= {"trend": self._trend}
        return found

    def _extreme(self, kind: str, highest: bool, rank: int = 0) -> Turn | None:
        place = extreme(self._values, 0.0 if self._drawing.printed else self._gap, highest, rank)
        return None if place is None else ask(self._rng, kind, self._data.labels[place], series=self._called)

    def _highest(self) -> Turn | None:
        return self._extreme("highest", True)

    def _lowest(self) -> Turn | None:
        return self._extreme("lowest", False)

    def _second(self) -> Turn | None:
        return self._extreme("second", True, 1) if len(self._values) > 3 else None

    def _two(self) -> tuple[int, int]:
        first, second = (int(place) for place in self._rng.permutation(len(self._values))[:2])
        return first, second

    def _compare(self) -> Turn | None:
        first, second = self._two()
        apart = self._values[first] - self._values[second]
        if abs(apart) <= self._gap:
            return None
        labels = self._data.labels
        slots = {"label": labels[first], "other": labels[second], "series": self._called}
        return ask(self._rng, "compare", labels[first if apart > 0 else second], **slots)

    def _value(self) -> Turn | None:
        place = number(self._rng, 0, len(self._values) - 1)
        answer = as_written(self._values[place], self._data.decimals)
        return ask(self._rng, "value", answer, label=self._data.labels[place], series=self._called)

    def _combined(self, kind: str, sign: int) -> Turn | None:
        first, second = self._two()
        total = self._values[first] + sign * self._values[second]
        if sign < 0 and total == 0:
            return None
        answer = as_written(abs(total) if sign < 0 else total, self._data.decimals)
        slots = {"label": self._data.labels[first], "other": self._data.labels[second], "series": self._called}
        return ask(self._rng, kind, answer, **slots)

    def _difference(self) -> Turn | None:
        return self._combined("difference", -1)

    def _sum(self) -> Turn | None:
        return self._combined("sum", 1)

    def _count(self) -> Turn | None:
        return ask(self._rng, "count", str(len(self._values)), mark="bars")

    def _above(self) -> Turn | None:
        """Bars above a tick that no bar ends near."""
        least = 0.03 * (self._drawing.high - self._drawing.low)
        clear = [
            (tick, text)
            for tick, text in self._drawing.ticks
            if all(abs(value - tick) > least for value in self._values) and min(self._values) < tick < max(self._values)
        ]
        if not clear:
            return None
        tick, text = clear[number(self._rng, 0, len(clear) - 1)]
        return ask(self._rng, "above", str(sum(value > tick for value in self._values)), number=text)

    def _place(self) -> Turn | None:
        count = len(self._data.labels)
        if len(self._data.series) > 1 or count > len(PLACES):
            return None
        place, back = number(self._rng, 0, count - 1), chance(self._rng, 0.4)
        sides = ("from the top", "from the bottom") if self._drawing.sideways else ("from the left", "from the right")
        label = self._data.labels[count - 1 - place if back else place]
        return ask(self._rng, "place", label, place=PLACES[place], side=sides[back])

    def _colour_of(self) -> Turn | None:
        names = self._drawing.style.colour_names
        if names is None:
            return None
        return ask(self._rng, "colour_of", names[self._series], label=self._data.series[self._series])

    def _of_colour(self) -> Turn | None:
        names = self._drawing.style.colour_names
        if names is None:
            return None
        return ask(self._rng, "of_colour", self._data.series[self._series], colour=names[self._series])

    def _series_count(self) -> Turn | None:
        mark = "lines" if self._mark == "lines" else "series in the legend"
        return ask(self._rng, "count", str(len(self._data.series)), mark=mark)

    def _top_series(self) -> Turn | None:
        place = number(self._rng, 0, len(self._data.labels) - 1)
        best = extreme([values[place] for values in self._data.values], self._gap, True)
        if best is None:
            return None
        return ask(self._rng, "top_series", self._data.series[best], label=self._data.labels[place])

    def _trend(self) -> Turn | None:
        """Only where nothing turns back by more than 2 % and the ends are 40 % of the range apart."""
        steps = np.diff(self._values) / (self._drawing.high - self._drawing.low)
        if abs(float(steps.sum())) < 0.4:
            return None
        if bool(np.all(steps > -0.02)):
            return ask(self._rng, "trend", "rising", "rise", "up", "rises", "it rises", series=self._called)
        if bool(np.all(steps < 0.02)):
            return ask(self._rng, "trend", "falling", "fall", "down", "falls", "it falls", series=self._called)
        return None


class StackQuestions(CategoryQuestions):
    """Questions about stacked bars: totals, the legend, and parts where they are printed."""

    def makers(self) -> dict[str, Maker]:
        """The kinds that fit the chart, by name."""
        found: dict[str, Maker] = {
            "highest_total": self._highest_total,
            "colour_of": self._colour_of,
            "of_colour": self._of_colour,
            "series_count": self._series_count,
        }
        if self._drawing.printed:
            found |= {"total": self._total, "value": self._value, "difference": self._difference, "top": self._highest}
        return found

    def _highest_total(self) -> Turn | None:
        totals = [sum(column) for column in zip(*self._data.values, strict=True)]
        place = extreme(totals, self._gap, True)
        return None if place is None else ask(self._rng, "highest_total", self._data.labels[place])

    def _total(self) -> Turn | None:
        place = number(self._rng, 0, len(self._data.labels) - 1)
        total = sum(values[place] for values in self._data.values)
        return ask(self._rng, "total", as_written(total, self._data.decimals), label=self._data.labels[place])


def about_pie(rng: np.random.Generator, data: Categories, drawing: Drawing) -> dict[str, Maker]:
    """Largest and smallest slice, how many, printed percents, colours."""
    values = data.values[0]
    shares = [value / sum(values) for value in values]
    names = drawing.style.colour_names

    def by_size(kind: str, highest: bool) -> Turn | None:
        place = extreme(shares, 0.05, highest)
        return None if place is None else ask(rng, kind, data.labels[place])

    def share() -> Turn | None:
        place = number(rng, 0, len(shares) - 1)
        if abs((100 * shares[place]) % 1 - 0.5) < 0.01:
            return None
        percent = f"{100 * shares[place]:.0f}"
        return ask(rng, "share", f"{percent}%", percent, f"{percent} %", label=data.labels[place])

    def colour(kind: str) -> Turn | None:
        place = number(rng, 0, len(shares) - 1)
        if names is None:
            return None
        slots = {"label": data.labels[place], "colour": names[place]}
        return ask(rng, kind, names[place] if kind == "colour_of" else data.labels[place], **slots)

    found: dict[str, Maker] = {
        "largest_slice": lambda: by_size("largest_slice", True),
        "smallest_slice": lambda: by_size("smallest_slice", False),
        "count": lambda: ask(rng, "count", str(len(shares)), mark="slices"),
        "colour_of": lambda: colour("colour_of"),
        "of_colour": lambda: colour("of_colour"),
    }
    return found | ({"share": share} if drawing.printed else {})


def about_points(rng: np.random.Generator, data: Points) -> dict[str, Maker]:
    """The sign of a clear correlation, how many points where they lie apart, and groups."""
    points = [point for group in data.groups.values() for point in group]
    xy_N2 = np.array(points)
    spans = np.ptp(xy_N2, axis=0)

    def correlation() -> Turn | None:
        if len(points) < 8 or not spans.all():
            return None
        sign = float(np.corrcoef(xy_N2[:, 0], xy_N2[:, 1])[0, 1])
        if abs(sign) < 0.75:
            return None
        words = ("positive", "rise", "they rise", "grows") if sign > 0 else ("negative", "fall", "they fall", "shrinks")
        return ask(rng, "correlation", *words, x_name=f'"{data.x_name}"', y_name=f'"{data.y_name}"')

    def count() -> Turn | None:
        scaled = xy_N2 / np.where(spans > 0, spans, 1)
        apart = np.abs(scaled[:, None] - scaled[None]).max(axis=2) + np.eye(len(points))
        return ask(rng, "count", str(len(points)), mark="points") if len(points) <= 12 and apart.min() > 0.08 else None

    def top_group() -> Turn | None:
        tops = [max(y for _, y in group) for group in data.groups.values()]
        place = extreme(tops, GAP * float(spans[1]), True)
        return None if place is None else ask(rng, "top_group", list(data.groups)[place], y_name=f'"{data.y_name}"')

    found: dict[str, Maker] = {"correlation": correlation, "count": count}
    if data.group_name is not None:
        found |= {"top_group": top_group}
        found |= {"group_name_count": lambda: ask(rng, "group_name_count", str(len(data.groups)))}
    return found


def about_bins(rng: np.random.Generator, data: Bins, drawing: Drawing) -> dict[str, Maker]:
    """The fullest interval, two intervals compared, and printed counts."""
    edges = [as_written(edge, data.decimals) for edge in data.edges]
    names = [f"{low} to {high}" for low, high in pairwise(edges)]
    gap = GAP * max(data.counts)

    def fullest() -> Turn | None:
        place = extreme(data.counts, 0 if drawing.printed else gap, True)
        if place is None:
            return None
        low, high = edges[place], edges[place + 1]
        return ask(rng, "fullest_bin", names[place], f"{low}-{high}", f"{low} and {high}", f"[{low}, {high}]")

    def count() -> Turn | None:
        place = number(rng, 0, len(names) - 1)
        return ask(rng, "bin_count", str(data.counts[place]), label=edges[place], other=edges[place + 1])

    def compare() -> Turn | None:
        first, second = (int(place) for place in rng.permutation(len(names))[:2])
        apart = data.counts[first] - data.counts[second]
        if abs(apart) <= gap:
            return None
        return ask(rng, "compare_bins", names[first if apart > 0 else second], label=names[first], other=names[second])

    found: dict[str, Maker] = {"fullest_bin": fullest, "compare_bins": compare}
    return found | ({"bin_count": count} if drawing.printed else {})


def about_groups(rng: np.random.Generator, data: Groups, drawing: Drawing) -> dict[str, Maker]:
    """Medians and heights of boxes by eye, and how many boxes."""
    medians = [float(np.median(sample)) for sample in data.samples]
    quarters = [np.percentile(sample, (25, 75)) for sample in data.samples]
    gap = GAP * (drawing.high - drawing.low)

    def median(kind: str, highest: bool) -> Turn | None:
        place = extreme(medians, gap, highest)
        return None if place is None else ask(rng, kind, data.labels[place])

    def tallest() -> Turn | None:
        place = extreme([float(high - low) for low, high in quarters], gap, True)
        return None if place is None else ask(rng, "tallest_box", data.labels[place])

    def compare() -> Turn | None:
        first, second = (int(place) for place in rng.permutation(len(medians))[:2])
        apart = medians[first] - medians[second]
        if abs(apart) <= gap:
            return None
        slots = {"label": data.labels[first], "other": data.labels[second]}
        return ask(rng, "compare_medians", data.labels[first if apart > 0 else second], **slots)

    return {
        "highest_median": lambda: median("highest_median", True),
        "lowest_median": lambda: median("lowest_median", False),
        "tallest_box": tallest,
        "compare_medians": compare,
        "count": lambda: ask(rng, "count", str(len(medians)), mark="boxes"),
    }


def about_frame(rng: np.random.Generator, drawing: Drawing) -> dict[str, Maker]:
    """The title and the names of the axes, where they are drawn."""
    shown = {"title": drawing.style.title, "x_text": drawing.x_text, "y_text": drawing.y_text}

    def read(kind: str, text: str) -> Maker:
        return lambda: ask(rng, kind, text)

    return {kind: read(kind, text) for kind, text in shown.items() if text}
