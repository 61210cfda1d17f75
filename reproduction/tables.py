"""What the tables share besides their models: options, results kept row by row, and the text and JSON that come out.

Every (row, seed) leaves one JSON file when it is done and is not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from nvila.eval.runner import circumstances
from nvila.utils.atomic import atomic_write_text

S = TypeVar("S")
SCRATCH = Path("~/.cache/nvila/reproduction").expanduser()
COST_COLUMNS = ("train s", "train GF", "prefill s", "prefill GF")


def table_parser(description: str | None, *, number: int, rows: Collection[str]) -> argparse.ArgumentParser:
    """A parser with the options that all tables have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=list(rows), help="only these rows")
    parser.add_argument("--quick", action="store_true", help="very few samples, one seed, to see that it works")
    parser.add_argument("--out", type=Path, help=f"the result (default reproduction/results/table{number}.json)")
    parser.add_argument("--work", type=Path, default=SCRATCH, help="scratch")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """The options of tables whose rows are trained from one checkpoint."""
    parser.add_argument("--start", help="the checkpoint to start from (default nvila-mini)")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds of each row (default 0 1)")
    parser.add_argument("--workers", type=int, default=1, help="processes that read pictures and frames")


def places(chosen: argparse.Namespace, *, number: int) -> tuple[Path, Path]:
    """The folder of scratch and the file of the result; a quick try has its result in the scratch."""
    work = chosen.work.resolve() / (f"table{number}-quick" if chosen.quick else f"table{number}")
    return work, chosen.out or (work if chosen.quick else Path("reproduction/results")) / f"table{number}.json"


def with_given(settings: S, chosen: argparse.Namespace, names: Collection[str]) -> S:
    """`settings` with those of the options `names` that were given."""
    given = {name: vars(chosen)[name] for name in names if vars(chosen)[name] is not None}
    return replace(settings, **given)  # type: ignore[type-var]


def seeds_of(chosen: argparse.Namespace) -> list[int]:
    """The seeds that were asked for: two, or one in a quick try."""
    return chosen.seeds or ([0] if chosen.quick else [0, 1])


class Results:
    """The finished (row, seed) pairs of one table, a JSON file each in `folder`."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """`settings` say what was asked for; results of other settings are an error, never taken over."""
        self.folder = folder
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.key = hashlib.blake2b(json.dumps(self.settings, sort_keys=True).encode(), digest_size=4).hexdigest()
        """For names of folders that hold what depends on the settings."""

    def load(self, row: str, seed: int) -> dict[str, Any] | None:
        """What is known of a row and seed; None where it is not done. Exits with a line for other settings."""
        path = self._path(row, seed)
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in self.settings if found["settings"].get(key) != self.settings[key]]
        if changed:
            pairs = ", ".join(f"{key} {found['settings'].get(key)} and not {self.settings[key]}" for key in changed)
            sys.exit(f"{path}: was made with {pairs}; remove it, or choose another --out")
        return found

    def save(self, row: str, seed: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """Keeps what was found, with the settings and the circumstances; returns it all."""
        entry = {"row": row, "seed": seed, "settings": self.settings, **circumstances(), **values}
        atomic_write_text(self._path(row, seed), json.dumps(entry, indent=1, ensure_ascii=False) + "\n")
        return entry

    def complete(
        self, rows: Sequence[str], seeds: Sequence[int], make: Callable[[str, int], Mapping[str, Any]]
    ) -> dict[str, list[dict[str, Any]]]:
        """The results of every row and seed, one seed after the other; `make` is asked for those that are missing."""
        runs: dict[str, list[dict[str, Any]]] = {row: [] for row in rows}
        for seed in seeds:
            for row, found in runs.items():
                entry = self.load(row, seed)
                if entry is None:
                    say(f"{row}, seed {seed}")
                    entry = self.save(row, seed, make(row, seed))
                say(f"{row}, seed {seed}: average {entry['scores']['average']:.1f}")
                found.append(entry)
        return runs

    def times(
        self, rows: Sequence[str], seed: int, measure: Callable[[str, int], Mapping[str, float]]
    ) -> dict[str, dict[str, float]]:
        """Seconds of every row with one seed, taken one row after the other where they are missing.

        They are taken when all rows have been trained, in one go, so that they are of the same hour.
        """
        found = {}
        for row in rows:
            entry = self.load(f"times-{row}", seed)
            if entry is None:
                say(f"timing {row}")
                entry = self.save(f"times-{row}", seed, {"seconds": measure(row, seed)})
            found[row] = entry["seconds"]
        return found

    def _path(self, row: str, seed: int) -> Path:
        return self.folder / f"{row}-seed{seed}.json"


def mean_and_spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, half the range, and the values."""
    return {
        "mean": round(statistics.fmean(values), 3),
        "spread": round((max(values) - min(values)) / 2, 3),
        "values": [round(value, 3) for value in values],
    }


def summary(runs: Sequence[Mapping[str, Any]], seconds: Mapping[str, float] | None = None) -> dict[str, Any]:
    """One row of the result: scores and costs over its seeds, and what does not depend on them.

    seconds: costs that were taken for the row as a whole.
    """
    columns = runs[0]["scores"]
    costs = {name: [run["costs"][name] for run in runs] for name in runs[0]["costs"]}
    costs |= {name: [value] for name, value in (seconds or {}).items()}
    return {
        "scores": {name: mean_and_spread([run["scores"][name] for run in runs]) for name in columns},
        "costs": {name: mean_and_spread(values) for name, values in costs.items()},
        "load": runs[0]["load"],
        "seeds": [run["seed"] for run in runs],
        "losses": [run["losses"] for run in runs],
        "dates": sorted({run["date"] for run in runs}),
        "wrong": runs[0]["wrong"],
    }


def cost_cells(costs: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """The cells of `COST_COLUMNS`: means over the seeds."""
    return (
        f"{costs['training_seconds_per_sample']['mean']:.3f}",
        f"{costs['training_gflop_per_sample']['mean']:.1f}",
        f"{costs['prefill_seconds_per_sample']['mean']:.4f}",
        f"{costs['prefill_gflop_per_sample']['mean']:.2f}",
    )


def side_by_side(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned text; columns of the paper stand left of a bar, ours right of it."""
    widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows)]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def shown(value: Mapping[str, Any], digits: int = 1) -> str:
    """A mean with its spread, such as 61.3 ±0.4."""
    return f"{value['mean']:.{digits}f} ±{value['spread']:.{digits}f}"


def finish(out: Path, table: str, result: Mapping[str, Any]) -> None:
    """Writes the whole result, prints the table, and the JSON without single answers as the last line."""
    atomic_write_text(out, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(table)
    print(f"\n{out}")
    rows = {name: {key: row[key] for key in ("scores", "costs", "load")} for name, row in result["rows"].items()}
    print(json.dumps({**{key: result[key] for key in result if key != "rows"}, "rows": rows}, ensure_ascii=False))


def say(text: str) -> None:
    """A line on standard error."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def machine(threads: int) -> dict[str, Any]:
    """Date, hardware and versions, for the whole table."""
    return {**circumstances(), "threads": threads, "system": platform.platform(), "cores": os.cpu_count()}
