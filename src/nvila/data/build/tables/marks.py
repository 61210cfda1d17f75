"""The kinds of chart: bars (upright, lying, grouped, stacked), lines, pies, points, histograms and box plots.

Each takes a painter and a style and returns a `Drawing`. Values are printed beside marks only where all of them fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from nvila.data.build.tables.draw import (
    LETTER,
    Drawing,
    Painter,
    Style,
    add_legend,
    bar_boxes,
    escape,
    rgb,
    value_ticks,
)
from nvila.data.build.tables.values import Bins, Categories, Groups, Points, as_written
from nvila.data.corpus.canvas import chance, luminance, number, pick
from nvila.types import LabelledBox

_MARKERS = ("o", "s", "^", "D", "v")


def _written(data: Categories, series: int) -> list[str]:
    return [as_written(value, data.decimals) for value in data.values[series]]


def _label_axis(axes: Any, style: Style, labels: Sequence[str], sideways: bool) -> None:
    """Category names along the axis, turned when they would touch."""
    texts = [escape(label) for label in labels]
    if sideways:
        axes.set_yticks(range(len(labels)), texts)
        axes.invert_yaxis()
        return
    axes.set_xticks(range(len(labels)), texts)
    room = 0.78 * style.size[0] / len(labels)
    longest = max(len(label) for label in labels) * style.font_px * LETTER + 4
    if longest > room:
        axes.tick_params(axis="x", rotation=90 if longest > 3 * room or style.font_px > 0.8 * room else 40)
        if longest <= 3 * room and style.font_px <= 0.8 * room:
            for label in axes.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")


def _grid_lines(axes: Any, style: Style, sideways: bool) -> None:
    """A number of ticks that does not depend on the layout, plainly written, with grid lines where wanted."""
    axes.locator_params(axis="x" if sideways else "y", nbins=_num_ticks(style.size[0 if sideways else 1], sideways))
    axes.ticklabel_format(axis="x" if sideways else "y", style="plain", useOffset=False)
    if style.grid:
        axes.grid(axis="x" if sideways else "y", color=rgb(style.ink), alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)


def _num_ticks(side: int, across: bool) -> int:
    return min(8, max(3, side // (95 if across else 60)))


def _range(axes: Any, sideways: bool) -> tuple[float, float]:
    low, high = sorted(axes.get_xlim() if sideways else axes.get_ylim())
    return float(low), float(high)


def draw_bars(rng: np.random.Generator, painter: Painter, style: Style, data: Categories, stacked: bool) -> Drawing:
    """Bars side by side or stacked, upright or lying. `data.values` must not be negative when stacked."""
    axes = painter.start(style)
    num_series, num_bars = len(data.series), len(data.labels)
    longest = max(len(label) for label in data.labels) * style.font_px * LETTER
    sideways = chance(rng, 0.3) or longest * num_bars > 2.2 * style.size[0]
    printed = chance(rng, 0.6) and _fits(style, data, sideways, stacked)
    thick = float(rng.uniform(0.55, 0.85)) / (1 if stacked else num_series)
    bases = np.zeros(num_bars)
    patches: list[tuple[str, Any]] = []
    bars = axes.barh if sideways else axes.bar
    by_bar = num_series == 1 and style.colour_names is None and num_bars <= len(style.colours) and chance(rng, 0.3)
    for series, values in enumerate(data.values):
        places = np.arange(num_bars) + (0 if stacked else (series - (num_series - 1) / 2) * thick)
        colour = [rgb(each) for each in style.colours[:num_bars]] if by_bar else rgb(style.colours[series])
        side = {"left": bases} if sideways else {"bottom": bases}
        drawn = bars(places, values, thick, color=colour, label=data.series[series], **(side if stacked else {}))
        patches += [(f"{name} {label}", patch) for name, label, patch in _named(data, series, drawn)]
        if printed:
            ink = (0, 0, 0) if stacked and luminance(style.colours[series]) > 120 else style.ink
            ink = (255, 255, 255) if stacked and luminance(style.colours[series]) <= 120 else ink
            place = {"label_type": "center"} if stacked else {"padding": 2}
            axes.bar_label(drawn, _written(data, series), fontsize=style.font_px * 0.68, color=rgb(ink), **place)
        bases = bases + np.asarray(values)
    _label_axis(axes, style, data.labels, sideways)
    _grid_lines(axes, style, sideways)
    axes.margins(**{"x" if sideways else "y": 0.14 if printed else 0.05})
    if num_series > 1:
        handles = [container[0] for container in axes.containers]
        add_legend(axes, style, handles, data.series)
    names = (data.y_name, data.x_name) if sideways else (data.x_name, data.y_name)
    image = painter.finish(axes, style, *names)
    low, high = _range(axes, sideways)
    boxes = bar_boxes(axes, patches, image.height)
    ticks = value_ticks(axes, sideways)
    return Drawing(
        image=image,
        style=style,
        printed=printed,
        low=low,
        high=high,
        ticks=ticks,
        boxes=boxes,
        sideways=sideways,
        **_axis_texts(style, *names),
    )


def _axis_texts(style: Style, x_text: str, y_text: str) -> dict[str, Any]:
    return {"x_text": x_text, "y_text": y_text} if style.axis_names else {}


def _named(data: Categories, series: int, drawn: Any) -> list[tuple[str, str, Any]]:
    return [(data.series[series], label, patch) for label, patch in zip(data.labels, drawn, strict=True)]


def _fits(style: Style, data: Categories, sideways: bool, stacked: bool) -> bool:
    """Whether the values can be printed at every bar without touching."""
    longest = max(len(text) for series in range(len(data.series)) for text in _written(data, series))
    wide, high = longest * style.font_px * LETTER, style.font_px * 1.3
    num_bars = len(data.labels) * (1 if stacked else len(data.series))
    across, along = (
        (0.62 * style.size[1], 0.5 * style.size[0]) if sideways else (0.68 * style.size[0], 0.5 * style.size[1])
    )
    if (high if sideways else wide) > 0.85 * across / num_bars:
        return False
    if not stacked:
        return True
    largest = max(sum(column) for column in zip(*data.values, strict=True))
    least = min(value for row in data.values for value in row)
    return least / largest * along > (wide if sideways else high) * 1.2


def draw_lines(rng: np.random.Generator, painter: Painter, style: Style, data: Categories) -> Drawing:
    """One to three lines over the categories; values may be printed at the points of a single one."""
    axes = painter.start(style)
    places = range(len(data.labels))
    printed = len(data.series) == 1 and chance(rng, 0.4) and _fits(style, data, False, False)
    dotted = chance(rng, 0.6) or printed
    handles = []
    for series, values in enumerate(data.values):
        look = {"marker": pick(rng, _MARKERS) if dotted else None, "markersize": style.font_px * 0.4}
        (line,) = axes.plot(
            places,
            values,
            color=rgb(style.colours[series]),
            linewidth=float(rng.uniform(1.2, 2.6)),
            linestyle=pick(rng, ("-", "-", "-", "--")),
            **look,
        )
        handles.append(line)
        for place, text in enumerate(_written(data, series)) if printed else ():
            above = {"xytext": (0, style.font_px * 0.4), "textcoords": "offset points", "ha": "center"}
            size = style.font_px * 0.68
            axes.annotate(text, (place, values[place]), fontsize=size, color=rgb(style.ink), **above)
    _label_axis(axes, style, data.labels, False)
    _grid_lines(axes, style, False)
    axes.margins(y=0.16 if printed else 0.06)
    if len(data.series) > 1:
        add_legend(axes, style, handles, data.series)
    image = painter.finish(axes, style, data.x_name, data.y_name)
    low, high = _range(axes, False)
    ticks, names = value_ticks(axes, False), _axis_texts(style, data.x_name, data.y_name)
    return Drawing(image=image, style=style, printed=printed, low=low, high=high, ticks=ticks, **names)


def draw_pie(rng: np.random.Generator, painter: Painter, style: Style, data: Categories) -> Drawing:
    """A pie or a ring of one series, names beside the slices or in a legend, perhaps with whole percents."""
    axes = painter.start(style)
    values = data.values[0]
    printed = chance(rng, 0.6) and min(values) >= 0.06 * sum(values)
    longest = max(len(label) for label in data.labels) * style.font_px * LETTER
    beside = chance(rng, 0.6) and 2.2 * longest + 0.55 * min(style.size) < style.size[0]
    ring = chance(rng, 0.25)
    percent: dict[str, Any] = {"autopct": "%.0f%%", "pctdistance": 0.78 if ring else 0.62} if printed else {}
    text = {"fontsize": style.font_px * 0.72, "color": rgb(style.ink), "family": style.font}
    slices, *texts = axes.pie(
        values,
        labels=[escape(label) for label in data.labels] if beside else None,
        colors=[rgb(colour) for colour in style.colours[: len(values)]],
        startangle=number(rng, 0, 359),
        counterclock=chance(rng, 0.5),
        wedgeprops={"width": 0.45 if ring else 1.0, "edgecolor": rgb(style.paper), "linewidth": 1},
        textprops=text,
        **percent,
    )
    for label, colour in zip(texts[-1] if printed else (), style.colours, strict=False):
        label.set_color("black" if luminance(colour) > 120 else "white")
    if not beside:
        add_legend(axes, style, slices, data.labels)
    image = painter.finish(axes, style, None, None)
    return Drawing(image=image, style=style, printed=printed)


def draw_points(rng: np.random.Generator, painter: Painter, style: Style, data: Points) -> Drawing:
    """Points, one colour a group, with a legend when there are groups."""
    axes = painter.start(style)
    size, marker = float(rng.uniform(14, 40)), pick(rng, _MARKERS)
    handles = []
    for place, points in enumerate(data.groups.values()):
        xs, ys = zip(*points, strict=True)
        handles.append(axes.scatter(xs, ys, s=size, color=rgb(style.colours[place]), marker=marker, alpha=0.85))
    axes.ticklabel_format(style="plain", useOffset=False)
    axes.locator_params(axis="x", nbins=_num_ticks(style.size[0], True))
    axes.locator_params(axis="y", nbins=_num_ticks(style.size[1], False))
    if style.grid:
        axes.grid(color=rgb(style.ink), alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
    if data.group_name is not None:
        add_legend(axes, style, handles, tuple(data.groups))
    image = painter.finish(axes, style, data.x_name, data.y_name)
    return Drawing(image=image, style=style, **_axis_texts(style, data.x_name, data.y_name))


def draw_bins(rng: np.random.Generator, painter: Painter, style: Style, data: Bins) -> Drawing:
    """A histogram with a tick at every edge, perhaps with the counts above the bars."""
    axes = painter.start(style)
    room = 0.72 * style.size[0] / len(data.counts)
    printed = chance(rng, 0.5) and max(len(str(count)) for count in data.counts) * style.font_px * LETTER < 0.9 * room
    width = data.edges[1] - data.edges[0]
    apart = abs(luminance(style.ink) - luminance(style.colours[0])) > 60
    edge = rgb(style.ink if apart and chance(rng, 0.5) else style.paper)
    drawn = axes.bar(
        data.edges[:-1], data.counts, width, align="edge", color=rgb(style.colours[0]), edgecolor=edge, linewidth=0.8
    )
    if printed:
        axes.bar_label(drawn, [str(count) for count in data.counts], fontsize=style.font_px * 0.68, padding=2)
        for text in axes.texts:
            text.set_color(rgb(style.ink))
    texts = [as_written(edge, data.decimals) for edge in data.edges]
    axes.set_xticks(data.edges, texts)
    if max(len(text) for text in texts) * style.font_px * LETTER + 4 > room:
        axes.tick_params(axis="x", rotation=90)
    _grid_lines(axes, style, False)
    axes.margins(y=0.12)
    image = painter.finish(axes, style, data.x_name, "Count")
    low, high = _range(axes, False)
    labels = [f"{first} to {second}" for first, second in pairwise(texts)]
    boxes = bar_boxes(axes, list(zip(labels, drawn, strict=True)), image.height)
    names = _axis_texts(style, data.x_name, "Count")
    return Drawing(image=image, style=style, printed=printed, low=low, high=high, boxes=boxes, **names)


def draw_groups(rng: np.random.Generator, painter: Painter, style: Style, data: Groups) -> Drawing:
    """Box plots without outliers, one colour or one a group."""
    axes = painter.start(style)
    drawn = axes.boxplot(
        data.samples,
        patch_artist=True,
        showfliers=False,
        widths=float(rng.uniform(0.4, 0.7)),
        positions=range(len(data.labels)),
        medianprops={"linewidth": 1.8},
        whiskerprops={"color": rgb(style.ink)},
        capprops={"color": rgb(style.ink)},
    )
    one = chance(rng, 0.5)
    for place, patch in enumerate(drawn["boxes"]):
        colour = style.colours[0 if one else place % len(style.colours)]
        patch.set(facecolor=rgb(colour), edgecolor=rgb(style.ink))
        drawn["medians"][place].set_color("black" if luminance(colour) > 120 else "white")
    _label_axis(axes, style, data.labels, False)
    _grid_lines(axes, style, False)
    axes.margins(y=0.07)
    image = painter.finish(axes, style, data.x_name, data.y_name)
    low, high = _range(axes, False)
    found = list(zip(data.labels, drawn["boxes"], strict=True))
    boxes: tuple[LabelledBox, ...] = bar_boxes(axes, found, image.height)
    names = _axis_texts(style, data.x_name, data.y_name)
    return Drawing(image=image, style=style, low=low, high=high, boxes=boxes, **names)
