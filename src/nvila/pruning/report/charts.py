"""Charts as SVG texts: shapes with class names only, so that the page's style sheet colours them for light and dark.

Nothing from the data goes in here but numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nvila.pruning.report.data import F64

NUM_BINS = 44
_WIDTH, _HEIGHT = 264, 84
_MAP_SIDE, _MAP_CELLS = 360, 45


def common_range(values: F64) -> tuple[float, float]:
    """From the 1st to the 99th percentile of the scores, zero included; one apart at least."""
    known = values[~np.isnan(values)]
    if not len(known):
        return -1.0, 1.0
    low, high = (float(edge) for edge in np.quantile(known, (0.01, 0.99)))
    low, high = min(low, 0.0), max(high, 0.0)
    return (low, high) if high - low > 1e-12 else (low - 0.5, high + 0.5)


def counts_by_kind(
    values: F64, kinds: NDArray[np.int64], num_kinds: int, limits: tuple[float, float], num_bins: int = NUM_BINS
) -> NDArray[np.int64]:
    """(num_kinds, num_bins): how many scores of each kind fall into each bin; those outside go into the outer bins."""
    known = ~np.isnan(values)
    inside = np.clip(values[known], *limits)
    edges = np.linspace(*limits, num_bins + 1)
    return np.stack([np.histogram(inside[kinds[known] == kind], edges)[0] for kind in range(num_kinds)])


def histogram(
    counts: NDArray[np.int64], names: Sequence[str], limits: tuple[float, float], cutoff: float | None
) -> str:
    """Stacked bars of `counts` (kinds, bins), one path a kind; a line at zero, a dashed one at `cutoff`."""
    top = max(1, int(counts.sum(0).max()))
    step = _WIDTH / counts.shape[1]
    base = np.zeros(counts.shape[1])
    paths = []
    for kind, name in zip(counts, names, strict=True):
        bars = []
        for number, count in enumerate(kind.tolist()):
            if count:
                height = count / top * _HEIGHT
                y = _HEIGHT - base[number] - height
                bars.append(f"M{number * step:.1f} {y:.1f}h{step - 0.6:.1f}v{height:.1f}h-{step - 0.6:.1f}z")
                base[number] += height
        if bars:
            paths.append(f'<path class="fill-{name}" d="{"".join(bars)}"/>')
    lines = _line(0.0, limits, "zero")
    if cutoff is not None:
        lines += _line(cutoff, limits, "cutoff")
    return (
        f'<svg class="histogram" viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="distribution of scores">{"".join(paths)}{lines}</svg>'
    )


def _line(value: float, limits: tuple[float, float], name: str) -> str:
    low, high = limits
    x = (min(max(value, low), high) - low) / (high - low) * _WIDTH
    return f'<line class="{name}" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_HEIGHT}"/>'


def stacked_bar(shares: Sequence[float], names: Sequence[str], *, of: float = 1.0) -> str:
    """One horizontal bar: `shares` side by side, the whole width being `of`."""
    parts, x = [], 0.0
    for share, name in zip(shares, names, strict=True):
        width = 100 * share / of
        if width > 0:
            parts.append(f'<rect class="fill-{name}" x="{x:.2f}" y="0" width="{width:.2f}" height="10"/>')
        x += width
    return f'<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">{"".join(parts)}</svg>'


def map_limit(small: F64, large: F64) -> float:
    """The largest loss that the map shows: the 98th percentile of both, 0.05 at least."""
    known = np.concatenate([small, large])
    known = known[~np.isnan(known)]
    return max(0.05, float(np.quantile(known, 0.98))) if len(known) else 1.0


def map_counts(small: F64, large: F64, limit: float, num_cells: int = _MAP_CELLS) -> NDArray[np.int64]:
    """(num_cells, num_cells): samples by the loss of the large model (rows) and of the small one (columns)."""
    known = ~np.isnan(small) & ~np.isnan(large)
    edges = np.linspace(0, limit, num_cells + 1)
    pairs = np.clip(large[known], 0, limit), np.clip(small[known], 0, limit)
    return np.histogram2d(*pairs, bins=(edges, edges))[0].astype(np.int64)


def loss_map(small: F64, large: F64, easy: float) -> str:
    """Where the samples lie: the small model's loss to the right, the large one's upward, darker where there are more.

    Below the diagonal the large model knows better; the square in the corner is what both know.
    """
    limit = map_limit(small, large)
    counts = map_counts(small, large, limit)
    cell = _MAP_SIDE / len(counts)
    depth = np.log1p(counts) / max(1.0, float(np.log1p(counts.max())))
    cells = [
        f'<rect x="{column * cell:.1f}" y="{_MAP_SIDE - (row + 1) * cell:.1f}" width="{cell:.1f}" '
        f'height="{cell:.1f}" fill-opacity="{0.08 + 0.92 * depth[row, column]:.2f}"/>'
        for row, column in np.argwhere(counts)
    ]
    corner = min(easy / limit, 1.0) * _MAP_SIDE
    return (
        f'<svg class="map" viewBox="0 0 {_MAP_SIDE} {_MAP_SIDE}" role="img" aria-label="losses of both models">'
        f'<polygon class="side-helpful" points="0,{_MAP_SIDE} {_MAP_SIDE},{_MAP_SIDE} {_MAP_SIDE},0"/>'
        f'<polygon class="side-distracting" points="0,{_MAP_SIDE} 0,0 {_MAP_SIDE},0"/>'
        f'<g class="cells" shape-rendering="crispEdges">{"".join(cells)}</g>'
        f'<line class="zero" x1="0" y1="{_MAP_SIDE}" x2="{_MAP_SIDE}" y2="0"/>'
        f'<rect class="corner" x="0" y="{_MAP_SIDE - corner:.1f}" width="{corner:.1f}" height="{corner:.1f}"/></svg>'
    )
