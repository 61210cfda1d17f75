"""How long a sample takes to make: `python -m nvila.data.corpus.speed` prints milliseconds a sample for each generator.

Caches are warmed by as many samples as are then timed; one process, one thread.
"""

from __future__ import annotations

import argparse
import sys
import time

from nvila.data.corpus import GENERATORS, Assets, generate
from nvila.data.corpus.canvas import Size


def milliseconds_per_sample(name: str, assets: Assets, size: Size, count: int) -> float:
    """Mean wall-clock milliseconds of `count` samples after as many others were made."""
    for index in range(count):
        generate(name, assets, split="train", seed=0, index=index, size=size)
    start = time.perf_counter()
    for index in range(count, 2 * count):
        generate(name, assets, split="train", seed=0, index=index, size=size)
    return 1000 * (time.perf_counter() - start) / count


def main(arguments: list[str] | None = None) -> None:
    """Command line of the measurement."""
    parser = argparse.ArgumentParser(description="Time the generators.")
    parser.add_argument("--names", default=",".join(GENERATORS))
    parser.add_argument("--assets", default=None)
    parser.add_argument("--size", default="112x112")
    parser.add_argument("--count", type=int, default=2000)
    options = parser.parse_args(arguments)
    width, height = (int(side) for side in options.size.split("x"))
    assets = Assets.load(options.assets)
    for name in options.names.split(","):
        size: Size = (112, 28) if name == "strip" else (width, height)
        took = milliseconds_per_sample(name, assets, size, options.count)
        sys.stdout.write(f"{name:12s} {size[0]:4d} x {size[1]:<4d} {took:6.2f} ms\n")


if __name__ == "__main__":
    main()
