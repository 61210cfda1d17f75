"""The K-th highest score of each group, exactly, without holding or sorting the scores.

Each round counts the scores of every group in equal steps between the lowest and the highest that are still in
question, and goes on inside the step that holds the K-th. A step's ends are scores that occur, so a round always
narrows, and three rounds of 4096 steps settle what 10^10 different scores can hold; memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from nvila.errors import DataError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

STEPS = 4096
_MOST_ROUNDS = 200


@dataclass(frozen=True, kw_only=True)
class Cutoff:
    """Where a group is cut: scores above `value` are kept, and of those equal to it the `num_tied` with least id."""

    value: float
    num_tied: int


@dataclass(frozen=True, kw_only=True)
class _Search:
    """The `wanted`-th highest score lies between `low` and `high`, both of which occur."""

    low: float
    high: float
    wanted: int


def find_cutoffs(
    connection: DuckDBPyConnection, groups: Mapping[int, Sequence[str]], wanted: Mapping[int, int]
) -> dict[int, Cutoff]:
    """The cut-off of each group (source names by number) that keeps `wanted` (at least 1) of its scored samples.

    Reads the view `scores`. Raises DataError where a group has fewer scores than are wanted.
    """
    _register_members(connection, groups)
    searches = _whole_ranges(connection, wanted)
    found: dict[int, Cutoff] = {}
    for _ in range(_MOST_ROUNDS):
        for number, search in list(searches.items()):
            if search.low == search.high:
                found[number] = Cutoff(value=search.low, num_tied=search.wanted)
                del searches[number]
        if not searches:
            return found
        searches = _narrowed(connection, searches)
    raise AssertionError("a round of the search for cut-offs did not narrow it")


def _register_members(connection: DuckDBPyConnection, groups: Mapping[int, Sequence[str]]) -> None:
    pairs = [(number, name) for number, names in groups.items() for name in names]
    table = pa.table({"number": [number for number, _ in pairs], "source": [name for _, name in pairs]})
    connection.register("members", table)


def _whole_ranges(connection: DuckDBPyConnection, wanted: Mapping[int, int]) -> dict[int, _Search]:
    rows = connection.execute(
        "SELECT number, count(*), min(value), max(value) FROM scores JOIN members USING (source) "
        "WHERE is_scored GROUP BY number"
    ).fetchall()
    for number, count, _, _ in rows:
        if number in wanted and wanted[number] > count:
            raise DataError(f"group {number} has {count} scores, but {wanted[number]} are wanted")
    return {
        number: _Search(low=low, high=high, wanted=wanted[number])
        for number, _, low, high in rows
        if wanted.get(number, 0) > 0
    }


def _narrowed(connection: DuckDBPyConnection, searches: Mapping[int, _Search]) -> dict[int, _Search]:
    """One round: each search inside the step that holds what it wants."""
    scales = {number: 1.0 if search.high - search.low < float("inf") else 0.5 for number, search in searches.items()}
    connection.register(
        "searches",
        pa.table(
            {
                "number": list(searches),
                "low": [search.low for search in searches.values()],
                "high": [search.high for search in searches.values()],
                "scale": list(scales.values()),
                "width": [one.high * scales[key] - one.low * scales[key] for key, one in searches.items()],
            }
        ),
    )
    rows = connection.execute(
        f"SELECT number, floor((value * scale - low * scale) / width * {STEPS})::INTEGER AS step, count(*), "
        "min(value), max(value) FROM scores JOIN members USING (source) JOIN searches USING (number) "
        "WHERE is_scored AND value BETWEEN low AND high GROUP BY ALL ORDER BY number, step DESC"
    ).fetchall()
    found: dict[int, _Search] = {}
    left = {number: search.wanted for number, search in searches.items()}
    for number, _, count, low, high in rows:
        if number in found:
            continue
        if left[number] <= count:
            found[number] = replace(searches[number], low=low, high=high, wanted=left[number])
        else:
            left[number] -= count
    return found
