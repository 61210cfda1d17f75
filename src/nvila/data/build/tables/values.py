"""Tables and columns in memory, and the parts of them that are drawn. Values are written the same way everywhere."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

MAX_LABEL = 16
_TIME = re.compile(
    r"\b(year|yr|time|month|week|day|date|age|hour|decade|season|quarter|period|round|trial|dose)\b", re.I
)


@dataclass(frozen=True)
class Column:
    """A column of a table: numbers (None where missing) or texts."""

    name: str
    values: tuple[Any, ...]
    numeric: bool

    @cached_property
    def levels(self) -> list[Any]:
        """The distinct values, sorted."""
        return sorted({value for value in self.values if value is not None})


@dataclass(frozen=True)
class Table:
    """A cleaned table."""

    title: str
    source: str
    columns: tuple[Column, ...]

    @cached_property
    def numbers(self) -> list[Column]:
        """The numeric columns that can be drawn."""
        return [column for column in self.columns if column.numeric and _drawable(column)]

    @cached_property
    def texts(self) -> list[Column]:
        """The columns of texts."""
        return [column for column in self.columns if not column.numeric]


@dataclass(frozen=True, kw_only=True)
class Categories:
    """Values by category and series: bars, lines and pies. `values[s][c]` belongs to series s and category c."""

    labels: tuple[str, ...]
    series: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    decimals: int
    x_name: str
    y_name: str
    ordered: bool
    """Whether the categories are in an order of their own (time), so that a line and its trend make sense."""


@dataclass(frozen=True, kw_only=True)
class Points:
    """Points of one to three groups: `groups[name]` is a list of (x, y)."""

    groups: dict[str, list[tuple[float, float]]]
    x_name: str
    y_name: str
    group_name: str | None


@dataclass(frozen=True, kw_only=True)
class Bins:
    """Counts of values between edges; the last bin includes its upper edge."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    decimals: int
    x_name: str


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Samples of a number by group, for box plots."""

    labels: tuple[str, ...]
    samples: tuple[tuple[float, ...], ...]
    x_name: str
    y_name: str


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table to be drawn as a table: a header and cells as texts; `numeric` says which columns hold numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]


def table_of(record: dict[str, Any]) -> Table:
    """A table from its stored form."""
    columns = (Column(each["name"], tuple(each["values"]), each["kind"] == "number") for each in record["columns"])
    return Table(record["title"], record["source"], tuple(columns))


def _drawable(column: Column) -> bool:
    given = [abs(value) for value in column.values if value is not None]
    if all(isinstance(value, int) and 1500 < value < 2100 for value in given):
        return False  # years
    return max(given) < 1e7 and max(given) >= 0.01 and len(set(given)) >= 3


def is_time(column: Column) -> bool:
    return _TIME.search(column.name) is not None


def decimals_for(largest: float) -> int:
    """How many decimals values up to `largest` are drawn with."""
    return 0 if largest >= 200 else 1 if largest >= 10 else 2 if largest >= 1 else 3


def as_written(value: float, decimals: int) -> str:
    """A value as it is printed in pictures and answers."""
    text = f"{value:.{decimals}f}"
    return text[1:] if float(text) == 0 and text.startswith("-") else text


def is_short(label: Any) -> bool:
    return isinstance(label, str) and 1 <= len(label) <= MAX_LABEL


def levelled(table: Table, most: int) -> list[Column]:
    """Text columns, and columns of few whole numbers, with two to `most` short and repeated levels."""
    found = []
    for column in table.columns:
        levels = column.levels
        texts = all(is_short(level) for level in levels)
        few = column.numeric and all(isinstance(level, int) and 0 <= level < 3000 for level in levels)
        if 2 <= len(levels) <= most and len(column.values) >= 3 * len(levels) and (texts or few):
            found.append(column)
    return found


def split_by(column: Column, levels_of: Column) -> dict[Any, list[float]]:
    """The numbers of `column` by the value that `levels_of` has in the same row."""
    groups: dict[Any, list[float]] = {}
    for value, level in zip(column.values, levels_of.values, strict=True):
        if value is not None and level is not None:
            groups.setdefault(level, []).append(value)
    return groups
