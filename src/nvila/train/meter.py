"""How fast a training is and what it costs: tokens, tiles and samples a second, padding, memory, MFU, and time left.

MFU is the model's floating point operations a second as a part of what the hardware could do in dense bf16 (PaLM,
arXiv 2204.02311, appendix B): operations of recomputation do not count, nor does sparsity. Where the peak of a device
is not known there is no MFU, rather than one from a guess.

The meter never waits for the device: the trainer reads the loss before it asks, and that waits.
"""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Literal, TextIO

import torch

from nvila.utils.progress import SilentLine, StatusLine, status

Clock = Callable[[], float]
Reduce = Callable[[list[float], Literal["sum", "max"]], list[float]]
"""Takes one rank's numbers, gives the sums or the largest over all ranks, in the same order."""

_TERA = 1e12
_PEAKS: tuple[tuple[str, float], ...] = (
    ("B200", 2250),
    ("GH200", 989),
    ("H200 NVL", 835),
    ("H200", 989),
    ("H100 NVL", 835),
    ("H100 PCIe", 756),
    ("H100", 989),
    ("H800", 989),
    ("H20", 148),
    ("A100", 312),
    ("A800", 312),
    ("A40", 149.7),
    ("A30", 165),
    ("A10", 125),
    ("L40S", 362),
    ("L40", 181),
    ("L4", 121),
    ("RTX 5090", 209.5),
    ("RTX 4090", 165.2),
    ("RTX 3090", 71),
)
"""TFLOP/s in dense bf16 with float32 sums, from NVIDIA's data sheets; the first name whose words all occur counts."""
_LESSER = re.compile(r"\b(MIG|Laptop|Max-Q|D)\b")
"""Words that mean a part of the GPU, or a slower one, of the same name."""


@dataclass(frozen=True, kw_only=True)
class StepCounts:
    """What one batch holds. `tokens` are all but padding, those of images included; `learned_tokens` have a label."""

    tokens: int
    learned_tokens: int
    padding_tokens: int = 0
    tiles: int = 0
    samples: int = 0


def no_reduce(values: list[float], kind: Literal["sum", "max"]) -> list[float]:
    """The numbers as they are: one process."""
    return values


class StepMeter:
    """Adds up batches and tells rates since it was last asked.

    `flops` is the floating point operations, forward and backward, of one added batch: a number, or a function of its
    counts. `peak` is the FLOP/s of this rank's device (`peak_flops`); None leaves `mfu` out, on whichever rank it is.
    `memory` gives this rank's memory in bytes (`peak_memory`).
    """

    def __init__(
        self,
        *,
        flops: float | Callable[[StepCounts], float] = 0.0,
        peak: float | None = None,
        memory: Callable[[], float] | None = None,
        reduce: Reduce = no_reduce,
        clock: Clock = time.monotonic,
    ) -> None:
        self._flops = flops
        self._peak = math.inf if peak is None else peak
        self._memory = memory
        self._reduce = reduce
        self._clock = clock
        self._clear()

    def count_by(self, flops: Callable[[StepCounts], float]) -> None:
        """Takes `flops` in place of what was given, from the next batch on."""
        self._flops = flops

    def add(self, counts: StepCounts) -> None:
        """Count one batch of this rank."""
        for name, number in asdict(counts).items():
            self._sums[name] += number
        self._sums["flops"] += self._flops(counts) if callable(self._flops) else self._flops

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the time of the block out of the rates: held-out scores, a checkpoint."""
        start = self._clock()
        try:
            yield
        finally:
            self._started += self._clock() - start

    def take(self) -> dict[str, float]:
        """The rates since the last call, of all ranks together; every rank has to call.

        `tokens_per_s`, `learned_tokens_per_s`, `tiles_per_s`, `samples_per_s`; `padding_share` and `mfu` in 0..1;
        `memory_gb` in 1e9 bytes, of the rank that has most.
        """
        elapsed = self._clock() - self._started
        totals = self._reduce([*self._sums.values(), self._peak], "sum")
        sums, peak = dict(zip(self._sums, totals[:-1], strict=True)), totals[-1]
        memory = 0.0 if self._memory is None else self._memory()
        seconds, memory = self._reduce([elapsed, memory], "max")
        seconds = max(seconds, 1e-9)
        rates = {f"{name}_per_s": sums[name] / seconds for name in ("tokens", "learned_tokens", "tiles", "samples")}
        values = {name: round(rate, 1) for name, rate in rates.items()}
        places = sums["tokens"] + sums["padding_tokens"]
        values["padding_share"] = round(sums["padding_tokens"] / places, 4) if places else 0.0
        if math.isfinite(peak):
            values["mfu"] = round(sums["flops"] / seconds / peak, 4)
        if self._memory is not None:
            values["memory_gb"] = round(memory / 1e9, 3)
        self._clear()
        return values

    def _clear(self) -> None:
        self._sums: dict[str, float] = {**{field.name: 0.0 for field in fields(StepCounts)}, "flops": 0.0}
        self._started = self._clock()


def peak_flops(device: torch.device, *, dtype: torch.dtype = torch.bfloat16, measure: bool = False) -> float | None:
    """Dense FLOP/s of `device` in `dtype`: from the data sheet for bf16 on a GPU that is known.

    None where no data sheet tells; with `measure` it is then measured, which takes about a third of a second.
    """
    if device.type == "cuda" and dtype == torch.bfloat16:
        known = gpu_peak_flops(torch.cuda.get_device_name(device))
        if known is not None:
            return known
    return measured_flops(device, dtype=dtype) if measure else None


def gpu_peak_flops(name: str) -> float | None:
    """FLOP/s in dense bf16 of the GPU that the driver calls `name`; None when it is not in the table."""
    if _LESSER.search(name):
        return None
    for known, tflops in _PEAKS:
        words = known.replace(" ", r"\b.*\b")
        if re.search(rf"\b{words}\b", name, re.IGNORECASE):
            return tflops * _TERA
    return None


def measured_flops(
    device: torch.device, *, dtype: torch.dtype = torch.bfloat16, size: int = 1024, seconds: float = 0.2
) -> float:
    """The best FLOP/s of a (size, size) by (size, size) product in `dtype`, tried for about `seconds`.

    Uses the threads that torch uses. On a machine that others use too it is what was free at the best moment.
    """
    left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    _product_s(left, right)  # the first one warms up
    stop = time.perf_counter() + seconds
    least = _product_s(left, right)
    while time.perf_counter() < stop:
        least = min(least, _product_s(left, right))
    return 2.0 * size**3 / least


def _product_s(left: torch.Tensor, right: torch.Tensor) -> float:
    start = time.perf_counter()
    torch.mm(left, right)
    if left.device.type == "cuda":
        torch.cuda.synchronize(left.device)  # the product is what is timed, not its launch
    return time.perf_counter() - start


def peak_memory(device: torch.device) -> float:
    """Bytes: the most that tensors took on a CUDA device, or that this process had resident, since it began."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    import resource  # not on Windows, where a GPU may still be used

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most if sys.platform == "darwin" else 1024 * most)


class TimeLeft:
    """A line with how far a stage is and how long it will still take.

    Seconds a step are a plain mean at first and an exponential one later, where the newest step weighs `smoothing`.
    `step` is where this process begins.
    """

    def __init__(
        self,
        total: int,
        *,
        step: int = 0,
        name: str = "training",
        smoothing: float = 0.05,
        clock: Clock = time.monotonic,
    ) -> None:
        self.total = total
        self.step = step
        self.name = name
        self._smoothing = smoothing
        self._clock = clock
        self._at = clock()
        self._num_updates = 0
        self._step_s = 0.0
        self._loss = ""
        self._rate = ""
        self._line: StatusLine | SilentLine = SilentLine()

    @contextmanager
    def shown(self, *, stream: TextIO | None = None, forced: bool = False) -> Iterator[None]:
        """Keep the line on `stream` (standard error) while the block runs; silent where that is no terminal."""
        with status(self.text(), stream=stream, forced=forced) as self._line:
            yield

    def update(
        self,
        step: int,
        *,
        loss: float | None = None,
        tokens_per_s: float | None = None,
        limit_s: float | None = None,
    ) -> None:
        """Say that `step` steps are done. A loss or rate that is None stays as last told, so that no step has to
        wait for its loss. `limit_s` is the seconds after which the stage ends whatever is done."""
        if step > self.step:
            now = self._clock()
            self._num_updates += 1
            weight = max(self._smoothing, 1.0 / self._num_updates)
            self._step_s += weight * ((now - self._at) / (step - self.step) - self._step_s)
            self.step, self._at = step, now
        if loss is not None:
            self._loss = f"  loss {loss:.4g}"
        if tokens_per_s is not None:
            self._rate = f"  {_short(tokens_per_s)} tokens/s"
        self._line.update(self.text(limit_s))

    def text(self, limit_s: float | None = None) -> str:
        """The line as it now is."""
        seconds = self.seconds_left(limit_s)
        left = "" if seconds is None else f"  {_duration(seconds)} left"
        bar = _bar(self.step, self.total)
        return f"{self.name} {bar} {self.step:,}/{self.total:,}{self._loss}{self._rate}{left}"

    def seconds_left(self, limit_s: float | None = None) -> float | None:
        """Seconds to the end, at most `limit_s`; None while neither is known."""
        if not self._num_updates:
            return limit_s
        by_steps = self._step_s * max(0, self.total - self.step)
        return by_steps if limit_s is None else min(by_steps, limit_s)


def _bar(step: int, total: int, width: int = 20) -> str:
    done = width * min(step, total) // max(1, total)
    return f"[{'#' * done}{'-' * (width - done)}]"


def _short(number: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // (24 * 60)} d {minutes // 60 % 24} h"
