"""How much of the machine's matrix rate a training step of the small model reaches.

A step is forward, backward, clipping and AdamW on batches that are ready before the clock starts: packed rows of the
corpus in the package. The ceiling is the best rate of a plain square bf16 product in the same run, before and after;
operations are those of the plan (`nvila.train.plan`), which tests compare with counted ones. The peer is the same model
by transformers alone: padded rows, torch's attention, all logits, float32 or autocast. Medians over batches, in turns.
The last line is JSON.

    python benchmarks/bench_train_step.py [--threads 2] [--batches 8] [--compile] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from importlib.resources import files
from itertools import islice
from typing import Any

import torch
import transformers

from nvila.data.encode import EncodeOptions, SampleEncoder
from nvila.data.mixture import Mixture, MixtureConfig, SourceConfig
from nvila.model import NVILAForConditionalGeneration
from nvila.processing import NVILAProcessor
from nvila.train.dense import DenseHead
from nvila.train.feed import MixtureFeed
from nvila.train.learner import Learner, compile_layers
from nvila.train.meter import StepCounts, measured_flops
from nvila.train.recipe import Batches, Stage
from nvila.train.trainer import ADAM_BETAS, flops_of, parameter_groups

SEED = 0
ROWS, MAX_TOKENS = 4, 1280
Step = Callable[[dict[str, Any]], None]


def load(attention: str) -> NVILAForConditionalGeneration:
    model = NVILAForConditionalGeneration.from_pretrained(
        "nvila-mini", dtype=torch.float32, attn_implementation=attention
    )
    return model.train()


def make_batches(count: int, *, pack: bool) -> list[dict[str, Any]]:
    """Batches of the package's corpus: rows of MAX_TOKENS that samples share, or as many samples padded."""
    folder = str(files("nvila") / "assets" / "corpus" / "train")
    mixture = Mixture.open(MixtureConfig(name="bench", source=(SourceConfig(name="corpus", path=folder),)))
    processor = NVILAProcessor.from_pretrained("nvila-mini")
    encoder = SampleEncoder(processor, EncodeOptions(max_tokens=MAX_TOKENS, too_long="truncate", num_frames=4))
    rows = Batches(pack=True, micro_batch=ROWS, rows_per_step=ROWS, max_tokens=MAX_TOKENS, window=128)
    padded = Batches(pack=False, micro_batch=2 * ROWS, global_batch=2 * ROWS, max_tokens=MAX_TOKENS)
    pad_id = processor.tokenizer.pad_token_id
    feed = MixtureFeed(mixture, encoder, rows if pack else padded, seed=SEED, pad_id=pad_id)
    return list(islice(feed.loader(0), count))


def stepper(forward: Callable[[dict[str, Any]], torch.Tensor], learner: Learner, *, bf16: bool) -> Step:
    """A training step around `forward`, which gives the loss."""
    stage = Stage(name="bench", mixture="bench", steps=1, loss="token", dense_weight=0.0)
    groups = parameter_groups(learner, stage)
    optimizer = torch.optim.AdamW(groups, lr=1e-5, betas=ADAM_BETAS, fused=True)

    def step(batch: dict[str, Any]) -> None:
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            loss = forward(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def make_learner(attention: str = "segments", *, compiled: bool = False) -> Learner:
    model = load(attention)
    learner = Learner(model, DenseHead((), model.config.vision_config.hidden_size))
    learner.loss, learner.dense_weight = "token", 0.0
    learner.dense_head.requires_grad_(False)
    learner.grounding_head.requires_grad_(False)
    if compiled:
        compile_layers(model)
    return learner


def inputs_of(batch: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in batch.items() if key != "notes"}


def contenders(compiled: bool) -> dict[str, tuple[Step, bool]]:
    """The steps by name, each with whether its rows are packed."""
    ours = make_learner()
    found = {"ours": (stepper(lambda batch: ours(**inputs_of(batch))["loss"], ours, bf16=True), True)}
    if compiled:
        faster = make_learner(compiled=True)
        found["ours, compiled"] = (stepper(lambda batch: faster(**inputs_of(batch))["loss"], faster, bf16=True), True)
    for name, bf16 in (("transformers", True), ("transformers, float32", False)):
        peer = make_learner("sdpa")
        found[name] = (stepper(lambda batch, peer=peer: peer.model(**inputs_of(batch)).loss, peer, bf16=bf16), False)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="two batches: does it run?")
    parser.add_argument("--compile", action="store_true", help="ours with compiled layers as well; takes minutes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    count = 2 if options.quick else options.batches
    batches = {pack: make_batches(count, pack=pack) for pack in (True, False)}
    stage = Stage(name="bench", mixture="bench", steps=1, loss="token", dense_weight=0.0)
    flops = flops_of(make_learner(), stage)
    steps = contenders(options.compile)
    ceiling = [measured_flops(torch.device("cpu"), size=2048)]
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(2):  # the first round warms up and compiles
        for number in range(count):
            for name, (step, pack) in steps.items():
                began = time.perf_counter()
                step(batches[pack][number])
                if round_number:
                    seconds[name].append(time.perf_counter() - began)
    ceiling.append(measured_flops(torch.device("cpu"), size=2048))
    rows = {}
    print(f"ceiling: {max(ceiling) / 1e9:.0f} GFLOP/s, a bf16 product of 2048 x 2048")
    for name, (_, pack) in steps.items():
        rates, shares = [], []
        for taken, batch in zip(seconds[name], batches[pack], strict=True):
            notes = batch["notes"]
            counts = StepCounts(
                tokens=notes.num_tokens, learned_tokens=notes.num_learned, tiles=notes.num_tiles, samples=0
            )
            rates.append(notes.num_tokens / taken)
            shares.append(flops(counts) / taken / max(ceiling))
        rows[name] = {"tokens_per_s": round(statistics.median(rates)), "mfu": round(statistics.median(shares), 3)}
        print(f"{name:24} {rows[name]['tokens_per_s']:8,} tokens/s  {rows[name]['mfu']:.1%} of the ceiling")
    report = {
        "ceiling_gflops": [round(rate / 1e9) for rate in ceiling],
        "rows": rows,
        "threads": options.threads,
        "batches": count,
        "seed": SEED,
        "machine": platform.processor() or platform.machine(),
        "num_cpus": os.cpu_count(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": str(date.today()),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
