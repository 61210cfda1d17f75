"""A folder of scores as a table that need not fit into memory: DuckDB over its Parquet parts.

DuckDB keeps within the memory it is given and sorts what does not fit through files; `benchmarks/bench_prune_select.py`
measures it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from nvila.errors import ConfigError, DataError, nearest
from nvila.pruning.scores import Manifest, find_criterion, finished_parts, read_manifest

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_OWN_GB = 0.8
"""What Python, Arrow and DuckDB take beside the memory that DuckDB counts."""


@dataclass(frozen=True, kw_only=True)
class ScoredFolder:
    """A criterion's folder, its manifest and its finished parts in their order."""

    path: Path
    manifest: Manifest
    parts: tuple[Path, ...]


def open_folder(root: Path, criterion: str, *, allow_unfinished: bool = False) -> ScoredFolder:
    """The scores of `criterion` below `root`.

    Raises DataError where they are missing, unfinished (unless that is allowed), or without parts.
    """
    folder = find_criterion(root, criterion)
    manifest = read_manifest(folder)
    parts = tuple(finished_parts(folder).values())
    if not (manifest.complete or allow_unfinished):
        raise DataError(
            f"{folder}: scoring is not complete ({len(parts)} parts so far); run the same `nvila prune score` again, "
            "it goes on where it stopped"
        )
    if not parts:
        raise DataError(f"{folder}: holds no finished part; score again, into a new folder where it is complete")
    return ScoredFolder(path=folder, manifest=manifest, parts=parts)


@contextmanager
def database(spill: Path, *, memory_gb: float, threads: int | None = None) -> Iterator[DuckDBPyConnection]:
    """A connection that keeps `memory_gb` for the whole process, spilling into a folder below `spill` that is removed.

    Raises ConfigError where DuckDB is not installed, and DataError for what goes wrong with its files.
    """
    try:
        import duckdb
    except ImportError as error:
        raise ConfigError('selecting needs duckdb; install it with: pip install "nvila[prune]"') from error
    spill.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".nvila-sort-", dir=spill) as work:
        settings: dict[str, Any] = {
            "memory_limit": f"{int((memory_gb - min(_OWN_GB, memory_gb / 2)) * 1000)}MB",
            "temp_directory": work,
            "preserve_insertion_order": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }
        if threads is not None:
            settings["threads"] = str(threads)
        connection = duckdb.connect(config=settings)
        try:
            connection.execute("SET enable_progress_bar = false")
            yield connection
        except duckdb.OutOfMemoryException as error:
            raise DataError(f"{work}: sorting ran out of room ({error}); free disk space or raise --memory") from error
        except (duckdb.IOException, duckdb.InvalidInputException, duckdb.ConversionException) as error:
            raise DataError(f"scores cannot be read: {error}; remove the damaged part and score again") from error
        finally:
            connection.close()


def view(
    connection: DuckDBPyConnection, name: str, folder: ScoredFolder, column: str, *, extra: Sequence[str] = ()
) -> None:
    """Make the view `name`: id, source, status, num_tokens, value (double), is_scored (status ok, value finite).

    `value` is `column`; columns in `extra` keep their names, as doubles. Raises DataError where the parts have no such
    column.
    """
    paths = [_literal(part) for part in folder.parts]
    rows = connection.read_parquet(paths, hive_partitioning=False, union_by_name=True)
    for wanted in (column, *extra):
        if wanted not in rows.columns:
            hint, there = nearest(wanted, rows.columns), ", ".join(rows.columns)
            raise DataError(f"{folder.path}: its parts have no column {wanted!r}{hint}; they have: {there}")
    quoted = '"' + column.replace('"', '""') + '"'
    rows.project(
        "id::VARCHAR AS id, source::VARCHAR AS source, status::VARCHAR AS status, "
        f"coalesce(num_tokens, 0)::BIGINT AS num_tokens, {quoted}::DOUBLE AS value, "
        f"(status = 'ok' AND {quoted} IS NOT NULL AND isfinite({quoted}::DOUBLE)) AS is_scored"
        + "".join(f', "{one}"::DOUBLE AS "{one}"' for one in extra)
    ).create_view(name)


def _literal(path: Path) -> str:
    """`path` as DuckDB reads it, which takes every name for a pattern."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))
