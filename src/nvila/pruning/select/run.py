"""A selection from beginning to end: totals, cut-offs, the sorted ids of what stays, lists, summary, mixture.

Memory stays within what is given whatever the number of samples: two or three passes over the score column find the
cut-offs (cutoffs.py), one pass sorts the ids of what stays through files, and one writes the lists. The result depends
on the rows alone, not on how they are spread over parts.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from nvila import config
from nvila.errors import ConfigError, DataError
from nvila.pruning.scores import ScoredSource
from nvila.pruning.select.cutoffs import Cutoff, find_cutoffs
from nvila.pruning.select.lists import ROWS_AT_ONCE, Kept, ListWriter
from nvila.pruning.select.options import SelectOptions, check_names
from nvila.pruning.select.tables import ScoredFolder, database, open_folder, view
from nvila.utils.atomic import atomic_directory
from nvila.utils.paths import absolute

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

SUMMARY = "summary.json"
MIXTURE = "mixture.toml"


@dataclass(frozen=True, kw_only=True)
class SelectedSource:
    """What was kept of one source. Counts are rows; `num_ids` is less where a source has an id twice."""

    name: str
    file: str | None
    """Its list in the folder; None where nothing is kept."""
    ratio: float
    cutoff: float | None
    """The lowest score that was kept; None where no scored sample was."""
    num_samples: int
    num_scored: int
    num_kept: int
    num_kept_unscored: int
    num_ids: int
    num_tokens: int
    num_tokens_kept: int
    by_status: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What was kept, and by which rule."""

    scores: str
    method: str
    column: str
    keep: float
    per_source: bool
    unscored: str
    num_samples: int
    num_kept: int
    sources: tuple[SelectedSource, ...]


@dataclass(frozen=True, kw_only=True)
class _Source:
    """The keys of a mixture's source that are written (`nvila.data.mixture.SourceConfig`, which would bring torch)."""

    name: str
    path: str
    format: str | None
    media_root: str | None
    keep: str


@dataclass(frozen=True, kw_only=True)
class _Mixture:
    """The keys of a mixture that are written."""

    name: str
    source: tuple[_Source, ...]


@dataclass(frozen=True, kw_only=True)
class _Totals:
    """One source before anything is chosen."""

    num_samples: int
    num_scored: int
    num_tokens: int
    by_status: Mapping[str, int]


def select(
    root: Path,
    out: Path,
    options: SelectOptions,
    *,
    overwrite: bool = False,
    on_progress: Callable[[str], None] = lambda text: None,
) -> Selection:
    """Write keep-lists into the new folder `out`: one a source, `all.parquet`, `summary.json` and `mixture.toml`.

    `root` holds scores (`nvila.pruning.scores`). Raises DataError for scores that are missing, unfinished or damaged,
    ConfigError for a source that was not scored, NVILAError where `out` exists and `overwrite` is off.
    """
    folder = open_folder(root, options.criterion)
    names = sorted(source.name for source in folder.manifest.sources)
    check_names(options, names)
    if out.exists() and not overwrite:
        raise ConfigError(f"{out}: is already there; choose another --out, or give --overwrite")
    with database(out.absolute().parent, memory_gb=options.memory_gb, threads=options.threads) as connection:
        view(connection, "scores", folder, options.column)
        on_progress("counting samples")
        totals = _totals(connection, folder, names)
        on_progress("finding the cut-off of each source")
        cutoffs = _cutoffs(connection, names, totals, options)
        with atomic_directory(out, overwrite=overwrite) as work:
            kept = _write_lists(connection, work, names, cutoffs, options, on_progress)
            selection = _selection(folder, names, totals, cutoffs, kept, options)
            (work / SUMMARY).write_text(json.dumps(dataclasses.asdict(selection), indent=2) + "\n", encoding="utf-8")
            mixture = _mixture(selection, folder.manifest.sources, out)
            (work / MIXTURE).write_text(config.dump(mixture), encoding="utf-8")
    return selection


def num_wanted(ratio: float, num_scored: int) -> int:
    """K of equation 1: the share of the scored samples, to the nearest whole one, at least 1 of a share above 0."""
    return min(num_scored, max(1, math.floor(ratio * num_scored + 0.5))) if ratio > 0 else 0


def _totals(connection: DuckDBPyConnection, folder: ScoredFolder, names: Sequence[str]) -> list[_Totals]:
    """The totals of each source. Raises DataError where the parts hold others than the manifest says."""
    rows = connection.execute(
        "SELECT source, CASE WHEN status = 'ok' AND NOT is_scored THEN 'not_finite' ELSE status END AS state, "
        "count(*), count_if(is_scored), sum(num_tokens)::BIGINT FROM scores GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    total, found = folder.manifest.num_samples, sum(row[2] for row in rows)
    if total != found:
        raise DataError(f"{folder.path}: its parts hold {found:,} rows, but the manifest counts {total:,}; score again")
    for strange in {row[0] for row in rows} - set(names):
        raise DataError(f"{folder.path}: has rows of {strange!r}, which the manifest does not list; score again")
    return [
        _Totals(
            num_samples=sum(row[2] for row in rows if row[0] == name),
            num_scored=sum(row[3] for row in rows if row[0] == name),
            num_tokens=sum(row[4] for row in rows if row[0] == name),
            by_status={row[1]: row[2] for row in rows if row[0] == name},
        )
        for name in names
    ]


def _cutoffs(
    connection: DuckDBPyConnection, names: Sequence[str], totals: Sequence[_Totals], options: SelectOptions
) -> dict[int, Cutoff]:
    """The cut-off of each source by number; one for all sources where they are ranked together."""
    if not options.per_source:
        wanted = num_wanted(options.keep, sum(one.num_scored for one in totals))
        found = find_cutoffs(connection, {0: names}, {0: wanted})
        return dict.fromkeys(range(len(names)), found[0]) if found else {}
    wanted_of = {
        number: num_wanted(options.ratio(name), one.num_scored)
        for number, (name, one) in enumerate(zip(names, totals, strict=True))
    }
    return find_cutoffs(connection, {number: [name] for number, name in enumerate(names)}, wanted_of)


def _write_lists(
    connection: DuckDBPyConnection,
    work: Path,
    names: Sequence[str],
    cutoffs: Mapping[int, Cutoff],
    options: SelectOptions,
    on_progress: Callable[[str], None],
) -> dict[int, Kept]:
    _register_plan(connection, names, cutoffs, options)
    is_kept, is_tied = "is_scored AND value >= cutoff", "is_scored AND value = cutoff"
    if not options.per_source and cutoffs:
        is_kept, is_tied = _global_rule(connection, cutoffs[0]), "false"
    with TemporaryDirectory(prefix=".nvila-sorted-", dir=work.parent) as spill:
        path = Path(spill) / "sorted.parquet"
        on_progress("sorting what stays by id")
        target = str(path).replace("'", "''")
        connection.execute(
            f"COPY (SELECT number, id, {is_tied} AS is_tied, is_scored, num_tokens::INTEGER AS num_tokens "
            f"FROM scores JOIN plan USING (source) WHERE ({is_kept}) OR (keeps_unscored AND NOT is_scored) "
            f"ORDER BY number, id) TO '{target}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROWS_AT_ONCE})"
        )
        on_progress("writing the lists")
        room = {number: cutoff.num_tied for number, cutoff in cutoffs.items()}
        with ListWriter(work, names, room) as writer, pq.ParquetFile(path) as rows:
            for batch in rows.iter_batches(ROWS_AT_ONCE):
                writer.add(batch)
    if not writer.kept:
        raise DataError(
            "no sample is left: nothing has a score, and unscored samples are dropped; give --unscored keep"
        )
    return writer.kept


def _register_plan(
    connection: DuckDBPyConnection, names: Sequence[str], cutoffs: Mapping[int, Cutoff], options: SelectOptions
) -> None:
    none = float("inf")
    table = {
        "source": list(names),
        "number": pa.array(range(len(names)), pa.uint16()),
        "cutoff": [cutoffs[number].value if number in cutoffs else none for number in range(len(names))],
        "keeps_unscored": [options.unscored == "keep" and options.ratio(name) > 0 for name in names],
    }
    connection.register("plan", pa.table(table))


def _global_rule(connection: DuckDBPyConnection, cutoff: Cutoff) -> str:
    """The condition that keeps what one ranking of all sources keeps: ties are broken by id, then by source."""
    ((last_id, last_source),) = connection.execute(
        "SELECT id, source FROM scores WHERE is_scored AND value = ? ORDER BY id, source LIMIT 1 OFFSET ?",
        [cutoff.value, cutoff.num_tied - 1],
    ).fetchall()
    connection.register("last_tied", pa.table({"last_id": [last_id], "last_source": [last_source]}))
    return (
        "is_scored AND (value > cutoff OR (value = cutoff AND (id, source) <= "
        "((SELECT last_id FROM last_tied), (SELECT last_source FROM last_tied))))"
    )


def _selection(
    folder: ScoredFolder,
    names: Sequence[str],
    totals: Sequence[_Totals],
    cutoffs: Mapping[int, Cutoff],
    kept: Mapping[int, Kept],
    options: SelectOptions,
) -> Selection:
    sources = []
    for number, (name, total) in enumerate(zip(names, totals, strict=True)):
        one = kept.get(number, Kept())
        sources.append(
            SelectedSource(
                name=name,
                file=one.file,
                ratio=options.ratio(name),
                cutoff=cutoffs[number].value if number in cutoffs and one.num_scored else None,
                num_kept=one.num_rows,
                num_kept_unscored=one.num_rows - one.num_scored,
                num_ids=one.num_ids,
                num_tokens_kept=one.num_tokens,
                **dataclasses.asdict(total),
            )
        )
    return Selection(
        scores=str(folder.path),
        method=options.method,
        column=options.column,
        keep=options.keep,
        per_source=options.per_source,
        unscored=options.unscored,
        num_samples=sum(total.num_samples for total in totals),
        num_kept=sum(source.num_kept for source in sources),
        sources=tuple(sources),
    )


def _mixture(selection: Selection, scored: Sequence[ScoredSource], out: Path) -> _Mixture:
    """A mixture of what was scored with the lists in it; paths are absolute, so that it works from anywhere."""
    origin = {source.name: source for source in scored}
    sources = tuple(
        _Source(
            name=source.name,
            path=absolute(origin[source.name].path),
            format=origin[source.name].format,
            media_root=None if (root := origin[source.name].media_root) is None else absolute(root),
            keep=str(out.absolute() / source.file),
        )
        for source in selection.sources
        if source.file is not None
    )
    return _Mixture(name=f"{selection.method}-{selection.keep:g}", source=sources)
