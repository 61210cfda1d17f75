"""What a report reads: the totals of every source, and a number of samples with their scores by every criterion.

Large sets are looked at through some of their samples, chosen by a hash of their ids so that all criteria are looked at
through the same ones; the page says how many. Totals are always of all samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nvila.errors import ConfigError, nearest
from nvila.pruning.scores import Manifest, find_scores
from nvila.pruning.select.options import VARIANTS
from nvila.pruning.select.tables import ScoredFolder, database, open_folder, view

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

F64 = NDArray[np.float64]

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "deltaloss": ("delta", "delta_mean", "log_p_large", "log_p_small"),
    "image_gain": ("gain", "gain_mean"),
}
"""What is read of a criterion; of any other its score."""


@dataclass(frozen=True, kw_only=True)
class SourceTotals:
    """A source in full, by the criterion that the report is about."""

    name: str
    num_samples: int
    by_status: Mapping[str, int]

    @property
    def num_scored(self) -> int:
        """Samples with a score."""
        return self.by_status.get("ok", 0)


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What DeltaLoss knows of each sample, (n,) each: natural logarithms, nan where there is no score.

    `large` and `small` are losses a unit of the answer; `unit` is "token" or "byte".
    """

    delta: F64
    large: F64
    small: F64
    unit: str


@dataclass(frozen=True, kw_only=True)
class Looked:
    """The samples that are looked at, n of them, sorted by source and id."""

    manifest: Manifest
    """Of the criterion that the report is about."""
    method: str
    sources: tuple[str, ...]
    source: NDArray[np.int64]
    """(n,): which of `sources`."""
    ids: tuple[str, ...]
    num_tokens: F64
    scores: Mapping[str, F64]
    """(n,) by method, nan where a sample has none."""
    losses: Losses | None
    totals: tuple[SourceTotals, ...]

    @property
    def num_samples(self) -> int:
        """All samples, looked at or not."""
        return sum(total.num_samples for total in self.totals)


def look(root: Path, *, method: str | None, most_samples: int, memory_gb: float, spill: Path) -> Looked:
    """Read the scores below `root`. `method` None is deltaloss where there is one, else the first by name.

    Raises DataError where there are no scores, ConfigError where there are none by `method`.
    """
    folders = {name: open_folder(root, name, allow_unfinished=True) for name in find_scores(root)}
    methods = [name for criterion in folders for name in _methods(criterion)]
    chosen = method or ("deltaloss" if "deltaloss" in methods else methods[0])
    if chosen not in methods:
        raise ConfigError(f"{root}: no scores by {chosen!r}{nearest(chosen, methods)}; there are: {', '.join(methods)}")
    first = VARIANTS[chosen][0] if chosen in VARIANTS else chosen
    ordered = {first: folders[first], **folders}
    with database(spill, memory_gb=memory_gb) as connection:
        for number, (criterion, folder) in enumerate(ordered.items()):
            columns = _COLUMNS.get(criterion, ("score",))
            view(connection, f"scores_{number}", folder, columns[0], extra=columns[1:])
        totals = _totals(connection)
        rows = _rows(connection, list(ordered), most_samples, sum(total.num_samples for total in totals))
    names = tuple(total.name for total in totals)
    place = {name: number for number, name in enumerate(names)}
    return Looked(
        manifest=folders[first].manifest,
        method=chosen,
        sources=names,
        source=np.array([place[name] for name in rows["source"]], np.int64),
        ids=tuple(rows["id"]),
        num_tokens=rows["num_tokens"],
        scores=_scores(rows, list(ordered), chosen),
        losses=_losses(rows, ordered),
        totals=totals,
    )


def _methods(criterion: str) -> list[str]:
    own = [name for name, (folder, _) in VARIANTS.items() if folder == criterion]
    return own or [criterion]


def _totals(connection: DuckDBPyConnection) -> tuple[SourceTotals, ...]:
    rows = connection.execute(
        "SELECT source, CASE WHEN status = 'ok' AND NOT is_scored THEN 'not_finite' ELSE status END, count(*) "
        "FROM scores_0 GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    found: dict[str, dict[str, int]] = {}
    for source, status, count in rows:
        found.setdefault(source, {})[status] = count
    return tuple(
        SourceTotals(name=name, num_samples=sum(counts.values()), by_status=counts) for name, counts in found.items()
    )


def _rows(
    connection: DuckDBPyConnection, criteria: Sequence[str], most_samples: int, num_samples: int
) -> dict[str, Any]:
    """Columns by name: source, id, num_tokens, and `<number of the criterion>_<column>`, nan where there is none."""
    every = max(1, -(-num_samples // most_samples))
    tables, columns = [], ["source", "id", "coalesce(t0.num_tokens, 0)::DOUBLE AS num_tokens"]
    for number, criterion in enumerate(criteria):
        first, *rest = _COLUMNS.get(criterion, ("score",))
        read = [f'max(CASE WHEN is_scored THEN value END) AS "{number}_{first}"']
        read += [f'max(CASE WHEN is_scored THEN "{name}" END) AS "{number}_{name}"' for name in rest]
        columns += [f'coalesce("{number}_{name}", \'nan\'::DOUBLE) AS "{number}_{name}"' for name in (first, *rest)]
        tables.append(
            f"(SELECT source, id, max(num_tokens) AS num_tokens, {', '.join(read)} FROM scores_{number} "
            f"WHERE hash(source, id) % {every} = 0 GROUP BY source, id) t{number}"
        )
    joined = tables[0] + "".join(f" LEFT JOIN {table} USING (source, id)" for table in tables[1:])
    table = connection.sql(f"SELECT {', '.join(columns)} FROM {joined} ORDER BY source, id").to_arrow_table()
    return {
        name: table[name].to_pylist() if name in ("source", "id") else table[name].to_numpy()
        for name in table.column_names
    }


def _scores(rows: Mapping[str, Any], criteria: Sequence[str], chosen: str) -> dict[str, F64]:
    """Scores by method, `chosen` first."""
    found: dict[str, F64] = {}
    for number, criterion in enumerate(criteria):
        for method in _methods(criterion):
            column = VARIANTS[method][1] if method in VARIANTS else "score"
            found[method] = rows[f"{number}_{column}"]
    return {chosen: found.pop(chosen), **found}


def _losses(rows: Mapping[str, Any], folders: Mapping[str, ScoredFolder]) -> Losses | None:
    if "deltaloss" not in folders:
        return None
    number = list(folders).index("deltaloss")
    delta, mean, large, small = (rows[f"{number}_{name}"] for name in _COLUMNS["deltaloss"])
    with np.errstate(divide="ignore", invalid="ignore"):
        units = np.where(mean != 0, delta / mean, np.maximum(rows["num_tokens"], 1.0))
    unit = str(folders["deltaloss"].manifest.options.get("mean_per", "token"))
    return Losses(delta=delta, large=-large / units, small=-small / units, unit=unit)
