"""One row of `bench_fp8.py`: the model and the batches it is measured on, and the search for the largest that fits.

Leaves out the table, and the processes that rows run in.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nvila.model import NVILAConfig, NVILAForConditionalGeneration, s2
from nvila.processing.chat import IGNORED
from nvila.train.dense import DenseHead
from nvila.train.learner import Learner, compile_layers
from nvila.train.meter import peak_flops
from nvila.train.plan import GPUS, Estimate, Workload, estimate
from nvila.train.plan.published import Architecture, architecture
from nvila.train.precision.convert import apply_precision
from nvila.train.precision.optimizer import Fp8AdamW
from nvila.train.precision.options import PrecisionOptions
from nvila.train.recipe import Part, Stage
from nvila.train.stages import prepare
from nvila.train.trainer import ADAM_BETAS, parameter_groups
from nvila.utils.atomic import atomic_write_text


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    precision: PrecisionOptions
    checkpointing: bool
    fp8_states: bool


@dataclass(frozen=True)
class Kind:
    """Samples of `share` of the mix: words, and one picture cut into `grid` tiles (rows, columns) or none."""

    name: str
    share: float
    grid: tuple[int, int] | None
    num_words: int


MIX = (
    Kind("text", 0.15, None, 512),
    Kind("1 tile", 0.15, (1, 1), 200),
    Kind("2x2", 0.25, (2, 2), 200),
    Kind("3x3", 0.30, (3, 3), 200),
    Kind("3x4", 0.15, (3, 4), 200),
)
MIXES = {"mixed": MIX, "equal": (Kind("3x3", 1.0, (3, 3), 96),)}


@dataclass(frozen=True)
class Sample:
    """What a sample of one kind takes in a model: tokens, tiles that the tower reads and that reach the projector."""

    num_tokens: int
    num_words: int
    num_tiles: int
    num_projected: int


def table_rows(*, fp8_vision: bool) -> dict[str, Row]:
    """By name, in the order they run; torchao's last."""
    fp8 = PrecisionOptions(linears="tensorwise", inputs=True, norms=True, activations=True, vision=fp8_vision)
    torchao = PrecisionOptions(linears="tensorwise", backend="torchao", vision=fp8_vision)
    kinds = {"bf16": (PrecisionOptions(), False), "fp8": (fp8, True), "torchao": (torchao, False)}
    return {
        name + ("-gc" if again else ""): Row(precision=kinds[name][0], checkpointing=again, fp8_states=kinds[name][1])
        for names in (("bf16", "fp8"), ("torchao",))
        for again in (False, True)
        for name in names
    }


def make_config(name: str, layers: int, quick: bool) -> NVILAConfig:
    """The architecture, its decoder cut to `layers` unless 0; `quick` widens nano so far that FP8 is for it."""
    found: Architecture = architecture(name)
    if quick:
        wide = {"hidden_size": 256, "intermediate_size": 512}
        found = replace(found, vision={**found.vision, **wide}, text={**found.text, **wide})
    if layers:
        found = replace(found, text={**found.text, "num_hidden_layers": layers})
    config = found.config()
    config._attn_implementation = "sdpa"
    config.image_token_id = config.text_config.vocab_size  # no word has it
    return config


def sample_of(config: NVILAConfig, kind: Kind) -> Sample:
    visual, grid = config.visual, kind.grid
    if grid is None:
        tiles = projected = 0
    elif visual.image_mode == "dynamic_s2" and grid != (1, 1):
        scales = s2.scale_grids(visual.s2_scales, grid)
        tiles, projected = s2.num_tiles(visual.s2_scales, grid), math.prod(scales[visual.s2_resize_output_to_scale_idx])
    else:
        tiles = projected = math.prod(grid) + (grid != (1, 1))
    return Sample(projected * visual.tokens_per_tile + kind.num_words, kind.num_words, tiles, projected)


def make_batch(config: NVILAConfig, kind: Kind, count: int, device: torch.device) -> dict[str, Any]:
    """What the learner takes: `count` samples of random words and pixels; the second half of the words is learned."""
    generator = torch.Generator(device).manual_seed(0)
    sample, side = sample_of(config, kind), config.tile_size
    shape, vocabulary = (count, sample.num_tokens), config.text_config.vocab_size
    input_ids = torch.randint(vocabulary, shape, generator=generator, device=device)
    input_ids[:, : -sample.num_words] = config.image_token_id
    labels = input_ids.clone()
    labels[:, : -(sample.num_words // 2)] = IGNORED
    # A mask without a gap makes transformers look for no packed samples, and then drop it for plain causal attention.
    inputs: dict[str, Any] = {"input_ids": input_ids, "labels": labels, "attention_mask": torch.ones_like(input_ids)}
    if kind.grid:
        pixels = (count * sample.num_tiles, 3, side, side)
        inputs["pixel_values"] = torch.randn(pixels, generator=generator, device=device, dtype=torch.bfloat16)
        inputs["block_sizes"] = [kind.grid] * count
    return inputs


def workload(config: NVILAConfig, row: Row, kind: Kind, count: int, train: tuple[Part, ...]) -> Workload:
    """A step of `count` samples, for the plan."""
    sample, precision = sample_of(config, kind), row.precision
    fp8_parts = ("vision", "llm") if precision.vision else ("llm",)
    return Workload(
        tokens_per_step=count * sample.num_tokens,
        tiles_per_step=count * sample.num_tiles,
        projected_tiles_per_step=count * sample.num_projected,
        sample_length=sample.num_tokens,
        trainable=train,
        checkpointing=checkpointed(row, train),
        optimizer="fp8" if row.fp8_states else "adamw",
        weights="bf16",
        fp8_linears=fp8_parts if precision.linears != "none" else (),
        fp8_activations=fp8_parts if precision.inputs else (),
        learned_share=(sample.num_words // 2) / sample.num_tokens,
    )


def checkpointed(row: Row, train: tuple[Part, ...]) -> tuple[Part, ...]:
    """Parts whose layers run again: those that gradients pass through."""
    parts: tuple[Part, ...] = ("vision", "llm") if "vision" in train else ("llm",)
    return parts if row.checkpointing else ()


class Measured(NamedTuple):
    """Of steps on batches of one kind; `peak` is the most bytes that tensors took."""

    seconds: float
    loss: float
    peak: float


class Trial:
    """The learner and the optimizer of one row, on the device."""

    def __init__(self, config: NVILAConfig, row: Row, options: argparse.Namespace) -> None:
        self.config, self.row, self.train = config, row, options.train
        self.device = torch.device(options.device)
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        with self.device:
            model = NVILAForConditionalGeneration(config)
            self.learner = Learner(model, DenseHead((), config.vision_config.hidden_size)).train()
        torch.set_default_dtype(torch.float32)
        if row.precision != PrecisionOptions():
            print(apply_precision(model, row.precision).summary(), file=sys.stderr)
        if options.compile:
            compile_layers(model)
        stage = Stage(
            name="benchmark", mixture="none", steps=1, loss="token", train=self.train, dense_weight=0.0,
            gradient_checkpointing=checkpointed(row, self.train), learning_rate=1e-5, weight_decay=0.0,
        )  # fmt: skip
        prepare(self.learner, stage)
        self.weights = [weight for weight in self.learner.parameters() if weight.requires_grad]
        groups = parameter_groups(self.learner, stage)
        self.optimizer: torch.optim.Optimizer = (
            Fp8AdamW(groups, betas=ADAM_BETAS, compiled=options.compile)
            if row.fp8_states
            else torch.optim.AdamW(groups, betas=ADAM_BETAS, fused=True)
        )

    def step(self, inputs: dict[str, Any]) -> float:
        """The loss; waits for all of the step, the update too."""
        loss = self.learner(**inputs)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())

    def measure(self, kind: Kind, count: int, num_steps: int) -> Measured:
        """`num_steps` steps behind one that warms up; with 0 this one."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        inputs = make_batch(self.config, kind, count, self.device)
        times = []
        for _ in range(1 + num_steps):
            started = time.perf_counter()
            loss = self.step(inputs)
            times.append(time.perf_counter() - started)
        peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else self.planned(kind, count)
        return Measured(statistics.median(times[1:] or times), loss, float(peak))

    def plan(self, kind: Kind, count: int) -> Estimate:
        return estimate(self.config, workload(self.config, self.row, kind, count, self.train))

    def planned(self, kind: Kind, count: int) -> int:
        return self.plan(kind, count).memory.total

    def clear(self) -> None:
        """Gives back what a step that ran out of memory had left."""
        self.optimizer.zero_grad()
        gc.collect()
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether the device had no memory left, be it under the compiler, which wraps the error in its own."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower():
            return True
        if "ALLOC_FAILED" in str(error):  # cuBLAS and cuDNN, for their workspaces
            return True
        error = error.__cause__ or error.__context__
    return False


def try_batch(trial: Trial, kind: Kind, count: int, num_steps: int) -> Measured | None:
    """`Trial.measure`; None where it does not fit."""
    compiler_broke = False
    try:
        return trial.measure(kind, count, num_steps)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        compiler_broke = not isinstance(error, torch.OutOfMemoryError)
    # Out of the handler, or else the error's traceback would keep the step's tensors.
    if compiler_broke:
        torch.compiler.reset()
    trial.clear()
    return None


def next_batch(good: dict[int, float], bad: int | None, limit: float, largest: int) -> int | None:
    """The batch to try next, None at the end: `good` are those that fit with their bytes, `bad` the least that did not.

    Begins at 2 (a compiler makes code of its own for 1), doubles, then follows the line through the two largest good
    ones, and halves what is left up to the bad one. Past 32 it is content within a sixteenth.
    """
    if not good:
        return min(2, largest) if bad is None else (bad // 2 or None)
    best = max(good)
    top = largest if bad is None else min(largest, bad - 1)
    if top - best < max(1, best // 16 if best >= 32 else 1):
        return None
    guess = 2 * best
    if len(good) > 1:
        before = sorted(good)[-2]
        slope = max(1.0, (good[best] - good[before]) / (best - before))
        guess = best + int((limit - good[best]) / slope)
    if bad is not None and guess >= bad:
        guess = (best + bad) // 2
    return min(top, max(best + 1, guess))


def largest_batch(
    peak_of: Callable[[int], float | None], limit: float, largest: int, has_time: Callable[[], bool]
) -> tuple[int, bool]:
    """The largest batch for which `peak_of` gives bytes, 0 for none, and whether the search came to its end."""
    good: dict[int, float] = {}
    bad: int | None = None
    while (count := next_batch(good, bad, limit, largest)) is not None:
        if not has_time():
            return max(good, default=0), False
        peak = peak_of(count)
        if peak is None or peak > limit:
            bad = count
        else:
            good[count] = peak
    return max(good, default=0), True


def rates_of(trial: Trial, mix: tuple[Kind, ...], count: int, found: list[Measured]) -> dict[str, Any]:
    """What a row reports: of training on the mix, in batches of `count` samples of one kind."""
    bf16, fp8 = peaks(trial.device)
    shares = [kind.share for kind in mix]
    samples = [sample_of(trial.config, kind) for kind in mix]
    plans = [trial.plan(kind, count) for kind in mix]

    def mean(values: Iterable[float]) -> float:
        return sum(share * value for share, value in zip(shares, values, strict=True))

    seconds = mean(one.seconds for one in found)
    at_peak = mean(sum(entry.total / (fp8 if entry.fp8 else bf16) for entry in plan.flops) for plan in plans)
    useful = mean(sum(entry.forward + entry.backward for entry in plan.flops) for plan in plans)
    return {
        "seconds_per_step": round(seconds, 4),
        "ceiling_seconds_per_step": round(at_peak, 4),
        "ceiling_share": round(at_peak / seconds, 4),
        "mfu": round(useful / seconds / bf16, 4),
        "tokens_per_s": round(count * mean(sample.num_tokens for sample in samples) / seconds, 1),
        "samples_per_s": round(count / seconds, 3),
        "tiles_per_s": round(count * mean(sample.num_tiles for sample in samples) / seconds, 1),
        "peak_gb": round(max(one.peak for one in found) / 1e9, 3),
        "planned_gb": round(max(plan.memory.total for plan in plans) / 1e9, 3),
        "losses": [round(one.loss, 3) for one in found],
    }


def peaks(device: torch.device) -> tuple[float, float]:
    """FLOP/s in bf16 and in FP8; the same where the device is not known to have FP8."""
    bf16 = peak_flops(device, measure=True)
    assert bf16 is not None
    name = torch.cuda.get_device_name(device).lower() if device.type == "cuda" else ""
    gpu = next((gpu for key, gpu in GPUS.items() if key in name.replace(" ", "")), None)
    return bf16, bf16 if gpu is None else bf16 * gpu.fp8 / gpu.bf16


class Search:
    """The largest batch of a row, and its rates; the file `options.result` always holds what is known."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.started = time.time()
        self.options = options
        self.mix = MIXES[options.samples]
        self.limit = options.memory_gb * 1e9
        self.tried: dict[int, float | None] = {}
        self.known: dict[str, Any] = {}
        self.step_seconds = 0.0
        self.save("cut before any batch had run")
        device = torch.device(options.device)
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(min(1.0, self.limit / torch.cuda.mem_get_info()[1]))
        config = make_config(options.architectures[0], options.layers, options.quick)
        self.trial = Trial(config, table_rows(fp8_vision=options.fp8_vision)[options.one], options)
        self.by_size = sorted(self.mix, key=lambda kind: self.trial.planned(kind, 1), reverse=True)

    def run(self) -> None:
        """Finds the batch by the kind that needs most memory, then measures all kinds at it."""
        count, ended = largest_batch(self.peak_of, self.limit, self.options.largest, self.has_time)
        if not count:
            self.save("does not fit" if ended else "cut before any batch had run")
            return
        self.known = {"batch": count, "step_seconds": {}}
        found: dict[str, Measured] = {}
        for done, kind in enumerate(self.by_size):
            measured = try_batch(self.trial, kind, count, self.num_steps(len(self.mix) - done))
            if measured is None:
                self.save(f"failed: {kind.name} ran out of memory at the batch that was found")
                return
            found[kind.name] = measured
            self.known["step_seconds"][kind.name] = round(measured.seconds, 4)
            self.step_seconds = measured.seconds
            self.save("cut before all kinds were measured")
        self.known |= rates_of(self.trial, self.mix, count, [found[kind.name] for kind in self.mix])
        self.save("measured" if ended else "measured; the search was cut, a larger batch may fit")

    def num_steps(self, kinds_left: int) -> int:
        """As many as there is time for; a kind takes at most as long as the one before."""
        if not self.step_seconds:
            return int(self.options.steps)
        most = int((self.options.until - time.time()) / kinds_left / self.step_seconds) - 1
        return max(1, min(self.options.steps, most))

    def peak_of(self, count: int) -> float | None:
        """Bytes of a step of so many samples; on a CPU, where nothing tells what is free, by the plan."""
        kind = self.by_size[0]
        if self.trial.device.type == "cpu":
            peak: float | None = float(self.trial.planned(kind, count))
        else:
            found = try_batch(self.trial, kind, count, 0)
            peak = None if found is None else found.peak
            self.step_seconds = self.step_seconds if found is None else found.seconds
        self.tried[count] = None if peak is None else round(peak / 1e9, 3)
        self.save("cut in the search")
        return peak

    def has_time(self) -> bool:
        """A search takes at most half of the row's time, the rest is for measuring."""
        return time.time() < (self.started + self.options.until) / 2

    def save(self, state: str) -> None:
        """`state` is what is true if nothing follows."""
        seconds = round(time.time() - self.started, 1)
        result = {"state": state, **self.known, "tried_gb": self.tried, "seconds": seconds}
        atomic_write_text(Path(self.options.result), json.dumps(result))
