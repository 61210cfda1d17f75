"""What choosing among scores costs: seconds and peak memory of `nvila prune select`; the last line is JSON.

The aims are 3 minutes and 2 GB for 100 million scores of 50 sources on two cores. Scores are made first, with all the
columns of DeltaLoss; numbers at random do not compress, which is the worst case. The ceiling is reading the files once
(from the page cache where they fit), and reading and decoding the four columns that a selection cannot do without. The
contender sorts everything in memory by pandas, at a size that fits; its lists must be ours. Each contender runs in a
process of its own; memory is the peak resident set of that process, Python included.

    python benchmarks/bench_prune_select.py [--samples 100000000] [--sources 50] [--folder DIR] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from own_process import in_own_process

from nvila.pruning.scores import Manifest, ScoredSource, finished_parts, schema, write_manifest, write_part

AIMS = {"seconds": 180.0, "peak_mb": 2000.0}
SEED = 7
ROWS_A_PART = 500_000
KEEP = 0.5
FITS = 2_000_000
"""Samples at which pandas is compared with."""


def hex_ids(numbers: np.ndarray) -> pa.StringArray:
    """(n,) uint64 as texts of 16 hexadecimal digits."""
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    octets = numbers.astype(">u8").view(np.uint8).reshape(-1, 8)
    letters = np.stack([digits[octets >> 4], digits[octets & 15]], axis=-1)
    offsets = np.arange(len(numbers) + 1, dtype=np.int32) * 16
    return pa.StringArray.from_buffers(len(numbers), pa.py_buffer(offsets), pa.py_buffer(letters.tobytes()))


def generate(root: Path, num_samples: int, num_sources: int) -> int:
    """Write scores into root/deltaloss; sources of uneven sizes lie mixed in all parts. Returns the bytes written."""
    rng = np.random.default_rng(SEED)
    names = np.array([f"source-{number:02d}" for number in range(num_sources)])
    shares = np.linspace(0.2, 2.0, num_sources)
    counts = np.zeros(num_sources, np.int64)
    for part, start in enumerate(range(0, num_samples, ROWS_A_PART)):
        size = min(ROWS_A_PART, num_samples - start)
        which = rng.choice(num_sources, size, p=shares / shares.sum())
        counts += np.bincount(which, minlength=num_sources)
        tokens = rng.integers(1, 200, size).astype(np.int32)
        large, small = -rng.gamma(2.0, 3.0, (2, size))
        columns: dict[str, Any] = {
            "id": hex_ids(np.arange(start, start + size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)),
            "source": pa.DictionaryArray.from_arrays(which.astype(np.int32), names).cast(pa.string()),
            "status": pa.repeat("ok", size),
            "num_tokens": tokens,
            "score": large - small,
            "log_p_large": large,
            "log_p_small": small,
            "delta": large - small,
            "delta_mean": (large - small) / tokens,
        }
        write_part(root / "deltaloss", 0, part, pa.table(columns, schema=schema("deltaloss")))
    sources = [
        ScoredSource(name=str(name), path=f"/data/{name}.jsonl", num_samples=int(count))
        for name, count in zip(names, counts, strict=True)
    ]
    write_manifest(root / "deltaloss", Manifest(criterion="deltaloss", sources=tuple(sources), complete=True))
    return sum(path.stat().st_size for path in finished_parts(root / "deltaloss").values())


def read_bytes(root: Path, out: Path) -> None:
    """The ceiling of the disk: every byte once."""
    buffer = bytearray(1 << 24)
    for path in finished_parts(root / "deltaloss").values():
        with path.open("rb") as file:
            while file.readinto(buffer):
                pass


def read_columns(root: Path, out: Path) -> None:
    """The ceiling of the format: the columns that decide, decoded and thrown away."""
    for path in finished_parts(root / "deltaloss").values():
        pq.read_table(path, columns=["id", "source", "status", "delta"])


def ours(root: Path, out: Path) -> None:
    """`nvila prune select`."""
    from nvila.pruning.select import SelectOptions, select

    select(root, out, SelectOptions(keep=KEEP))


def pandas_sort(root: Path, out: Path) -> None:
    """All in memory: sort by source, score and id, take the head of each source, sort by id, write."""
    import pandas

    paths = finished_parts(root / "deltaloss").values()
    table = pandas.concat(pandas.read_parquet(path, columns=["id", "source", "delta"]) for path in paths)
    table = table.sort_values(["source", "delta", "id"], ascending=[True, False, True])
    place = table.groupby("source").cumcount()
    wanted = np.floor(KEEP * table.groupby("source")["id"].transform("size") + 0.5)
    kept = table[place < wanted].sort_values(["source", "id"])
    out.mkdir()
    kept[["id", "source"]].to_parquet(out / "all.parquet", index=False)


CONTENDERS: dict[str, Callable[[Path, Path], None]] = {
    "read_bytes": read_bytes,
    "read_columns": read_columns,
    "ours": ours,
    "pandas_sort": pandas_sort,
}


def measure(name: str, root: Path, out: Path) -> dict[str, Any]:
    """Seconds and peak memory of this process."""
    started = time.perf_counter()
    CONTENDERS[name](root, out)
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 2), "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def run(name: str, root: Path, out: Path) -> dict[str, Any]:
    """A contender in a process of its own."""
    result = in_own_process(__file__, "--contender", name, "--folder", str(root), "--out", str(out))
    print(f"{name:14} {result.get('seconds', '-'):>9} s {result.get('peak_mb', '-'):>8} MB  {result.get('failed', '')}")
    return result


def same_ids(one: Path, other: Path) -> bool:
    """Whether two lists of all sources hold the same ids."""
    first, second = (pq.read_table(folder / "all.parquet", columns=["id"])["id"] for folder in (one, other))
    return bool(first.cast(pa.string()).equals(second.cast(pa.string())))


def compare(work: Path, num_samples: int, num_sources: int) -> dict[str, Any]:
    """All contenders at full size, and pandas beside ours at a size that fits."""
    started = time.perf_counter()
    size = generate(work / "scores", num_samples, num_sources)
    seconds = time.perf_counter() - started
    print(f"{num_samples:,} scores of {num_sources} sources: {size / 1e9:.2f} GB, made in {seconds:.0f} s")
    results = {name: run(name, work / "scores", work / "keep") for name in ("read_bytes", "read_columns", "ours")}
    results["read_bytes"]["gb_per_s"] = round(size / 1e9 / max(1e-9, results["read_bytes"]["seconds"]), 2)
    fits = min(FITS, num_samples)
    print(f"at {fits:,} scores:")
    generate(work / "small", fits, num_sources)
    for name in ("ours", "pandas_sort"):
        results[f"{name}_at_{fits}"] = run(name, work / "small", work / f"small-{name}")
    results["same_lists"] = {"as_pandas": same_ids(work / "small-ours", work / "small-pandas_sort")}
    return {"bytes": size, "results": results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100_000_000)
    parser.add_argument("--sources", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="where to make the scores (default: a temporary folder)")
    parser.add_argument("--quick", action="store_true", help="one million scores")
    parser.add_argument("--contender", choices=CONTENDERS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.contender:
        print(json.dumps(measure(arguments.contender, arguments.folder, arguments.out)))
        return
    num_samples = 1_000_000 if arguments.quick else arguments.samples
    with TemporaryDirectory(dir=arguments.folder) as work:
        found = compare(Path(work), num_samples, arguments.sources)
    told = {
        "benchmark": "prune_select",
        "date": date.today().isoformat(),
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in ("duckdb", "pyarrow", "pandas", "numpy")},
        "samples": num_samples,
        "sources": arguments.sources,
        "keep": KEEP,
        "seed": SEED,
        "aims": AIMS,
    }
    print(json.dumps(told | found))


if __name__ == "__main__":
    main()
