"""Which rows of a table are drawn as points, histograms, box plots or a table; None where it has nothing that fits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nvila.data.build.tables.values import (
    MAX_LABEL,
    Bins,
    Column,
    Grid,
    Groups,
    Points,
    Table,
    is_time,
    levelled,
    split_by,
)
from nvila.data.corpus.canvas import chance, number, pick


def choose_points(rng: np.random.Generator, table: Table) -> Points | None:
    """Five to eighty rows as points of two numeric columns, in groups by a column of two or three levels."""
    spread = [column for column in table.numbers if len(set(column.values)) >= 5]
    if len(spread) < 2:
        return None
    first, second = (spread[int(place)] for place in rng.permutation(len(spread))[:2])
    by = [column for column in levelled(table, 3) if column is not first and column is not second]
    group: Column | None = pick(rng, by) if by and chance(rng, 0.6) else None
    most = number(rng, 5, 12) if chance(rng, 0.35) else number(rng, 13, 80)
    groups: dict[str, list[tuple[float, float]]] = {}
    for row in rng.permutation(len(first.values))[: 2 * most]:
        x, y = first.values[row], second.values[row]
        level = group.values[row] if group else ""
        if None not in (x, y, level) and sum(len(points) for points in groups.values()) < most:
            groups.setdefault(str(level), []).append((float(x), float(y)))
    if sum(len(points) for points in groups.values()) < 5 or (group and len(groups) < 2):
        return None
    ordered = dict(sorted(groups.items()))
    return Points(groups=ordered, x_name=first.name, y_name=second.name, group_name=group.name if group else None)


def choose_bins(rng: np.random.Generator, table: Table) -> Bins | None:
    """A histogram of a numeric column with four to ten bins whose edges are round numbers."""
    wide = [column for column in table.numbers if len(set(column.values)) >= 12]
    if not wide:
        return None
    column: Column = pick(rng, wide)
    values = [value for value in column.values if value is not None]
    low, high = min(values), max(values)
    step = _round_step((high - low) / number(rng, 4, 8))
    start = math.floor(low / step)
    stop = max(start + 1, math.ceil(high / step))
    if not 4 <= stop - start <= 10:
        return None
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) + (step * 10 ** -math.floor(math.log10(step) + 1e-9) == 2.5)
    edges = [round(place * step, decimals) for place in range(start, stop + 1)]
    counts, _ = np.histogram(values, bins=edges)
    return Bins(edges=tuple(edges), counts=tuple(int(each) for each in counts), decimals=decimals, x_name=column.name)


def _round_step(rough: float) -> float:
    """1, 2, 2.5 or 5 times a power of ten, next above `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)


def choose_groups(rng: np.random.Generator, table: Table) -> Groups | None:
    """Numbers by the two to six levels of another column, at least five of each."""
    by = levelled(table, 6)
    spread = [column for column in table.numbers if len(set(column.values)) >= 8]
    if not by or not spread:
        return None
    levels_of: Column = pick(rng, by)
    columns = [column for column in spread if column is not levels_of]
    if not columns:
        return None
    column: Column = pick(rng, columns)
    groups = {level: values for level, values in sorted(split_by(column, levels_of).items()) if len(values) >= 5}
    if len(groups) < 2:
        return None
    return Groups(
        labels=tuple(str(level) for level in groups),
        samples=tuple(tuple(values) for values in groups.values()),
        x_name=levels_of.name,
        y_name=column.name,
    )


def choose_grid(rng: np.random.Generator, table: Table) -> Grid | None:
    """Three to nine rows of two to six columns, the first a column of distinct short texts or times."""
    keys = [column for column in table.columns if not column.numeric or is_time(column)]
    if not keys or not table.numbers:
        return None
    key: Column = pick(rng, keys)
    others = [column for column in table.columns if column is not key and (column.numeric or _short_texts(column))]
    if not others:
        return None
    order = [int(place) for place in rng.permutation(len(others))[: number(rng, 1, 5)]]
    columns = [key, *(others[place] for place in sorted(order))]
    wanted, start = number(rng, 3, 9), number(rng, 0, len(key.values) - 1)
    rows: dict[str, tuple[str, ...]] = {}
    for offset in range(len(key.values)):
        row = (start + offset) % len(key.values)
        cells = tuple(_cell(column.values[row]) for column in columns)
        if len(rows) < wanted and all(cells) and len(cells[0]) <= 22 and cells[0] not in rows:
            rows[cells[0]] = cells
    if len(rows) < 3 or not any(column.numeric for column in columns[1:]):
        return None
    if any(cell in rows for cells in rows.values() for cell in cells[1:]):
        return None  # a row's name must not stand in another column too
    numeric = tuple(column.numeric for column in columns)
    return Grid(header=tuple(column.name for column in columns), rows=tuple(rows.values()), numeric=numeric)


def _short_texts(column: Column) -> bool:
    return all(value is None or len(value) <= MAX_LABEL for value in column.values)


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return "" if "e" in text and isinstance(value, float) else text
