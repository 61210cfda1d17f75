"""Training curves of a mini decoder in bf16, then with FP8 linear layers, FP8 kept inputs, and FP8 moments.

Equal weights at the start, equal batches, AdamW on float32 weights under bf16 autocast; only the precision differs. The
text is made here from a small grammar: names, drawn some often and most rarely, and facts about them, so there is much
to learn, all of it gradually, and a floor that nothing can go below. (Text with sums of two numbers, which are learned
all at once or not yet, told nothing: runs of bf16 ended 5 % apart.) Writes the curves as JSON, and as a PNG where
matplotlib is installed.

    python reproduction/fp8_curves.py --out reproduction/results/fp8_curves.json   # 40 minutes on one core
    python reproduction/fp8_curves.py --quick --out /tmp/fp8_curves.json            # a minute

Two runs of bf16 that differ in the fourth digit of their first weights show how far apart runs end for no reason at
all. A run that was stopped is continued by the same command; every curve that is done is kept beside `--out`.
On a CPU the FP8 products are emulated: what is compared is numerics, never speed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tables import Results
from torch.nn import functional as F

from nvila.model import NVILAConfig, NVILAForConditionalGeneration
from nvila.train.precision.convert import apply_precision
from nvila.train.precision.optimizer import Fp8AdamW
from nvila.train.precision.options import PrecisionOptions
from nvila.train.precision.saved import saved_bytes
from nvila.utils.atomic import atomic_write_bytes, atomic_write_text

KEPT = {"inputs": True, "norms": True, "activations": True}
HELD_OUT_BATCHES = 8
ENTITIES = 3000
SYLLABLES = ("ba", "do", "fi", "gu", "ke", "lo", "ma", "ni", "pu", "ra", "se", "tu", "va", "wi", "yo", "ze")
VERBS = ("sees", "follows", "paints", "greets", "hears", "fears", "helps", "calls", "finds", "mocks", "asks", "leads")
PLACES = ("in the house", "by the river", "on the hill", "under the bridge", "near the mill", "at the gate", "at sea")
CURVE = ("losses", "last_loss", "held_out_loss", "kept_bytes", "seconds")


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How one curve multiplies and keeps, and what its optimizer's moments are."""

    options: PrecisionOptions
    has_fp8_moments: bool = False
    nudge: float = 0.0
    """By how much of itself each weight is changed at the start, at random."""


ALL_KEPT = PrecisionOptions(linears="tensorwise", min_features=32, **KEPT)
PRECISIONS = {
    "bf16": Precision(options=PrecisionOptions()),
    "bf16, weights nudged": Precision(options=PrecisionOptions(), nudge=1e-4),
    "FP8 linear layers": Precision(options=PrecisionOptions(linears="tensorwise", min_features=32)),
    "FP8 linear layers and kept inputs": Precision(options=ALL_KEPT),
    "FP8 linear layers, kept inputs and moments": Precision(options=ALL_KEPT, has_fp8_moments=True),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One curve's sizes; the decoder has `layers` layers of width `hidden`."""

    steps: int = 300
    batch: int = 16
    tokens: int = 128
    hidden: int = 256
    layers: int = 4
    learning_rate: float = 1e-3
    seed: int = 0


QUICK = Run(steps=40, batch=8, tokens=64, hidden=64, layers=2)


def train(run: Run, precision: Precision) -> dict[str, Any]:
    """Losses of every step, the smoothed last one, the held-out one, the bytes kept and the seconds of one run."""
    model = make_model(run)
    with torch.no_grad():
        for weight in model.llm.parameters():
            weight.mul_(1.0 + precision.nudge * torch.randn_like(weight))
    apply_precision(model, precision.options)
    decoder = list(model.llm.parameters())
    adamw = Fp8AdamW if precision.has_fp8_moments else torch.optim.AdamW
    optimizer = adamw(decoder, lr=run.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, run.steps))
    batches, losses, started = make_batches(run, run.seed), [], time.monotonic()
    kept = saved_bytes(lambda: loss_of(model, next(make_batches(run, run.seed))), model.parameters())
    for _ in range(run.steps):
        loss = loss_of(model, next(batches))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    tail = losses[-max(1, run.steps // 10) :]
    return {
        "losses": [round(loss, 4) for loss in losses],
        "last_loss": sum(tail) / len(tail),
        "held_out_loss": held_out_loss(model, run),
        "kept_bytes": kept,
        "seconds": round(time.monotonic() - started, 1),
    }


def rate(step: int, steps: int) -> float:
    """A linear warm-up, then half a cosine to 0: where the rate stays high, two seeds of bf16 end further apart than
    two precisions."""
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))


def loss_of(model: NVILAForConditionalGeneration, ids: torch.Tensor) -> torch.Tensor:
    """The mean loss () of the next byte, for ids (batch, tokens); bf16 products, float32 softmax."""
    with torch.autocast(ids.device.type, dtype=torch.bfloat16):
        logits = model.llm(input_ids=ids[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: NVILAForConditionalGeneration, run: Run) -> float:
    """On text that no run trains on; without FP8 kept inputs, as nothing is kept."""
    batches = make_batches(run, run.seed + 1_000_003)
    return sum(loss_of(model, next(batches)).item() for _ in range(HELD_OUT_BATCHES)) / HELD_OUT_BATCHES


def make_model(run: Run) -> NVILAForConditionalGeneration:
    """A mini NVILA from `run.seed`; its vision tower is as small as can be and not used."""
    vision = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    text = {
        "model_type": "qwen2",
        "hidden_size": run.hidden,
        "num_hidden_layers": run.layers,
        "num_attention_heads": max(2, run.hidden // 64),
        "num_key_value_heads": max(1, run.hidden // 128),
        "intermediate_size": run.hidden * 11 // 4 // 16 * 16,
        "vocab_size": 260,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    }
    config = NVILAConfig(
        {**vision, "image_size": 28, "patch_size": 14, "vision_use_head": False},
        text,
        image_mode="resize",
        image_token_id=258,
        video_token_id=259,
    )
    torch.manual_seed(run.seed)
    return NVILAForConditionalGeneration(config).train()


def make_batches(run: Run, seed: int) -> Iterator[torch.Tensor]:
    """Endless ids (batch, tokens + 1), bytes of text from `seed`; the facts in it are the same for all seeds."""
    rng, text = random.Random(seed), b""
    size = run.batch * (run.tokens + 1)
    while True:
        while len(text) < size:
            text += sentence(rng).encode()
        yield torch.frombuffer(bytearray(text[:size]), dtype=torch.uint8).long().view(run.batch, -1)
        text = text[size:]


def sentence(rng: random.Random) -> str:
    """Who does what to whom where: who and whom are random, some often and most rarely; the rest are their facts."""
    first, second = (int(ENTITIES ** rng.random()) for _ in range(2))
    return f"{name(first)} {VERBS[first * 7 % len(VERBS)]} {name(second)} {PLACES[second * 11 % len(PLACES)]}. "


def name(number: int) -> str:
    """Syllables, one a digit."""
    last = SYLLABLES[number % len(SYLLABLES)]
    return name(number // len(SYLLABLES)) + last if number >= len(SYLLABLES) else last


def report(run: Run, seeds: list[int], results: Results) -> dict[str, Any]:
    """All curves for all seeds, and how far each ends from bf16, in percent of its loss, in the mean and by seed."""
    curves: dict[str, list[dict[str, Any]]] = {name: [] for name in PRECISIONS}
    for seed in seeds:
        for name, precision in PRECISIONS.items():
            row = name.replace(" ", "-").replace(",", "")
            known = results.load(row, seed) or results.save(row, seed, train(replace(run, seed=seed), precision))
            curves[name].append({key: known[key] for key in CURVE})
    ends = {
        name: {key: sum(curve[key] for curve in of_seeds) / len(seeds) for key in ("last_loss", "held_out_loss")}
        for name, of_seeds in curves.items()
    }
    base = ends["bf16"]
    gaps = {name: {key: round(100 * (end[key] / base[key] - 1), 3) for key in end} for name, end in ends.items()}
    by_seed = {
        name: [round(100 * (one["held_out_loss"] / of_bf16["held_out_loss"] - 1), 3) for one, of_bf16 in pairs]
        for name, pairs in ((name, zip(found, curves["bf16"], strict=True)) for name, found in curves.items())
    }
    return {
        "run": asdict(run),
        "seeds": seeds,
        "precisions": {name: asdict(precision) for name, precision in PRECISIONS.items()},
        "gap_to_bf16_percent": gaps,
        "held_out_gap_by_seed_percent": by_seed,
        "curves": curves,
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads, products in FP8 emulated",
        "torch": torch.__version__,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }


def plot(result: dict[str, Any], path: Path) -> None:
    """Smoothed losses of the first seed by step; nothing where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no picture: matplotlib is not installed")
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, curves in result["curves"].items():
        axes.plot(smooth(curves[0]["losses"]), label=name, linewidth=1)
    axes.set(xlabel="step", ylabel="loss (nats a byte, smoothed)", yscale="log")
    axes.legend()
    figure.savefig(path.with_suffix(".part.png"), dpi=150)
    atomic_write_bytes(path, path.with_suffix(".part.png").read_bytes())
    path.with_suffix(".part.png").unlink()


def smooth(losses: list[float], factor: float = 0.9) -> list[float]:
    """The exponential moving average, corrected for its start."""
    average, smoothed = 0.0, []
    for count, loss in enumerate(losses, start=1):
        average = factor * average + (1 - factor) * loss
        smoothed.append(average / (1 - factor**count))
    return smoothed


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a run of seconds, to see that it works")
    parser.add_argument("--steps", type=int, help=f"steps a run (default {Run.steps})")
    parser.add_argument("--seeds", type=int, default=2, help="how many seeds (default 2)")
    parser.add_argument("--out", type=Path, default=Path("reproduction/results/fp8_curves.json"))
    chosen = parser.parse_args(arguments)
    run = QUICK if chosen.quick else Run()
    run = replace(run, steps=chosen.steps) if chosen.steps else run
    seeds = list(range(1 if chosen.quick else chosen.seeds))
    settings = {key: value for key, value in asdict(run).items() if key != "seed"}
    result = report(run, seeds, Results(chosen.out.with_suffix(""), settings))
    atomic_write_text(chosen.out, json.dumps(result) + "\n")
    plot(result, chosen.out.with_suffix(".png"))
    for name, gap in result["gap_to_bf16_percent"].items():
        first = result["curves"][name][0]
        figures = (
            f"last {first['last_loss']:.4f}, held out {first['held_out_loss']:.4f}, kept {first['kept_bytes']:,} B"
        )
        print(f"{name}: {figures}; to bf16 {gap['last_loss']:+.2f} % and {gap['held_out_loss']:+.2f} %")
    print(json.dumps({"out": str(chosen.out), "gap_to_bf16_percent": result["gap_to_bf16_percent"]}))


if __name__ == "__main__":
    main()
