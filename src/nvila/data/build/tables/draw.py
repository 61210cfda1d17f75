"""Drawing what was chosen with matplotlib: one figure, reused, without a display.

A drawing says what can be read from it: whether values are printed beside the marks, which named colours the series
have, the range and the ticks of the value axis, and where each bar is. Labels are turned or the chart is laid on its
side where they would not fit; a legend stands beside or above the marks, never over them.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from nvila.data.corpus.canvas import NAMED_COLOURS, Colour, Size, chance, luminance, number, pick
from nvila.types import LabelledBox

_COLOURS = ("red", "blue", "green", "orange", "purple", "brown", "pink", "gray", "black")
_MAPS = ("tab10", "Set2", "Dark2", "Paired", "Accent", "viridis", "plasma", "cividis", "coolwarm", "Pastel1")
_FONTS = ("DejaVu Sans", "DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono", "STIXGeneral")
LEAST_CONTRAST = 45
"""Least difference in luminance (0..255) between a mark and the paper."""
LETTER = 0.62
"""Width of a letter in font sizes, on the safe side."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a chart looks. Font sizes are in pixels, colours RGB 0..255."""

    size: Size
    font: str
    font_px: int
    colours: tuple[Colour, ...]
    colour_names: tuple[str, ...] | None
    """The names of `colours` where they are plain named colours."""
    ink: Colour
    paper: Colour
    grid: bool
    framed: bool
    title: str | None
    axis_names: bool
    legend_above: bool


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A chart as a picture, and what can be read from it."""

    image: Image.Image
    style: Style
    printed: bool = False
    """Whether every value is written beside its mark."""
    low: float = 0.0
    high: float = 1.0
    """Range of the value axis."""
    ticks: tuple[tuple[float, str], ...] = ()
    """Values and texts of the value axis' ticks inside its range."""
    boxes: tuple[LabelledBox, ...] = ()
    x_text: str | None = None
    y_text: str | None = None
    sideways: bool = False
    """Whether the categories run down the side."""


def random_style(rng: np.random.Generator, title: str) -> Style:
    """A look; the title is given in two cases of three, when it fits on two lines."""
    width = number(rng, 224, 672)
    size = (width, min(672, max(224, round(width * float(rng.uniform(0.62, 1.05))))))
    font_px = min(number(rng, 9, 14), 8 + width // 110)
    dark = chance(rng, 0.12)
    paper: Colour = (pick(rng, ((20, 22, 30), (35, 35, 35)))) if dark else _light(rng)
    colours, names = _palette(rng, paper)
    fits = len(title) * (font_px + 1) * LETTER < 1.8 * width
    return Style(
        size=size,
        font=pick(rng, _FONTS),
        font_px=font_px,
        colours=colours,
        colour_names=names,
        ink=(230, 230, 230) if dark else (20, 20, 20),
        paper=paper,
        grid=chance(rng, 0.5),
        framed=chance(rng, 0.5),
        title=title if fits and chance(rng, 0.7) else None,
        axis_names=chance(rng, 0.75),
        legend_above=chance(rng, 0.5),
    )


def _light(rng: np.random.Generator) -> Colour:
    if chance(rng, 0.6):
        return (255, 255, 255)
    red, green, blue = (number(rng, 232, 255) for _ in range(3))
    return red, green, blue


def _palette(rng: np.random.Generator, paper: Colour) -> tuple[tuple[Colour, ...], tuple[str, ...] | None]:
    """Colours that stand out from the paper, and their names where they are plain named colours."""
    apart = [name for name in _COLOURS if _stands_out(NAMED_COLOURS[name], paper)]
    names = tuple(apart[int(place)] for place in rng.permutation(len(apart)))
    named = tuple(NAMED_COLOURS[name] for name in names)
    if chance(rng, 0.55):
        return named, names
    import matplotlib

    colour_map = matplotlib.colormaps[pick(rng, _MAPS)]
    steps = np.arange(8) if colour_map.N < 32 else (0.1, 0.9, 0.5, 0.3, 0.7)
    found: list[Colour] = []
    for step in steps:
        red, green, blue = (int(255 * part) for part in colour_map(step)[:3])
        if (red, green, blue) not in found and _stands_out((red, green, blue), paper):
            found.append((red, green, blue))
    return (tuple(found), None) if len(found) >= 3 else (named, names)


def _stands_out(colour: Colour, paper: Colour) -> bool:
    return abs(luminance(colour) - luminance(paper)) > LEAST_CONTRAST


def escape(text: str) -> str:
    """`text` with dollar signs that matplotlib does not take for formulas."""
    return text.replace("$", r"\$")


class NoRoomError(Exception):
    """The labels leave no room for the chart itself."""


class Painter:
    """Draws charts on one figure that is cleared and used again."""

    def __init__(self) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._figure = Figure(dpi=100)
        self._canvas = FigureCanvasAgg(self._figure)

    def start(self, style: Style) -> Any:
        """Empty axes in a cleared figure of the style's size and colours."""
        figure = self._figure
        figure.clear()
        figure.set_size_inches(style.size[0] / 100, style.size[1] / 100)
        figure.set_facecolor(rgb(style.paper))
        axes = figure.add_subplot()
        axes.set_facecolor(rgb(style.paper))
        return axes

    def finish(self, axes: Any, style: Style, x_name: str | None, y_name: str | None) -> Image.Image:
        """Title, names of the axes and layout; the picture, RGB. Raises NoRoomError."""
        ink, points = rgb(style.ink), style.font_px * 0.72
        if style.title:
            wide = max(12, int(style.size[0] * 0.95 / ((style.font_px + 1) * LETTER)))
            lines = textwrap.fill(escape(style.title), wide)
            self._figure.suptitle(lines, fontsize=points + 0.7, color=ink, family=style.font)
        if style.axis_names and x_name and y_name:
            axes.set_xlabel(escape(x_name), fontsize=points, color=ink, family=style.font)
            axes.set_ylabel(escape(y_name), fontsize=points, color=ink, family=style.font)
        axes.tick_params(colors=ink, labelsize=points, labelfontfamily=style.font)
        for side, spine in axes.spines.items():
            spine.set_color(ink)
            spine.set_visible(style.framed or side in ("left", "bottom"))
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Tight layout not applied", category=UserWarning)
            try:
                self._figure.tight_layout(pad=0.5)
            except UserWarning as error:
                raise NoRoomError from error
        self._canvas.draw()
        return Image.fromarray(np.asarray(self._canvas.buffer_rgba())[..., :3].copy())


def rgb(colour: Colour) -> tuple[float, float, float]:
    """A colour as matplotlib takes it, 0..1."""
    return colour[0] / 255, colour[1] / 255, colour[2] / 255


def add_legend(axes: Any, style: Style, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """A legend to the right of the axes, or above them where no title is."""
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
    if (
        style.legend_above
        and not style.title
        and sum(len(label) + 6 for label in labels) * style.font_px < style.size[0]
    ):
        place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncol": len(labels)}
    axes.legend(
        handles,
        [escape(label) for label in labels],
        fontsize=style.font_px * 0.72 - 0.3,
        labelcolor=rgb(style.ink),
        facecolor=rgb(style.paper),
        frameon=style.framed,
        handlelength=1.4,
        **place,
    )


def value_ticks(axes: Any, sideways: bool) -> tuple[tuple[float, str], ...]:
    """The ticks of the value axis inside its range, with the texts drawn beside them. After drawing only."""
    axis = axes.xaxis if sideways else axes.yaxis
    low, high = sorted(axes.get_xlim() if sideways else axes.get_ylim())
    pairs = ((float(tick), label.get_text().replace("\u2212", "-")) for tick, label in _labelled(axis))
    return tuple((tick, text) for tick, text in pairs if low <= tick <= high and text)


def _labelled(axis: Any) -> Any:
    return zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)


def bar_boxes(axes: Any, patches: Sequence[tuple[str, Any]], height: int) -> tuple[LabelledBox, ...]:
    """Where each patch is in the picture, in pixels with y downwards. After drawing only."""
    boxes = []
    for label, patch in patches:
        extent = patch.get_window_extent()
        boxes.append(LabelledBox(label=label, box=(extent.x0, height - extent.y1, extent.x1, height - extent.y0)))
    return tuple(boxes)
