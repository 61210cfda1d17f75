"""What the index of a large mixture costs: seconds to open, memory added, samples a second; the last line is JSON.

The aims are 5 s and 400 MB for 10 million samples. The ceiling is a bare table of them shuffled by numpy, which knows
neither sources nor ranks nor resuming. The peers are torch's RandomSampler and a shuffled Hugging Face dataset, which
shuffle one list of equal samples. Each contender runs in a process of its own; memory is the resident set after
opening (and its peak) less that before, and samples a second count indices only, without reading any sample.

    python benchmarks/bench_mixture.py [--samples 10000000] [--sources 60] [--quick]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from own_process import in_own_process, resident_mb

from nvila.data.mixture import Mixture, MixtureConfig, SourceConfig
from nvila.types import Sample

AIMS = {"open_s": 5.0, "resident_mb": 400.0}
SEED = 7


@dataclass(frozen=True)
class Numbered:
    """A source of `size` samples that has nothing but hashed ids, `first` and the following numbers."""

    name: str
    size: int
    first: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        raise NotImplementedError

    def place(self, index: int) -> str:
        return f"{self.name}:{index}"

    def ids(self) -> np.ndarray:
        return spread(np.arange(self.first, self.first + self.size, dtype=np.uint64))


def spread(numbers: np.ndarray) -> np.ndarray:
    """Numbers as ids hash: without order."""
    return numbers * np.uint64(0x9E3779B97F4A7C15)


def ours(num_samples: int, num_sources: int) -> Iterator[Any]:
    """The mixture of uneven sources, opened and followed."""
    shares = np.diff(np.linspace(0.1, 1.0, num_sources + 1) ** 2)
    sizes = np.maximum(1, (shares / shares.sum() * num_samples).astype(int)).tolist()
    starts = np.cumsum([0, *sizes]).tolist()
    sources = [Numbered(f"s{n}", size, starts[n]) for n, size in enumerate(sizes)]
    config = MixtureConfig(name="bench", source=tuple(SourceConfig(name=s.name, path=s.name) for s in sources))
    return Mixture(config, sources).order(SEED).walk(0, step=1)


def ours_with_keep_list(num_samples: int, _: int) -> Iterator[Any]:
    """One source of which a list of ids keeps half; the time is for hashes that are there, not for making them."""
    from nvila.data.mixture.ids import chosen_indices
    from nvila.data.mixture.order import Order

    source = Numbered("all", num_samples, 0)
    keep = np.sort(spread(np.arange(0, num_samples, 2, dtype=np.uint64)))
    kept = chosen_indices(source, keep=keep, drop=None, hashes=source.ids())
    del keep
    order = Order(counts=[len(kept)], sizes=[len(kept)], seed=SEED)
    return (int(kept[place.sample]) for place in order.walk(0, step=1))


def numpy_table(num_samples: int, _: int) -> Iterator[Any]:
    """The ceiling: a shuffled table of 8 bytes a sample."""
    table = np.random.default_rng(SEED).permutation(num_samples)
    return itertools.chain.from_iterable(part.tolist() for part in np.array_split(table, max(1, num_samples >> 16)))


def torch_random_sampler(num_samples: int, _: int) -> Iterator[Any]:
    """torch's sampler, up to its first index."""
    import torch
    from torch.utils.data import RandomSampler

    indices = iter(RandomSampler(range(num_samples), generator=torch.Generator().manual_seed(SEED)))
    return itertools.chain([next(indices)], indices)


def datasets_shuffle(num_samples: int, _: int) -> Iterator[Any]:
    """A dataset of one column of numbers, shuffled; its rows are read, which is its index and a lookup."""
    from datasets import Dataset

    with TemporaryDirectory() as folder:
        data = Dataset.from_dict({"index": np.arange(num_samples)})
        return iter(data.shuffle(seed=SEED, indices_cache_file_name=f"{folder}/indices.arrow"))


CONTENDERS: dict[str, Callable[[int, int], Iterator[Any]]] = {
    "numpy_table": numpy_table,
    "ours": ours,
    "ours_with_keep_list": ours_with_keep_list,
    "torch_random_sampler": torch_random_sampler,
    "datasets_shuffle": datasets_shuffle,
}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def warm_up(contender: Callable[[int, int], Iterable[Any]]) -> None:
    """Imports and first calls, which are no part of an index."""
    for _ in itertools.islice(contender(1000, 10), 10):
        pass


def measure(name: str, num_samples: int, num_sources: int, num_read: int) -> dict[str, Any]:
    contender = CONTENDERS[name]
    warm_up(contender)
    before, peak_before = resident_mb(), peak_mb()
    started = time.perf_counter()
    indices = contender(num_samples, num_sources)
    first = next(indices)
    opened = time.perf_counter() - started
    resident, peak = resident_mb() - before, peak_mb() - peak_before
    started = time.perf_counter()
    read = sum(1 for _ in itertools.islice(indices, num_read))
    rate = read / (time.perf_counter() - started)
    del first
    return {
        "open_s": round(opened, 3),
        "resident_mb": round(resident, 1),
        "peak_mb": round(max(peak, resident), 1),
        "samples_per_s": round(rate),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--sources", type=int, default=60)
    parser.add_argument("--read", type=int, default=1_000_000, help="indices to read")
    parser.add_argument("--quick", action="store_true", help="200,000 samples: does it run?")
    parser.add_argument("--only", choices=CONTENDERS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.samples, arguments.read = 200_000, 50_000
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.samples, arguments.sources, arguments.read)))
        return
    sizes = {"--samples": arguments.samples, "--sources": arguments.sources, "--read": arguments.read}
    given = [str(part) for pair in sizes.items() for part in pair]
    results = {name: in_own_process(__file__, "--only", name, *given) for name in CONTENDERS}
    print(f"{arguments.samples} samples; aims: {AIMS['open_s']} s to open, {AIMS['resident_mb']} MB resident")
    for name, result in results.items():
        kind = {"numpy_table": "ceiling", "ours": "ours", "ours_with_keep_list": "ours"}.get(name, "peer")
        print(f"{kind:8}{name:22}", "  ".join(f"{key} {value}" for key, value in result.items()))
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "torch", "datasets")}
    report = {
        "samples": arguments.samples,
        "sources": arguments.sources,
        "read": arguments.read,
        "seed": SEED,
        "aims": AIMS,
        "results": results,
        "hardware": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        **versions,
        "date": str(date.today()),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
