"""The four rows of the paper's Table 4: training in bf16 and in FP8, with and without gradient checkpointing.

Every row runs whole steps (forward, backward, clipping, AdamW) of `train.learner.Learner` on random weights, at the
largest batch that fits a stated memory. FP8 means linear layers with one scale a tensor, their inputs, norms and
activation functions kept in FP8, and `Fp8AdamW`; of the decoder, and of the vision tower too with --fp8-vision. Layers
are compiled in all rows. bf16 is the peer; torchao's float8 linear layers are a further one where it is installed.

What is not as in a training: weights are bf16 without float32 copies, so that losses mean nothing; one device holds all
weights, gradients and optimizer states (the paper spread them over 64), which is why --layers may cut the decoder.
Samples are of kinds whose shares are a guess of the paper's tuning data (`fp8_row.MIX`); --samples equal gives every
one 14 tiles and 2,400 tokens. A batch holds samples of one kind, as trainers that group by length have it, a row each:
nothing is packed or filled up, and torch's own fused attention needs no mask. The batch is what fits of the largest
kind, its time the mean over the kinds by their shares, so that all rows see the same samples.

The ceiling is the step's operations (`train.plan`; repeated work included, FP8 products at the FP8 rate) at the
device's peak. MFU counts no repeated work, against the bf16 peak. Memory is the most that tensors took, on a CPU what
the plan says. Each row is a process of its own and has a share of --time-budget; one that is cut says how far it came,
those that were not reached that they were not run. --out is written after every row; the last line is JSON.

    python benchmarks/bench_fp8.py --device cuda [--memory-gb 75] [--train llm] [--layers 8] [--out fp8.json]
    python benchmarks/bench_fp8.py --quick
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from fp8_row import MIXES, Search, make_config, peaks, table_rows, workload

from nvila.eval.runner import processor_name
from nvila.ops.losses import uses_liger
from nvila.train.plan import estimate
from nvila.utils.atomic import atomic_write_text

PAPER = {"bf16": (4, 199.2), "fp8": (16, 390.1), "bf16-gc": (30, 491.7), "fp8-gc": (36, 579.9)}
"""Table 4: batch a GPU, and its throughput (of unnamed unit) on 64 H100."""
OUTSIDE_ALLOCATOR = 1.5e9
"""Bytes left to the driver and to libraries' workspaces, unless a memory is given."""
KILL_AFTER = 10.0
LEAST_SECONDS = 30.0
"""Time left under which no row is started."""


def start_row(options: argparse.Namespace, name: str, arch: str, seconds: float) -> dict[str, Any]:
    """The row in a process of its own, ended when its time is over."""
    with tempfile.TemporaryDirectory() as folder:
        result, errors = Path(folder) / "row.json", Path(folder) / "errors.txt"
        command = [sys.executable, __file__, *sys.argv[1:], "--one", name, "--result", str(result)]
        command += [
            "--architectures",
            arch,
            "--memory-gb",
            str(options.memory_gb),
            "--until",
            str(time.time() + seconds),
        ]
        settings = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
        with errors.open("w") as stream:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stream, env=settings)
            try:
                status: int | None = process.wait(seconds + KILL_AFTER)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                status = None
        row: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
        row.setdefault("state", "cut before any batch had run")
        if status:
            row["state"] = f"failed with status {status}; {row['state']}"
            row["error"] = errors.read_text()[-2000:]
            print(row["error"], file=sys.stderr)
    return row


def run_table(options: argparse.Namespace) -> dict[str, Any]:
    """All rows on the first architecture that fits; writes the report so far after each."""
    deadline = time.monotonic() + options.time_budget
    names = [name for name in options.rows if find_spec("torchao") or not name.startswith("torchao")]
    report = heading(options)
    arch = first_by_plan(options, names[0], report["architectures_tried"])
    while names:
        left = deadline - time.monotonic()
        if left < LEAST_SECONDS:
            report["rows"] |= {name: {"state": "not run: the time was up"} for name in names}
            save(report, options)
            break
        row = start_row(options, names[0], arch, left / len(names) - KILL_AFTER)
        if row["state"] == "does not fit" and not report["rows"] and arch != options.architectures[-1]:
            report["architectures_tried"][arch] = f"{names[0]} does not fit {options.memory_gb:g} GB with one sample"
            options.architectures = options.architectures[options.architectures.index(arch) + 1 :]
            arch = first_by_plan(options, names[0], report["architectures_tried"])
            continue
        report["architecture"] = arch
        report["rows"][names[0]] = row
        report["speedups"] = speedups(report["rows"])
        print_row(names.pop(0), row)
        save(report, options)
    return report


def save(report: dict[str, Any], options: argparse.Namespace) -> None:
    if options.out:
        atomic_write_text(Path(options.out), json.dumps(report, indent=1) + "\n")


def first_by_plan(options: argparse.Namespace, name: str, tried: dict[str, str]) -> str:
    """The first architecture on which the row `name` fits by the plan with one sample, else the last."""
    row = table_rows(fp8_vision=options.fp8_vision)[name]
    for arch in options.architectures[:-1]:
        config = make_config(arch, options.layers, options.quick)
        jobs = [workload(config, row, kind, 1, options.train) for kind in MIXES[options.samples]]
        planned = max(estimate(config, job).memory.total for job in jobs)
        if planned <= options.memory_gb * 1e9:
            return str(arch)
        tried[arch] = f"planned {planned / 1e9:.1f} GB for {name} with one sample, over {options.memory_gb:g} GB"
    return str(options.architectures[-1])


def speedups(rows: dict[str, Any]) -> dict[str, float]:
    """Samples a second over those of bf16 with the same checkpointing, where both were measured."""
    found = {}
    for name, row in rows.items():
        peer = rows.get("bf16-gc" if name.endswith("gc") else "bf16", {})
        if not name.startswith("bf16") and "samples_per_s" in row and "samples_per_s" in peer:
            found[name] = round(row["samples_per_s"] / peer["samples_per_s"], 3)
    return found


def heading(options: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(options.device)
    bf16, fp8 = peaks(device)
    optional = {"torchao": "torchao", "liger_kernel": "liger-kernel", "triton": "triton"}
    packages = ("torch", "transformers", *(name for module, name in optional.items() if find_spec(module)))
    report = {
        "benchmark": "fp8",
        "rows": {},
        "speedups": {},
        "architectures_tried": {},
        "decoder_layers": options.layers or "all",
        "memory_gb": options.memory_gb,
        "memory_is": "measured" if device.type == "cuda" else "planned",
        "trained": options.train,
        "samples": [asdict(kind) for kind in MIXES[options.samples]],
        "fp8_vision": options.fp8_vision,
        "compiled": options.compile,
        "liger": uses_liger(device),
        "steps": options.steps,
        "peak_tflops": {"bf16": round(bf16 / 1e12, 1), "fp8": round(fp8 / 1e12, 1)},
        "paper": {name: {"batch": batch, "throughput": rate} for name, (batch, rate) in PAPER.items()},
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in packages},
        "seed": 0,
        "date": str(date.today()),
    }
    print(f"{report['hardware']}: peak {bf16 / 1e12:,.1f} TFLOP/s bf16, {fp8 / 1e12:,.1f} FP8 (the ceiling)")
    print(
        f"memory {options.memory_gb:g} GB, {options.samples} samples, training {', '.join(options.train)}", flush=True
    )
    return report


def print_row(name: str, row: dict[str, Any]) -> None:
    if "samples_per_s" in row:
        print(
            f"{name:13s} batch {row['batch']:4d}  {row['samples_per_s']:8.3f} samples/s  {row['tokens_per_s']:9,.0f} "
            f"tokens/s  {row['peak_gb']:6.2f} GB  MFU {row['mfu']:.1%}  {row['ceiling_share']:.1%} of the ceiling"
            f"  ({row['state']})",
            flush=True,
        )
    else:
        print(f"{name:13s} {row['state']}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a small model on the CPU, to see that it runs")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--memory-gb", type=float, help="1e9 bytes; by default what is free")
    rows = list(table_rows(fp8_vision=False))
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows, help="a call may be too short for all")
    parser.add_argument("--architectures", nargs="+", default=["8b", "2b", "lite-2b"], help="in the order tried")
    parser.add_argument("--layers", type=int, default=0, help="cuts the decoder to so many layers")
    parser.add_argument("--train", nargs="+", default=["vision", "projector", "llm"], help="parts that learn")
    parser.add_argument("--samples", default="mixed", choices=("mixed", "equal"))
    parser.add_argument("--fp8-vision", action="store_true", help="FP8 rows have the vision tower in FP8 too")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="by default unless --quick")
    parser.add_argument("--steps", type=int, default=5, help="timed at the largest batch, behind one that warms up")
    parser.add_argument("--largest", type=int, default=256, help="batch that is not exceeded")
    parser.add_argument("--time-budget", type=float, default=540.0, help="seconds of all rows together")
    parser.add_argument("--out", help="file that is written after every row")
    for hidden in ("--one", "--result", "--until"):
        parser.add_argument(hidden, type=float if hidden == "--until" else str, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.train = tuple(options.train)
    if options.compile is None:
        options.compile = not options.quick
    if options.quick:
        options.device, options.steps, options.largest = "cpu", 3, 4
        options.architectures, options.memory_gb = ["nano"], options.memory_gb or 0.09
    if options.memory_gb is None:
        free = torch.cuda.mem_get_info()[0] if options.device == "cuda" else 16e9
        options.memory_gb = round((free - OUTSIDE_ALLOCATOR) / 1e9, 1)
    return options


def main() -> None:
    options = parse()
    if options.one:
        Search(options).run()
    else:
        print(json.dumps(run_table(options)))


if __name__ == "__main__":
    main()
