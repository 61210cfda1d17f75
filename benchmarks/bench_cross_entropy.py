"""The loss of a language head, both passes: plain cross entropy on all logits against ours and other chunked ones.

The others are torch's (since 2.13) and, on a GPU, Liger's, all with a loss per token. Per vocabulary: milliseconds, and
the memory that both passes add to the inputs (their gradients are in it). The ceiling is three matrix products in
tiles, without softmax; a chunked loss per token computes four. Each measurement runs in a process of its own; the last
line is JSON.

    python benchmarks/bench_cross_entropy.py [--quick] [--device cuda] [--dtype float32] [--vocabularies 32000 151000]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date

import torch
from torch.nn import functional as F

from nvila.eval.runner import processor_name
from nvila.ops.losses import chunked_token_losses, liger_installed, liger_token_losses

SEED, TILE = 0, 2048
Step = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]


def products(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> None:
    """The logits and both gradients as bare products, a tile of the vocabulary at a time."""
    with torch.no_grad():
        for tile in weight.split(TILE):
            logits = hidden @ tile.T
            _ = logits @ tile, logits.T @ hidden


def plain(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> None:
    F.cross_entropy((hidden @ weight.T).float(), targets, reduction="none").sum().backward()


def ours(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> None:
    chunked_token_losses(hidden, weight, targets).losses.sum().backward()


def torch_chunked(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> None:
    options = torch.nn.LinearCrossEntropyOptions()
    F.linear_cross_entropy(hidden, weight, targets, reduction="none", options=options).sum().backward()


def liger(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> None:
    liger_token_losses(hidden, weight, targets).losses.sum().backward()


KERNELS: dict[str, Step] = {"products": products, "plain": plain, "torch": torch_chunked, "ours": ours, "liger": liger}


def make_inputs(options: argparse.Namespace, tokens: int, vocabulary: int) -> tuple[torch.Tensor, ...]:
    """hidden (N, H), weight (V, H) and targets (N,), made in place: a copy would raise the peak before a step does."""
    draw = torch.Generator(options.device).manual_seed(SEED)
    settings = {"generator": draw, "device": options.device, "dtype": getattr(torch, options.dtype)}
    hidden = torch.randn(tokens, options.width, **settings).requires_grad_()
    weight = torch.randn(vocabulary, options.width, **settings).mul_(0.02).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (tokens,), generator=draw, device=options.device)


def peak_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(options: argparse.Namespace, kernel: str, vocabulary: int) -> dict[str, float]:
    """Median milliseconds of a step, and MiB that steps add at their peak."""
    step = KERNELS[kernel]
    step(*make_inputs(options, 8, 64))  # one-time buffers of the libraries
    hidden, weight, targets = make_inputs(options, options.tokens, vocabulary)
    before = peak_bytes(options.device)
    seconds = []
    for _ in range(options.repeats + 1):
        hidden.grad = weight.grad = None
        started = time.perf_counter()
        step(hidden, weight, targets)
        if options.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    added = peak_bytes(options.device) - before
    # The first step meets fresh memory and, on a GPU, kernels that are not compiled yet.
    return {"ms": round(statistics.median(seconds[1:]) * 1e3, 2), "mib": round(added / 2**20, 1)}


def measure_apart(options: argparse.Namespace, kernel: str, vocabulary: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", kernel, "--vocabularies", str(vocabulary)]
    for name in ("tokens", "width", "repeats", "device", "dtype"):
        command += [f"--{name}", str(getattr(options, name))]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[32_000, 151_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", choices=tuple(KERNELS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.tokens, options.width, options.vocabularies, options.repeats = 512, 128, [4_000], 1
    return options


def main() -> None:
    options = read_options()
    if options.one:
        print(json.dumps(measure(options, options.one, options.vocabularies[0])))
        return
    missing = {
        "torch": "linear_cross_entropy" not in dir(F),
        "liger": options.device != "cuda" or not liger_installed(),
    }
    kernels = [name for name in KERNELS if not missing.get(name)]
    rows = []
    for vocabulary in options.vocabularies:
        print(f"{options.tokens} tokens, width {options.width}, vocabulary {vocabulary}, {options.dtype}")
        found = {kernel: measure_apart(options, kernel, vocabulary) for kernel in kernels}
        for kernel, row in found.items():
            share = found["products"]["ms"] / row["ms"]
            rows.append({"kernel": kernel, "vocabulary": vocabulary, **row, "share_of_ceiling": round(share, 3)})
            print(f"  {kernel:9s} {row['ms']:9.1f} ms   {share:6.1%} of the ceiling   {row['mib']:8.1f} MiB added")
    report = {
        "rows": rows,
        "tokens": options.tokens,
        "width": options.width,
        "dtype": options.dtype,
        "hardware": torch.cuda.get_device_name() if options.device == "cuda" else processor_name(),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__},
        "seed": SEED,
        "date": str(date.today()),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
