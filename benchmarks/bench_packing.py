"""Packing against no packing and against first-fit: how full rows are, how even ranks, and what a training step makes.

The mixture is skewed: text of 50 to 300 tokens, pictures of 200 to 3,200, clips of 2,000 to 16,000; rows hold 16,384.
Three ways see the same samples in the same order: one sample a row padded to the longest of its batch, batches taking
as many samples as the budget of tokens allows; first-fit into 128 open rows; and ours. The ceiling is a fill of 100 %,
for the training step a row of one sample that fills it. The training step is a small decoder's, with every length
divided by `--shrink` so that it runs on a CPU; the tower's work is the same in all ways and left out. The last line is
JSON.

    python benchmarks/bench_packing.py [--quick] [--device cuda] [--attention sdpa] [--shrink 8] [--step-samples 120]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterable
from datetime import date
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers import __version__ as transformers_version

from nvila.data.collate import collate_packed, collate_padded
from nvila.data.encode import Encoded
from nvila.data.packing import Item, PackingOptions, RowPacker
from nvila.eval.runner import processor_name

BUDGET, RANKS, OPEN_ROWS, VOCABULARY = 16_384, 8, 128, 1024
SHARES = {"mixed": (0.6, 0.3, 0.1), "even": (0.34, 0.33, 0.33), "mostly text": (0.85, 0.12, 0.03)}
KINDS = ((50, 300, 0.0), (200, 3_200, 1 / 256), (2_000, 16_000, 1 / 64))
Rows = list[tuple[Item, ...]]


def make_mixture(seed: int, count: int, shares: tuple[float, float, float]) -> list[Item]:
    """Samples with their tokens and tiles (a tile every 256 tokens of a picture, a frame every 64 of a clip)."""
    rng = random.Random(seed)
    items = []
    for key in range(count):
        shortest, longest, density = rng.choices(KINDS, shares)[0]
        tokens = round(shortest + (longest - shortest) * rng.random() ** 2)
        items.append(Item(key, tokens, round(tokens * density)))
    return items


def no_packing(items: Iterable[Item], budget: int, num_ranks: int) -> Rows:
    """Batches (here: a row is a batch) whose samples, padded to the longest, fit the budget."""
    batches: Rows = []
    batch: list[Item] = []
    for item in items:
        longest = max(other.num_tokens for other in (*batch, item))
        if batch and longest * (len(batch) + 1) > budget:
            batches.append(tuple(batch))
            batch = []
        batch.append(item)
    return [*batches, tuple(batch)]


def first_fit(items: Iterable[Item], budget: int, num_ranks: int) -> Rows:
    """Every sample into the first open row with room; of more than `OPEN_ROWS` the oldest is closed."""
    closed: Rows = []
    rows: list[list[Item]] = []
    room: list[int] = []
    for item in items:
        place = next((index for index, free in enumerate(room) if free >= item.num_tokens), None)
        if place is None:
            if len(rows) == OPEN_ROWS:
                closed.append(tuple(rows.pop(0)))
                room.pop(0)
            rows.append([])
            room.append(budget)
            place = -1
        rows[place].append(item)
        room[place] -= item.num_tokens
    return closed + [tuple(row) for row in rows]


def best_fit(items: Iterable[Item], budget: int, num_ranks: int) -> Rows:
    """Ours, which plans the rows of a step together."""
    packer: RowPacker[Item] = RowPacker(PackingOptions(max_tokens=budget, rows_per_step=num_ranks))
    return [row for step in packer.pack(items) for row in step]


WAYS: dict[str, Callable[[Iterable[Item], int, int], Rows]] = {
    "no packing": no_packing,
    "first-fit": first_fit,
    "ours": best_fit,
}


def measure_plan(way: str, items: list[Item]) -> dict[str, float]:
    """Padding share of the rows, most tiles of a rank over the mean (summed over steps), and microseconds an item."""
    started = time.perf_counter()
    rows = WAYS[way](items, BUDGET, RANKS)
    seconds = time.perf_counter() - started
    if way == "no packing":
        area = sum(len(row) * max(item.num_tokens for item in row) for row in rows)
    else:
        area = len(rows) * BUDGET
    tiles = [sum(item.num_tiles for item in row) for row in rows]
    steps = [tiles[start : start + RANKS] for start in range(0, len(tiles), RANKS)]
    return {
        "padding_share": round(1 - sum(item.num_tokens for item in items) / area, 4),
        "tiles_max_over_mean": round(sum(max(step) for step in steps) * RANKS / sum(tiles), 3),
        "rows": len(rows),
        "us_per_item": round(1e6 * seconds / len(items), 1),
    }


def make_encoded(item: Item) -> Encoded:
    """Random text of the item's length, all of it learned."""
    ids = torch.randint(1, VOCABULARY, (item.num_tokens,), generator=torch.Generator().manual_seed(int(item.key)))
    return Encoded(id=str(item.key), input_ids=ids, labels=ids)


def make_batches(way: str, items: list[Item], budget: int) -> list[dict[str, Any]]:
    """The batches of a way, one row (or one padded batch) each."""
    rows = [[make_encoded(item) for item in row] for row in WAYS[way](items, budget, 1)]
    if way == "no packing":
        return [collate_padded(row, pad_id=0) for row in rows]
    return [collate_packed([row], pad_id=0, length=budget) for row in rows]


class Training:
    """A small decoder and its optimiser; `seconds` runs a step on each batch."""

    def __init__(self, device: str, attention: str) -> None:
        torch.manual_seed(0)
        config = Qwen2Config(
            hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=VOCABULARY, max_position_embeddings=BUDGET, use_cache=False,
        )  # fmt: skip
        self.device = device
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        self.model = Qwen2ForCausalLM(config).to(device, dtype).train()
        self.model.set_attn_implementation(attention)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-4)

    def seconds(self, batches: list[dict[str, Any]]) -> float:
        started = time.perf_counter()
        for batch in batches:
            inputs = {key: value.to(self.device) if torch.is_tensor(value) else value for key, value in batch.items()}
            self.model(**inputs).loss.backward()
            self.optimiser.step()
            self.optimiser.zero_grad()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started


def measure_steps(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Real tokens a second and padding share of training steps, a way after the other, `--repeats` times in turn."""
    budget = BUDGET // options.shrink
    mixture = make_mixture(1, options.step_samples, SHARES["mixed"])
    items = [Item(item.key, max(2, item.num_tokens // options.shrink)) for item in mixture]
    num_tokens = sum(item.num_tokens for item in items)
    batches = {way: make_batches(way, items, budget) for way in WAYS}
    full = -(-num_tokens // budget)
    batches["ceiling"] = [collate_packed([[make_encoded(Item(key, budget))]], pad_id=0) for key in range(full)]
    tokens = dict.fromkeys(WAYS, num_tokens) | {"ceiling": full * budget}
    training = Training(options.device, options.attention)
    for way in batches:
        training.seconds(batches[way][:1])
    times = {way: [training.seconds(batches[way])] for way in batches}
    for _ in range(options.repeats - 1):
        for way in batches:
            times[way].append(training.seconds(batches[way]))
    places = {way: sum(batch["input_ids"].numel() for batch in batches[way]) for way in batches}
    return {
        way: {
            "tokens_per_s": round(tokens[way] / statistics.median(times[way])),
            "padding_share": round(1 - tokens[way] / places[way], 4),
            "steps": len(batches[way]),
        }
        for way in batches
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few samples, to see that it runs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--shrink", type=int, default=8, help="divides every length of the training step")
    parser.add_argument("--step-samples", type=int, default=120, help="samples that the training steps see")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    options.step_samples = 60 if options.quick else options.step_samples
    options.repeats = 1 if options.quick else options.repeats
    if options.quick:
        options.shrink = max(options.shrink, 32)
    count = 4_000 if options.quick else 40_000
    plans = {}
    print(f"plan of {count} samples, rows of {BUDGET} tokens, {RANKS} ranks (ceiling: padding 0 %, tiles 1.0)")
    for mixture, shares in SHARES.items():
        items = make_mixture(0, count, shares)
        plans[mixture] = {way: measure_plan(way, items) for way in WAYS}
        for way, plan in plans[mixture].items():
            print(
                f"  {mixture:12s} {way:10s} padding {plan['padding_share']:7.2%}   tiles max/mean "
                f"{plan['tiles_max_over_mean']:.3f}   {plan['us_per_item']:.1f} us an item"
            )
    steps = measure_steps(options)
    print(f"training steps of {BUDGET // options.shrink} tokens, {options.attention} on {options.device}")
    for way, step in steps.items():
        print(f"  {way:10s} {step['tokens_per_s']:8d} tokens/s   padding {step['padding_share']:7.2%}")
    report = {
        "plan": plans,
        "step": steps,
        "speedup_over_no_packing": round(steps["ours"]["tokens_per_s"] / steps["no packing"]["tokens_per_s"], 2),
        "budget": BUDGET,
        "shrink": options.shrink,
        "attention": options.attention,
        "hardware": torch.cuda.get_device_name() if options.device == "cuda" else processor_name(),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers_version},
        "seeds": [0, 1],
        "date": str(date.today()),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
