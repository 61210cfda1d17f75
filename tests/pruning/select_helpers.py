"""Folders of scores made by hand, for the tests of selecting and looking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nvila.pruning.scores import (
    Manifest,
    ScoredSource,
    find_scores,
    schema,
    table_of,
    write_manifest,
    write_part,
)

Row = Mapping[str, Any]


def row(id: str, source: str = "a", score: float | None = 0.0, *, status: str = "ok", num_tokens: int = 1) -> Row:
    """One row of any criterion; `log_p_small` is 0, so that delta is the score."""
    return {
        "id": id,
        "source": source,
        "status": status,
        "num_tokens": num_tokens,
        "score": score,
        "delta": score,
        "delta_mean": None if score is None else score / max(1, num_tokens),
        "log_p_large": None if score is None else score - 1.0,
        "log_p_small": None if score is None else -1.0,
    }


def write_scores(
    root: Path,
    rows: Sequence[Row],
    *,
    criterion: str = "deltaloss",
    num_parts: int = 2,
    sources: Sequence[ScoredSource] | None = None,
    complete: bool = True,
    fields: Sequence[pa.Field] | None = None,
) -> Path:
    """Write `rows` over `num_parts` parts of root/criterion; returns `root`."""
    folder = root / criterion
    names = sorted({str(one["source"]) for one in rows})
    if sources is None:
        counts = {name: sum(one["source"] == name for one in rows) for name in names}
        sources = [ScoredSource(name=name, path=f"{name}.jsonl", num_samples=counts[name]) for name in names]
    write_manifest(folder, Manifest(criterion=criterion, sources=tuple(sources), complete=complete))
    own = fields if fields is not None else "deltaloss" if criterion == "deltaloss" else "random"
    size = -(-len(rows) // num_parts)
    for part in range(num_parts):
        write_part(folder, 0, part, table_of(rows[part * size : (part + 1) * size], schema(own)))
    assert find_scores(root)
    return root


def ids_of(path: Path) -> list[str]:
    """The ids of a keep-list in their order."""
    return list(pq.read_table(path).column("id").to_pylist())
