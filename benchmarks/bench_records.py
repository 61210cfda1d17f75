"""What a large JSON-lines file costs: seconds to open at first and again, memory added, random samples a second.

The aims, 5 s and 400 MB for 10 million samples, are for opening what was opened before; the first opening reads every
byte once, and its ceiling is a bare reading of the file. The peers are a list of byte offsets made by a plain loop over
the lines (kept by nobody, so paid each time) and Hugging Face's JSON loader, which copies the data into Arrow. Each
contender runs in a process of its own with a cache of its own. The last line is JSON.

    python benchmarks/bench_records.py [--samples 10000000] [--quick]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from own_process import in_own_process, resident_mb

AIMS = {"open_s": 5.0, "resident_mb": 400.0}
SEED = 7


def write_records(path: Path, count: int) -> None:
    """LLaVA-style lines of some 150 bytes."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            turns = (
                f'{{"from": "human", "value": "What is {number} plus {number % 97}?"}}, '
                f'{{"from": "gpt", "value": "{number + number % 97}"}}'
            )
            file.write(f'{{"id": "{number:08d}", "conversations": [{turns}]}}\n')


def read_bytes(path: Path, _: Path) -> Sequence[Any]:
    """The ceiling: the bytes pass by."""
    with path.open("rb", buffering=0) as file:
        block = bytearray(1 << 22)
        while file.readinto(block):
            pass
    return []


def ours(path: Path, cache: Path) -> Sequence[Any]:
    os.environ["NVILA_INDEX"] = str(cache)
    from nvila.data.formats import open_source

    return open_source(str(path))  # type: ignore[return-value]


class Offsets:
    """Records by a list of where lines start."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("rb")
        self.starts = [0]
        for line in self.file:
            self.starts.append(self.starts[-1] + len(line))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> Any:
        self.file.seek(self.starts[index])
        return json.loads(self.file.readline())


def offsets(path: Path, _: Path) -> Any:
    return Offsets(path)


def huggingface(path: Path, cache: Path) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset("json", data_files=str(path), cache_dir=str(cache), split="train")


CONTENDERS: dict[str, Callable[[Path, Path], Any]] = {
    "bytes": read_bytes,
    "ours": ours,
    "offsets": offsets,
    "datasets": huggingface,
}
KINDS = {"bytes": "ceiling", "ours": "ours"}


def measure(contender: Callable[[Path, Path], Any], path: Path, cache: Path, small: Path) -> dict[str, float]:
    """One opening, after another of a small file, which pays for imports; then random records."""
    contender(small, cache)
    before, started = resident_mb(), time.perf_counter()
    records = contender(path, cache)
    opened, resident = time.perf_counter() - started, resident_mb() - before
    result = {"open_s": round(opened, 3), "resident_mb": round(resident, 1)}
    if len(records):
        picks = random.Random(SEED).choices(range(len(records)), k=20_000)
        started = time.perf_counter()
        for index in picks:
            records[index]
        result["random_per_s"] = round(len(picks) / (time.perf_counter() - started))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--quick", action="store_true", help="100,000 samples: does it run?")
    parser.add_argument("--only", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        folder = arguments.folder
        files = folder / "records.jsonl", folder / f"cache-{arguments.only}", folder / "small.jsonl"
        print(json.dumps(measure(CONTENDERS[arguments.only], *files)))
        return
    num_samples = 100_000 if arguments.quick else arguments.samples
    with TemporaryDirectory(prefix="nvila_bench_records_") as name:
        folder = Path(name)
        write_records(folder / "records.jsonl", num_samples)
        write_records(folder / "small.jsonl", 100)
        num_bytes = (folder / "records.jsonl").stat().st_size
        results = {
            f"{contender}, {when}": in_own_process(__file__, "--only", contender, "--folder", str(folder))
            for contender in CONTENDERS
            for when in ("first", "again")
        }
    print(f"{num_samples} records, {num_bytes / 1e6:.0f} MB; aims of opening again: {AIMS}")
    for key, result in results.items():
        kind = KINDS.get(key.split(",")[0], "peer")
        print(f"{kind:8}{key:18}", "  ".join(f"{name} {value}" for name, value in result.items()))
    report = {
        "samples": num_samples,
        "bytes": num_bytes,
        "seed": SEED,
        "aims": AIMS,
        "results": results,
        "hardware": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        **{name: importlib.metadata.version(name) for name in ("numpy", "datasets")},
        "date": str(date.today()),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
