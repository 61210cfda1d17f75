"""Memory and speed of fine-tuning by what learns: the rows of the paper's Table 5, and plain peft beside them.

Whole steps (forward, backward, clipping, AdamW) with one sample on random weights, without gradient checkpointing
unless a row's name says so; rank 16. The projector learns whole, as `nvila finetune` has it by default, or not at all
with `--projector frozen`, as in the paper's rows, which name tower and decoder alone. On a GPU the model is 8B unless
--architecture names another; on a CPU it is a small one, whose numbers say nothing of 8B. `lora-lora`, `ln-lora`,
`full-lora` and so on name tower and decoder. The sample has one tile and --tokens tokens; rows on `-s2` have 14 tiles
and 3,100 tokens (Dynamic-S2) and run layers twice. The peer is peft's LoRA on the same matrices, the projector whole,
in transformers' Trainer.

Ceilings: the operations of a step at the device's matrix rate (operations are counted, `train.finetune.measure`), and
the bytes that are counted for it before anything is made. Memory of a row is the most that tensors took on a GPU; on a
CPU what is counted. GB are 1e9 bytes. Each row is a process of its own. The last line is JSON.

    python benchmarks/bench_finetune.py --device cuda [--rows ln-lora ln-qlora] [--out finetune.json]
    python benchmarks/bench_finetune.py --count --architecture 8b --projector frozen    # bytes alone, anywhere
    python benchmarks/bench_finetune.py --quick
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from own_process import in_own_process

from nvila.adapters.options import AdapterOptions
from nvila.adapters.tune import attach, lora_pattern
from nvila.eval.runner import processor_name
from nvila.model import NVILAConfig, NVILAForConditionalGeneration, s2
from nvila.processing.chat import IGNORED
from nvila.train.dense import DenseHead
from nvila.train.finetune.measure import count_parts, count_step, usual_grids
from nvila.train.finetune.plan import ADAM_BYTES
from nvila.train.learner import Learner
from nvila.train.meter import measured_flops, peak_flops
from nvila.train.plan.published import architecture
from nvila.train.recipe import Part, Stage
from nvila.train.stages import prepare
from nvila.train.trainer import ADAM_BETAS, parameter_groups
from nvila.utils.atomic import atomic_write_text

PAPER = {
    "lora-lora": (20.1, 3.4),
    "ln-lora": (19.2, 4.5),
    "full-lora": (21.9, 4.2),
    "lora-qlora": (11.1, 2.6),
    "ln-qlora": (10.2, 3.1),
    "full-full": (63.5, 6.1),
}
"""GB and iterations a second on an A100, with samples of unnamed size."""
PEER = "peft"
ROWS = ("lora-lora", PEER, "ln-lora", "ln-qlora", "lora-qlora", "full-lora", "full-full", "ln-lora-s2", "ln-qlora-s2")
S2_TILES, S2_TOKENS = 14, 3100
LIMITS = {"ln-lora": 19.2, "ln-qlora": 10.2, "ln-lora-s2": 24.0, "ln-qlora-s2": 24.0}
"""GB that the targets allow."""
FASTER = 1.25
PARTS: dict[str, tuple[Part, ...]] = {"full": ("vision", "projector", "llm"), "frozen": ("vision", "llm")}
"""What learns, by the option for the projector."""


def make_config(name: str) -> NVILAConfig:
    """The architecture with torch's attention, and an id for placeholders."""
    found = architecture(name)
    config = found.config()
    config._attn_implementation = "sdpa"
    config.image_token_id = config.text_config.vocab_size  # no word has it
    return config


def adapters_of(row: str) -> AdapterOptions:
    """The options of a row named TOWER-DECODER; frozen weights are bf16."""
    vision, language, *_ = ("lora-lora" if row == PEER else row).split("-")
    return AdapterOptions(vision=vision, language=language, frozen_dtype="bfloat16")  # type: ignore[arg-type]


def stage_of(row: str, projector: str) -> Stage:
    """What a row trains."""
    again: tuple[Part, ...] = ("vision", "llm") if row.endswith("-s2") else ()
    return Stage(
        name="benchmark", mixture="none", steps=1, loss="token", train=PARTS[projector], dense_weight=0.0,
        weight_decay=0.0, learning_rate=1e-5, gradient_checkpointing=again,
    )  # fmt: skip


def make_learner(config: NVILAConfig, row: str, projector: str, device: torch.device) -> Learner:
    """Random weights with the row's adapters, on `device` (which may be `meta`)."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with device:
        model = NVILAForConditionalGeneration(config)
        torch.set_default_dtype(torch.float32)
        attach(model, adapters_of(row))
        learner = Learner(model, DenseHead((), config.vision_config.hidden_size))
    prepare(learner, stage_of(row, projector), adapters=adapters_of(row))
    return learner.to(device).train()


def make_sample(model: Any, row: str, tokens: int, device: torch.device) -> dict[str, Any]:
    """One picture and random words, the second half of which is learned."""
    is_s2 = row.endswith("-s2")
    grids = usual_grids(model, S2_TILES if is_s2 else 1)
    generator = torch.Generator(device).manual_seed(0)
    num_tiles = sum(map(model.num_image_tiles, grids))
    num_visual = num_visual_tokens(model, grids)
    length = max(S2_TOKENS if is_s2 else tokens, num_visual + 16)
    side, words = model.config.tile_size, length - num_visual
    ids = torch.randint(model.config.text_config.vocab_size, (1, length), generator=generator, device=device)
    ids[:, :num_visual] = model.config.image_token_id
    labels = ids.clone()
    labels[:, : -(words // 2)] = IGNORED
    pixels = torch.randn((num_tiles, 3, side, side), generator=generator, device=device)
    mask = torch.ones_like(ids)
    return {"input_ids": ids, "labels": labels, "attention_mask": mask, "pixel_values": pixels, "block_sizes": grids}


def num_visual_tokens(model: Any, grids: list[s2.Grid]) -> int:
    """Placeholders of pictures with these grids."""
    visual, found = model.visual, 0
    for rows, columns in grids:
        tiles = rows * columns
        if visual.image_mode == "dynamic_s2" and tiles > 1:
            scales = s2.scale_grids(visual.s2_scales, (rows, columns))
            high, wide = scales[visual.s2_resize_output_to_scale_idx]
            tiles = high * wide
        found += tiles * visual.tokens_per_tile
    return found


def counted(config: NVILAConfig, row: str, projector: str, tokens: int) -> dict[str, Any]:
    """Bytes by component and operations of a row's step, on tensors without memory."""
    learner = make_learner(config, row, projector, torch.device("meta"))
    model = learner.model
    length = S2_TOKENS if row.endswith("-s2") else tokens
    tiles = S2_TILES if row.endswith("-s2") else 1
    parts = count_parts(learner)
    head: Any = model.get_output_embeddings().weight
    flops_head = (6.0 if head.requires_grad else 4.0) * head.numel() * length / 2
    step = count_step(learner, tokens=length, tiles=tiles, bf16=True)
    memory = {
        "weights": sum(part.weight_bytes for part in parts.values()),
        "gradients": sum(part.trained_bytes for part in parts.values()),
        "optimizer": ADAM_BYTES * sum(part.trained for part in parts.values()),
        "activations": step.vision + step.projector + step.llm,
    }
    return {"memory": memory, "flops": step.flops_media + step.flops_text + flops_head}


def run_row(config: NVILAConfig, row: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measures a row in this process: seconds of a step, and on a GPU the most bytes."""
    device = torch.device(options.device)
    if row == PEER:
        return with_peak(device, lambda: peer_seconds(config, options, device))
    learner = make_learner(config, row, options.projector, device)
    sample = make_sample(learner.model, row, options.tokens, device)
    weights = [weight for weight in learner.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        parameter_groups(learner, stage_of(row, options.projector)), betas=ADAM_BETAS, fused=True
    )

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = learner(**sample)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return with_peak(device, lambda: [timed(step, device) for _ in range(options.steps + 2)][2:])


def timed(step: Callable[[], None], device: torch.device) -> float:
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # the step is what is timed, not its launch
    return time.perf_counter() - began


def with_peak(device: torch.device, measure: Callable[[], list[float]]) -> dict[str, Any]:
    """Seconds of a step by `measure`, and the most bytes that tensors took on a GPU, loading left out."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    taken = measure()
    found: dict[str, Any] = {"seconds": statistics.median(taken), "state": "measured"}
    if device.type == "cuda":
        found["peak_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 3)
    return found


def peer_seconds(config: NVILAConfig, options: argparse.Namespace, device: torch.device) -> list[float]:
    """Seconds of steps of peft's LoRA on the matrices of `lora-lora`, the projector whole, in transformers' Trainer."""
    import peft
    from transformers import Trainer, TrainerCallback, TrainingArguments

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with device:
        model = NVILAForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    sample = make_sample(model, PEER, options.tokens, torch.device("cpu"))
    found = adapters_of(PEER)
    lora = peft.LoraConfig(
        r=found.rank,
        lora_alpha=found.alpha,
        target_modules=lora_pattern(config, found),
        modules_to_save=["mm_projector"],
    )
    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            marks.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=1, max_steps=options.steps + 2, bf16=True, report_to=[],
            save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=device.type == "cpu",
            remove_unused_columns=False, label_names=["labels"],
        )  # fmt: skip
        trainer = Trainer(
            model=peft.get_peft_model(model, lora),
            args=args,
            train_dataset=[sample] * (options.steps + 2),  # type: ignore[arg-type]
            data_collator=lambda samples: dict(samples[0]),
            callbacks=[Clock()],
        )
        trainer.train()
    return [second - first for first, second in pairwise(marks[1:])]


def judged(rows: dict[str, Any], *, is_8b: bool) -> dict[str, str]:
    """Of each target: met, not met, or not run on this device."""
    found = {}
    for name, limit in LIMITS.items():
        peak = rows.get(name, {}).get("peak_gb")
        if not is_8b or (peak is None and "failed" not in rows.get(name, {})):
            state = "not run on this device"
        else:
            state = "met" if peak is not None and peak <= limit else "not met"
        found[f"8B {name} within {limit:g} GB"] = state
    pair = [rows.get(name, {}).get("iterations_per_s") for name in ("ln-lora", "lora-lora")]
    known = is_8b and None not in pair
    met = known and pair[0] >= FASTER * pair[1]
    found[f"8B ln-lora at {FASTER:g} times lora-lora"] = (
        ("met" if met else "not met") if known else "not run on this device"
    )
    return found


def table(options: argparse.Namespace) -> dict[str, Any]:
    """All rows, each in its process, the report so far written after each."""
    device = torch.device(options.device)
    rate = peak_flops(device) or measured_flops(device)
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    print(f"{hardware}: {rate / 1e12:.3g} TFLOP/s bf16 (the ceiling); {options.architecture}")
    config = make_config(options.architecture)
    names = [row for row in options.rows if row != PEER or (find_spec("peft") and not options.count)]
    report: dict[str, Any] = {
        "benchmark": "finetune",
        "architecture": options.architecture,
        "memory_is": "measured" if device.type == "cuda" and not options.count else "counted",
        "projector": options.projector,
        "tokens": options.tokens,
        "steps": options.steps,
        "peak_tflops": round(rate / 1e12, 4),
        "paper": PAPER,
        "hardware": hardware,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft") if find_spec(name)},
        "seed": 0,
        "date": str(date.today()),
        "rows": {},
    }
    for row in names:
        given = [
            f"--{name}={vars(options)[name]}" for name in ("device", "architecture", "projector", "tokens", "steps")
        ]
        quick = ["--quick"] if options.quick else []
        found = {"state": "counted"} if options.count else in_own_process(__file__, "--one", row, *given, *quick)
        report["rows"][row] = found
        plan = {} if row == PEER else counted(config, row, options.projector, options.tokens)
        if plan:
            found["counted_gb"] = {name: round(size / 1e9, 5) for name, size in plan["memory"].items()}
        if "seconds" in found:
            found["iterations_per_s"] = round(1 / found["seconds"], 4)
        if "seconds" in found and plan:
            found["ceiling_share"] = round(plan["flops"] / rate / found["seconds"], 4)
        print_row(row, found)
        if options.out:
            atomic_write_text(Path(options.out), json.dumps(report, indent=1) + "\n")
    report["targets"] = judged(report["rows"], is_8b=options.architecture == "8b" and device.type == "cuda")
    for target, state in report["targets"].items():
        print(f"{state}: {target}")
    if options.out:
        atomic_write_text(Path(options.out), json.dumps(report, indent=1) + "\n")
    return report


def print_row(row: str, found: dict[str, Any]) -> None:
    paper = f"  paper {PAPER[row][0]:.1f} GB {PAPER[row][1]:.1f} it/s" if row in PAPER else ""
    memory = f"counted {sum(found['counted_gb'].values()):8.4f} GB" if "counted_gb" in found else " " * 19
    peak = f"  most {found['peak_gb']:7.3f} GB" if "peak_gb" in found else ""
    speed = f"{found['iterations_per_s']:8.2f} it/s" if "seconds" in found else found.get("failed", "not run")
    share = f"  {found['ceiling_share']:.1%} of the ceiling" if "ceiling_share" in found else ""
    print(f"{row:12s} {memory}{peak}  {speed}{share}{paper}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest model on the CPU, to see that it runs")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--architecture", help="by default 8b on a GPU and mini on a CPU; 2b, 15b and others")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--projector", choices=PARTS, default="full", help="whether it learns whole or not at all")
    parser.add_argument("--count", action="store_true", help="only count bytes and operations, without weights")
    parser.add_argument("--tokens", type=int, default=300, help="of the sample with one tile")
    parser.add_argument("--steps", type=int, default=10, help="timed, behind two that warm up")
    parser.add_argument("--out", help="file that is written after every row")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.device, options.steps, options.architecture = "cpu", 2, "nano"
    if options.architecture is None:
        options.architecture = "8b" if options.device == "cuda" else "mini"
    return options


def main() -> None:
    options = parse()
    if options.one:
        config = make_config(options.architecture)
        print(json.dumps(run_row(config, options.one, options)))
    else:
        print(json.dumps(table(options)))


if __name__ == "__main__":
    main()
