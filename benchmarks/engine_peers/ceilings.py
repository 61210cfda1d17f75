"""What this machine can do at best, measured: reading memory, and products in bfloat16 and int8."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from nvila.ops.int8_linear import int8_linear, pack_int8, quantise_weight_int8
from nvila.train.meter import measured_flops


def ceilings(device: torch.device, *, megabytes: int, side: int, seconds: float) -> dict[str, float]:
    """Bytes a second read, and operations a second of square products, the best of `seconds` of tries each.

    The int8 product is the one that the engine uses with a scale given; its quantised input is part of it.
    """
    block = torch.ones(megabytes << 18, device=device)
    read = block.nbytes / _best(lambda: block.sum(), device, seconds)
    bf16 = measured_flops(device, size=side, seconds=seconds)
    x = torch.randn(side, side, device=device).bfloat16()
    weight = pack_int8(*quantise_weight_int8(torch.randn(side, side, device=device)))
    scale = x.float().abs().amax().reshape(1) / 127
    int8 = 2.0 * side**3 / _best(lambda: int8_linear(x, weight, input_scale=scale), device, seconds)
    return {"read_bytes_per_s": read, "bf16_flop_per_s": bf16, "int8_op_per_s": int8}


def _best(call: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """The least time of a call, after one that warms up."""
    call()
    least, stop = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < stop or least == float("inf"):
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        least = min(least, time.perf_counter() - began)
    return least
