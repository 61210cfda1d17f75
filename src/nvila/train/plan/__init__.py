"""What a training would take, before any weight exists: parameters, memory a GPU, operations, time.

`estimate` takes an architecture and a `Workload` of plain numbers, `format_estimate` makes the table that
`nvila train RECIPE --plan` prints. Work and saved activations are counted as this code runs (`parts`,
`memory`), and tests compare them with real steps of small models. The rate that hardware reaches is an
assumption of the workload, not an estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nvila.model import NVILAConfig
from nvila.train.plan import parts as parts
from nvila.train.plan.memory import Job, Memory, memory
from nvila.train.plan.parts import Flops, Mode
from nvila.train.plan.workload import GPUS, PARTS, Gpu, Workload
from nvila.train.recipe import Part

__all__ = ["GPUS", "Estimate", "Flops", "Gpu", "Memory", "Parameters", "Workload", "estimate", "format_estimate"]

Row = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Weights of one part, and how many of them learn."""

    total: int
    trained: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a workload takes; operations are of one optimiser step over all GPUs, memory of the fullest GPU."""

    workload: Workload
    parameters: dict[Part, Parameters]
    memory: Memory
    flops: tuple[Flops, ...]
    seconds_per_step: float

    @property
    def total_flops(self) -> float:
        """Of one step, with what runs again."""
        return sum(entry.total for entry in self.flops)

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return self.seconds_per_step * self.workload.steps


def estimate(config: NVILAConfig, workload: Workload) -> Estimate:
    """What `workload` takes for a model of this configuration; no weights are made."""
    job = Job(config=config, sizes=parts.sizes(config), workload=workload, modes=_modes(workload))
    flops = _flops(job)
    gpu = GPUS[workload.gpu]
    at_peak = sum(entry.total / (gpu.fp8 if entry.fp8 else gpu.bf16) for entry in flops)
    return Estimate(
        workload=workload,
        parameters={
            part: Parameters(
                total=job.sizes.total[part], trained=job.sizes.used[part] if part in workload.trainable else 0
            )
            for part in PARTS
        },
        memory=memory(job),
        flops=flops,
        seconds_per_step=at_peak / workload.num_gpus / workload.mfu,
    )


def format_estimate(result: Estimate) -> str:
    """The estimate as aligned plain text of four tables: parameters, the step, memory a GPU, operations and time."""
    tables = [_parameter_rows(result), _step_rows(result.workload), _memory_rows(result), _work_rows(result)]
    return "\n\n".join(aligned(rows) for rows in tables) + "\n\n" + _time_lines(result)


def _modes(workload: Workload) -> dict[Part, Mode]:
    """A part passes gradients on when something before it is trained, and rests when nothing up to it is."""
    modes: dict[Part, Mode] = {}
    before = False
    for part in PARTS:
        trained = part in workload.trainable
        modes[part] = "trained" if trained else "passed" if before else "idle"
        before = before or trained
    return modes


def _flops(job: Job) -> tuple[Flops, ...]:
    workload, modes = job.workload, job.modes
    tokens, tiles = workload.tokens_per_step, workload.tiles_per_step
    again, fp8 = workload.checkpointing, workload.fp8_linears
    length = workload.sample_length
    return (
        *parts.vision_flops(
            job.config, job.sizes, tiles, modes["vision"], again="vision" in again, fp8="vision" in fp8
        ),
        parts.projector_flops(job.config, job.projected(tiles), modes["projector"]),
        *parts.llm_flops(
            job.config, job.sizes, tokens, modes["llm"], sample_length=length, again="llm" in again, fp8="llm" in fp8
        ),
        parts.head_flops(job.sizes, round(tokens * workload.logit_share), modes["llm"], chunked=workload.chunked_loss),
    )


def _parameter_rows(result: Estimate) -> list[Row]:
    rows: list[Row] = [("parameters", "total", "trained")]
    counts = [(part, entry.total, entry.trained) for part, entry in result.parameters.items()]
    total = ("all", sum(count for _, count, _ in counts), sum(count for *_, count in counts))
    return rows + [(name, shown_count(every), shown_count(trained)) for name, every, trained in [*counts, total]]


def _step_rows(workload: Workload) -> list[Row]:
    tokens, tiles = workload.tokens_per_step, workload.tiles_per_step
    return [
        ("batch", "tokens", "tiles"),
        ("a step", f"{tokens:,}", f"{tiles:,}"),
        ("a micro batch, at most", f"{workload.largest_tokens:,}", f"{workload.largest_tiles:,}"),
        (f"{workload.steps:,} steps", f"{workload.steps * tokens:,}", f"{workload.steps * tiles:,}"),
    ]


def _memory_rows(result: Estimate) -> list[Row]:
    needed = result.memory
    rows: list[Row] = [("memory a GPU", "")]
    rows += [(name.replace("_", " "), shown_bytes(size)) for name, size in vars(needed).items()]
    return [*rows, ("all (of logits and temporary the larger)", shown_bytes(needed.total))]


def _work_rows(result: Estimate) -> list[Row]:
    rows: list[Row] = [("operations a step", "forward", "backward", "again", "all")]
    for entry in result.flops:
        values = (entry.forward, entry.backward, entry.recomputed, entry.total)
        rows.append((entry.name + (", FP8" if entry.fp8 else ""), *map(_flop, values)))
    columns = (
        sum(entry.forward for entry in result.flops),
        sum(entry.backward for entry in result.flops),
        sum(entry.recomputed for entry in result.flops),
        result.total_flops,
    )
    return [*rows, ("all", *map(_flop, columns))]


def _time_lines(result: Estimate) -> str:
    workload = result.workload
    gpu = GPUS[workload.gpu]
    fits = "fits" if result.memory.total <= gpu.memory << 30 else "does not fit"
    rates = f"{gpu.bf16 / 1e12:,.0f} TFLOP/s bf16"
    if workload.fp8_linears:
        rates += f", {gpu.fp8 / 1e12:,.0f} TFLOP/s FP8"
    plural = "" if workload.num_gpus == 1 else "s"
    return (
        f"{fits} {gpu.memory} GiB of one {workload.gpu}\n"
        f"{shown_time(result.seconds_per_step)} a step, {shown_time(result.seconds)} in all on {workload.num_gpus} "
        f"{workload.gpu}{plural} at {workload.mfu:.0%} of the peak rate ({rates}), which is an assumption"
    )


def aligned(rows: Sequence[Row]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    )


def _scaled(value: float, base: float, units: Sequence[str]) -> str:
    power = 0
    while value >= base and power < len(units) - 1:
        value, power = value / base, power + 1
    return f"{value:,.2f} {units[power]}" if power else f"{value:,.0f} {units[0]}"


def shown_count(value: float) -> str:
    return _scaled(value, 1000, ("", "k", "M", "B")).strip()


def shown_bytes(value: float) -> str:
    return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def _flop(value: float) -> str:
    return _scaled(value, 1000, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"))


def shown_time(seconds: float) -> str:
    for limit, size, unit in ((120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172800.0, 3600.0, "h")):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86400:,.1f} days"
