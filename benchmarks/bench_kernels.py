"""The quantised linear layers against 16 bits, with the ceilings of this machine, on the shapes of released models.

    python benchmarks/bench_kernels.py --threads 2
    python benchmarks/bench_kernels.py --quick

Prints where decoding with packed weights and writing them out cross (`CPU_CROSSING` in nvila.ops.int4_linear). The last
line is JSON. The peer is torch's own product in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from nvila.ops.int4_linear import dequantise_int4, int4_linear, pack_int4, pack_words
from nvila.ops.int8_linear import int8_linear, pack_int8, quantise_weight_int8

SHAPES = {"tower fc1": (4096, 1152, 4304), "tower fc2": (4096, 4304, 1152), "decoder up": (512, 3584, 18944)}
QUICK = {"tower fc1": (128, 288, 1072)}
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def milliseconds(call: Callable[[], Any], rounds: int) -> float:
    """Median of `rounds` calls after one to warm up."""
    call()
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return 1e3 * statistics.median(found)


def ceilings(megabytes: int, rounds: int) -> dict[str, float]:
    """GB/s of reading, and GFLOP/s of the product in bfloat16 on a large square."""
    block = torch.ones(megabytes * 2**18)
    read = milliseconds(lambda: block.sum(), rounds)
    side = 2048 if megabytes > 64 else 512
    a, b = torch.randn(side, side).bfloat16(), torch.randn(side, side).bfloat16()
    product = milliseconds(lambda: F.linear(a, b), rounds)
    return {"read_gb_s": block.nbytes / read / 1e6, "bf16_gflop_s": 2 * side**3 / product / 1e6}


def int8_row(tokens: int, inputs: int, outputs: int, rounds: int) -> dict[str, float]:
    """Milliseconds of a layer in W8A8 both ways, from bfloat16 to bfloat16, and of the 16-bit product."""
    x, weight = torch.randn(tokens, inputs).bfloat16(), torch.randn(outputs, inputs)
    plain, packed = weight.bfloat16(), pack_int8(*quantise_weight_int8(weight))
    scale = x.float().abs().amax().reshape(1) / 127
    return {
        "bf16_ms": milliseconds(lambda: F.linear(x, plain), rounds),
        "token_ms": milliseconds(lambda: int8_linear(x, packed), rounds),
        "static_ms": milliseconds(lambda: int8_linear(x, packed, input_scale=scale), rounds),
    }


def int4_rows(inputs: int, outputs: int, rounds: int) -> dict[int, dict[str, float]]:
    """Milliseconds for so many tokens: 16 bits, packed weights, written-out weights."""
    groups = inputs // 128
    words = pack_words(torch.randint(-8, 8, (outputs, inputs), dtype=torch.int8))
    zeros = torch.randint(-8, 8, (outputs, groups), dtype=torch.int8)
    weight = pack_int4(words, torch.rand(outputs, groups).bfloat16(), zeros)
    plain = dequantise_int4(weight, torch.bfloat16)
    rows = {}
    for tokens in TOKENS:
        x = torch.randn(tokens, inputs).bfloat16()
        rows[tokens] = {
            "bf16_ms": milliseconds(lambda x=x: F.linear(x, plain), rounds),
            "packed_ms": milliseconds(
                lambda x=x: torch.ops.aten._weight_int4pack_mm_for_cpu(
                    x, weight.blocks, weight.group_size, weight.scales_and_offsets
                ),
                rounds,
            ),
            "written_out_ms": milliseconds(lambda x=x: F.linear(x, dequantise_int4(weight, x.dtype)), rounds),
            "chosen_ms": milliseconds(lambda x=x: int4_linear(x, weight), rounds),
        }
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small shape, to see that it works")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    rounds = 3 if chosen.quick else 15
    found: dict[str, Any] = {"threads": chosen.threads, "torch": torch.__version__, "machine": platform.processor()}
    found["ceilings"] = ceilings(16 if chosen.quick else 512, rounds)
    print("ceilings", {name: round(value, 1) for name, value in found["ceilings"].items()})
    found["int8"] = {}
    for name, shape in (QUICK if chosen.quick else SHAPES).items():
        row = found["int8"][name] = int8_row(*shape, rounds)
        gain = row["bf16_ms"] / min(row["token_ms"], row["static_ms"])
        print(f"W8A8 {name:12} {shape}", {key: round(ms, 3) for key, ms in row.items()}, f"{gain:.2f}x of bf16")
    inputs, outputs = (256, 512) if chosen.quick else (1536, 8960)
    found["int4"] = int4_rows(inputs, outputs, rounds)
    for tokens, row in found["int4"].items():
        print(f"W4A16 {inputs} x {outputs}, {tokens:3} tokens", {key: round(ms, 3) for key, ms in row.items()})
    slower = [tokens for tokens, row in found["int4"].items() if row["packed_ms"] > row["written_out_ms"]]
    print(f"packed weights are slower from {min(slower, default=0)} tokens on (0: never here)")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
