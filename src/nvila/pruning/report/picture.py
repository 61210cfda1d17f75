"""The report as one picture for terminals and chats: kinds, map, scores of the largest sources, agreement."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvila.errors import ConfigError
from nvila.pruning.report import charts
from nvila.pruning.report.data import Looked
from nvila.pruning.report.kinds import EASY_LOSS, KINDS
from nvila.pruning.report.numbers import RATIOS, Agreement, Removal

MOST_SOURCES = 12
_MOST_PAIRS = 12
_COLOURS = {"helpful": "#11846f", "easy": "#8fa3b5", "distracting": "#cf4a46", "undecided": "#c9a13b"}
_PLAIN = "#4a6fa5"
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "font.size": 9,
    "figure.facecolor": "white",
}


def picture(
    looked: Looked,
    kinds: NDArray[np.int64] | None,
    removals: Sequence[Sequence[Removal]],
    agreements: Sequence[Agreement],
) -> bytes:
    """A PNG. Raises ConfigError where matplotlib is not installed."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError('the picture needs matplotlib; install it with: pip install "nvila[prune]"') from error
    largest = sorted(range(len(looked.totals)), key=lambda number: -looked.totals[number].num_samples)[:MOST_SOURCES]
    num_rows = -(-len(largest) // 4)
    # A text of the data is never read as mathematics, and letters that the font lacks are nothing to be told of.
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = Figure(figsize=(13, 4.6 + 1.7 * num_rows), layout="constrained")
        FigureCanvasAgg(figure)
        parts: Any = figure.subfigures(2, 1, height_ratios=[4.6, 1.7 * num_rows])
        top, bottom = parts
        figure.suptitle(f"{looked.num_samples:,} samples ranked by {_plain(looked.method)}", x=0.01, ha="left")
        panels = top.subplots(1, 3, width_ratios=[1.2, 1, 1.2])
        _draw_kinds(panels[0], looked, kinds, largest)
        _draw_map(panels[1], looked)
        _draw_agreement(panels[2], agreements)
        grid = bottom.subplots(num_rows, 4, squeeze=False).ravel()
        for axes in grid[len(largest) :]:
            axes.set_visible(False)
        for axes, number in zip(grid, largest, strict=False):
            _draw_scores(axes, looked, kinds, number, removals[number])
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def _draw_kinds(axes: Any, looked: Looked, kinds: NDArray[np.int64] | None, sources: Sequence[int]) -> None:
    axes.set_title("Kinds by source")
    names = [_plain(looked.sources[number]) for number in sources]
    left = np.zeros(len(sources))
    for place, kind in enumerate(KINDS if kinds is not None else ()):
        assert kinds is not None
        shares = [_share(kinds[looked.source == number], place) for number in sources]
        axes.barh(range(len(sources)), shares, left=left, color=_COLOURS[kind.name], label=kind.title, height=0.7)
        left += shares
    axes.set_yticks(range(len(sources)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    if kinds is not None:
        axes.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.06), frameon=False)


def _share(kinds: NDArray[np.int64], kind: int) -> float:
    known = kinds[kinds >= 0]
    return float((known == kind).mean()) if len(known) else 0.0


def _draw_map(axes: Any, looked: Looked) -> None:
    losses = looked.losses
    if losses is None:
        axes.set_visible(False)
        return
    limit = charts.map_limit(losses.small, losses.large)
    counts = charts.map_counts(losses.small, losses.large, limit)
    axes.imshow(
        np.where(counts > 0, np.log1p(counts), np.nan), origin="lower", extent=(0, limit, 0, limit), cmap="bone_r"
    )
    axes.plot([0, limit], [0, limit], color="#636b74", linewidth=0.8)
    easy = min(EASY_LOSS[losses.unit], limit)
    axes.plot([0, easy, easy], [easy, easy, 0], color=_COLOURS["easy"])
    axes.text(0.97, 0.05, "helpful", transform=axes.transAxes, ha="right", color=_COLOURS["helpful"])
    axes.text(0.03, 0.92, "distracting", transform=axes.transAxes, color=_COLOURS["distracting"])
    axes.set(title=f"Loss a {losses.unit}", xlabel="small model", ylabel="large model")


def _draw_agreement(axes: Any, agreements: Sequence[Agreement]) -> None:
    shown = list(agreements)[:_MOST_PAIRS]
    if not shown:
        axes.set_visible(False)
        return
    overlaps = np.array([one.overlaps for one in shown])
    above_chance = np.clip((overlaps - RATIOS) / (1 - np.array(RATIOS)), 0, 1)
    axes.imshow(above_chance, vmin=0, vmax=1.2, cmap="Blues", aspect="auto")
    for row, column in np.ndindex(*overlaps.shape):
        dark = above_chance[row, column] > 0.6
        axes.text(column, row, f"{overlaps[row, column]:.0%}", ha="center", va="center", color="w" if dark else "k")
    axes.set_xticks(range(len(RATIOS)), [f"{ratio:.0%}" for ratio in RATIOS])
    axes.set_yticks(range(len(shown)), [f"{_plain(one.first)}\n{_plain(one.second)}" for one in shown], fontsize=7)
    axes.set(title="Overlap, shaded above chance", xlabel="kept")


def _draw_scores(
    axes: Any, looked: Looked, kinds: NDArray[np.int64] | None, number: int, removals: Sequence[Removal]
) -> None:
    scores = looked.scores[looked.method]
    limits = charts.common_range(scores)
    own = looked.source == number
    groups = kinds if kinds is not None else np.zeros(len(scores), np.int64)
    colours = [_COLOURS[kind.name] for kind in KINDS] if kinds is not None else [_PLAIN]
    counts = charts.counts_by_kind(scores[own], groups[own], len(colours), limits)
    edges = np.linspace(*limits, counts.shape[1] + 1)
    base = np.zeros(counts.shape[1])
    for kind, colour in zip(counts, colours, strict=True):
        axes.bar(edges[:-1], kind, width=np.diff(edges), align="edge", bottom=base, color=colour)
        base += kind
    axes.axvline(0, color="#636b74", linewidth=0.8)
    half = next((one.cutoff for one in removals if one.ratio == 0.5), None)
    if half is not None:
        axes.axvline(min(max(half, limits[0]), limits[1]), color="k", linestyle="--", linewidth=1)
    axes.set_yticks([])
    axes.set_title(f"{_plain(looked.sources[number])} ({looked.totals[number].num_samples:,})", fontsize=8)


def _plain(name: str) -> str:
    """A name of the data's as it may be drawn: printable, short."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)[:28]
