"""Which categories and series of a table are drawn as bars, lines and pies.

Values are rounded first, so that what is printed, what is drawn and what is asked are the same numbers. Each chooser
returns None where the table does not have what it needs. Columns of very large, very small or constant numbers and
labels that are too long to draw are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from nvila.data.build.tables.values import (
    Categories,
    Column,
    Table,
    decimals_for,
    is_short,
    is_time,
    levelled,
    split_by,
)
from nvila.data.corpus.canvas import chance, number, pick


def _rounded(values: Sequence[Sequence[float]]) -> tuple[tuple[tuple[float, ...], ...], int]:
    flat = [value for row in values for value in row]
    whole = all(float(value).is_integer() for value in flat)
    decimals = 0 if whole else decimals_for(max(abs(value) for value in flat))
    return tuple(tuple(round(float(value), decimals) + 0.0 for value in row) for row in values), decimals


def _usable(chosen: Categories) -> Categories | None:
    """The same when its values differ enough to be drawn and compared."""
    flat = [value for row in chosen.values for value in row]
    top = max(abs(value) for value in flat)
    return chosen if top > 0 and len(set(flat)) >= min(3, len(flat)) and max(flat) - min(flat) > 0.05 * top else None


def choose_rows(rng: np.random.Generator, table: Table, most_series: int) -> Categories | None:
    """Rows of the table: their names are the categories, one to `most_series` columns the series."""
    named = [column for column in table.texts if sum(is_short(level) for level in column.levels) >= 3]
    if not named or not table.numbers:
        return None
    names: Column = pick(rng, named)
    columns = _alike(rng, table.numbers, number(rng, 1, most_series))
    rows: dict[str, int] = {}
    start = number(rng, 0, len(names.values) - 1)
    wanted = number(rng, 3, 8 if len(columns) == 1 else 6)
    for offset in range(len(names.values)):
        row = (start + offset) % len(names.values)
        label = names.values[row]
        if is_short(label) and label not in rows and all(column.values[row] is not None for column in columns):
            rows[label] = row
        if len(rows) == wanted:
            break
    if len(rows) < 3:
        return None
    values, decimals = _rounded([[column.values[row] for row in rows.values()] for column in columns])
    return _categories(rng, list(rows), columns, values, decimals, names.name)


def choose_times(rng: np.random.Generator, table: Table, most_series: int) -> Categories | None:
    """A run of five to twelve rows in the order of a column of times, which gives the labels."""
    times = [
        column
        for column in table.columns
        if is_time(column) and None not in column.values and len(set(column.values)) == len(column.values)
    ]
    others = [column for column in table.numbers if not is_time(column)]
    if not times or not others:
        return None
    time: Column = pick(rng, times)
    columns = _alike(rng, others, number(rng, 1, most_series))
    order = sorted(range(len(time.values)), key=lambda row: time.values[row]) if time.numeric else None
    rows = order or list(range(len(time.values)))
    count = number(rng, 5, 12)
    start = number(rng, 0, max(0, len(rows) - count))
    rows = rows[start : start + count]
    labels = [f"{time.values[row]:g}" if time.numeric else time.values[row] for row in rows]
    complete = all(column.values[row] is not None for column in columns for row in rows)
    if len(rows) < 5 or not complete or len(set(labels)) < len(labels) or not all(is_short(label) for label in labels):
        return None
    values, decimals = _rounded([[column.values[row] for row in rows] for column in columns])
    return _categories(rng, labels, columns, values, decimals, time.name, ordered=True)


def _categories(
    rng: np.random.Generator,
    labels: list[str],
    columns: list[Column],
    values: tuple[tuple[float, ...], ...],
    decimals: int,
    x_name: str,
    ordered: bool = False,
) -> Categories | None:
    return _usable(
        Categories(
            labels=tuple(labels),
            series=tuple(column.name for column in columns),
            values=values,
            decimals=decimals,
            x_name=x_name,
            y_name=columns[0].name if len(columns) == 1 else pick(rng, ("Value", "Amount")),
            ordered=ordered,
        )
    )


def _alike(rng: np.random.Generator, columns: list[Column], count: int) -> list[Column]:
    """Up to `count` columns of about the same size, the first a random one."""
    first: Column = pick(rng, columns)
    chosen, size = [first], _size(first)
    for place in rng.permutation(len(columns)):
        other = columns[int(place)]
        if len(chosen) < count and other is not first and size / 5 < _size(other) < size * 5:
            chosen.append(other)
    return chosen


def _size(column: Column) -> float:
    return max(abs(value) for value in column.values if value is not None)


def choose_counts(rng: np.random.Generator, table: Table, most_series: int) -> Categories | None:
    """How many rows have each level of a column; or, by a second column as series."""
    by = levelled(table, 8)
    if not by:
        return None
    first: Column = pick(rng, by)
    seconds = [column for column in by if column is not first and len(column.levels) <= min(3, most_series)]
    labels = tuple(str(level) for level in first.levels)
    shared: dict[str, Any] = {"labels": labels, "decimals": 0, "x_name": first.name, "ordered": False}
    if seconds and chance(rng, 0.6):
        second: Column = pick(rng, seconds)
        pairs = Counter(zip(first.values, second.values, strict=True))
        values = tuple(tuple(float(pairs[level, other]) for level in first.levels) for other in second.levels)
        series = tuple(f"{second.name}: {level}" if second.numeric else str(level) for level in second.levels)
        return _usable(Categories(series=series, values=values, y_name="Count", **shared))
    tally = Counter(first.values)
    values = (tuple(float(tally[level]) for level in first.levels),)
    return _usable(Categories(series=("Count",), values=values, y_name="Count", **shared))


def choose_means(rng: np.random.Generator, table: Table, most_series: int) -> Categories | None:
    """The mean of one to `most_series` numeric columns by the levels of another column."""
    by = levelled(table, 8)
    if not by or not table.numbers:
        return None
    levels_of: Column = pick(rng, by)
    numbers = [column for column in table.numbers if column is not levels_of]
    if not numbers:
        return None
    columns = _alike(rng, numbers, number(rng, 1, most_series))
    means: list[list[float]] = []
    for column in columns:
        groups = split_by(column, levels_of)
        if not all(groups.get(level) for level in levels_of.levels):
            return None
        means.append([sum(groups[level]) / len(groups[level]) for level in levels_of.levels])
    largest = max(abs(value) for row in means for value in row)
    decimals = decimals_for(largest)
    labels = tuple(str(level) for level in levels_of.levels)
    return _usable(
        Categories(
            labels=labels,
            series=tuple(column.name for column in columns),
            values=tuple(tuple(round(value, decimals) + 0.0 for value in row) for row in means),
            decimals=decimals,
            x_name=levels_of.name,
            y_name=f"Mean of {columns[0].name}" if len(columns) == 1 else "Mean",
            ordered=False,
        )
    )
