"""A soak of the engine: mixed requests with random cancellations, every answer compared with the answer alone.

    python benchmarks/soak_engine.py [--requests 2000] [--model nvila-mini] [--quick]

Ends with status 1 where an answer differs or anything is left. Answers are greedy and in float32 (other dtypes round
differently in other batches). The last line is JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import random
import time
from datetime import date
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from nvila.engine import Engine, EngineConfig, SamplingParams

QUESTIONS = ("What is it?", "How many are there?", "Read the text.", "What moves, and where to? " * 6, "Why?")


def picture(seed: int, width: int, height: int) -> Image.Image:
    """Coloured rectangles."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    for _ in range(6):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        pixels[y : y + height // 3, x : x + width // 3] = rng.integers(0, 255, 3)
    return Image.fromarray(pixels)


def kinds(count: int) -> list[list[dict[str, Any]]]:
    """Conversations of text, a picture, several pictures, a clip, and several turns."""
    made = []
    for seed in range(count):
        image = {"type": "image", "image": picture(seed, 120 + 40 * (seed % 7), 100 + 30 * (seed % 5))}
        clip = {"type": "video", "video": [picture(seed + step, 112, 112) for step in range(2 + seed % 9)]}
        media = ([], [image], [image, {**image, "image": picture(seed + 1, 90, 90)}], [clip], [image])[seed % 5]
        question = {"type": "text", "text": QUESTIONS[(seed // 5) % len(QUESTIONS)]}
        messages = [{"role": "user", "content": [*media, question]}]
        if seed % 5 == 4:
            messages += [{"role": "assistant", "content": "A box."}, {"role": "user", "content": "Which colour?"}]
        made.append(messages)
    return made


def resident_mb() -> float:
    """Memory of this process."""
    gc.collect()
    return float(psutil.Process().memory_info().rss) / 2**20


def soak(engine: Engine, conversations: list[Any], expected: list[list[int]], count: int, seed: int) -> dict[str, Any]:
    """Submit `count` requests; the numbers of what ended, was cancelled, and differed, and the memory on the way."""
    rng = random.Random(seed)
    open_handles: list[tuple[int, int, Any]] = []
    numbers = {"ended": 0, "cancelled": 0, "differing": 0, "tokens": 0}
    memory: list[float] = []

    def collect() -> None:
        for item in [item for item in open_handles if item[2].is_done]:
            kind, length, handle = item
            tokens = handle.result().token_ids
            numbers["ended"] += 1
            numbers["tokens"] += len(tokens)
            numbers["differing"] += tokens != expected[kind][:length]
            open_handles.remove(item)

    for index in range(count):
        kind, length = rng.randrange(len(conversations)), rng.choice([1, 8, 24])
        handle = engine.submit(conversations[kind], SamplingParams(max_new_tokens=length))
        open_handles.append((kind, length, handle))
        for _ in range(rng.randrange(6)):
            engine.step()
        if rng.random() < 0.25:
            open_handles.pop(rng.randrange(len(open_handles)))[2].cancel()
            numbers["cancelled"] += 1
        collect()
        if index % max(1, count // 20) == 0:
            memory.append(round(resident_mb(), 1))
    while open_handles:
        engine.step()
        collect()
    return {**numbers, "memory_mb": memory}


def main() -> int:
    """Soak, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nvila-mini")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="60 requests of 15 kinds")
    options = parser.parse_args()
    count, num_kinds = (60, 15) if options.quick else (options.requests, 60)
    limits = EngineConfig(max_running=8, max_waiting=16, feature_cache_bytes=8 << 20, kv_cache_bytes=128 << 20)
    engine = Engine.from_pretrained(options.model, dtype="float32", device=options.device, config=limits)
    conversations = kinds(num_kinds)
    expected = [engine.generate(messages, max_new_tokens=24).token_ids for messages in conversations]
    engine.clear_kept()
    before, started = resident_mb(), time.perf_counter()
    result = soak(engine, conversations, expected, count, options.seed)
    seconds = time.perf_counter() - started
    stats = engine.stats()
    engine.clear_kept()
    left = stats.num_waiting + stats.num_running + stats.num_blocks_used + stats.num_media_begun
    print(f"{count} requests in {seconds:.0f} s: {result['ended']} ended, {result['cancelled']} cancelled")
    print(f"answers that differ: {result['differing']}; held afterwards: {left}")
    print(f"memory: {before:.0f} MB before, {resident_mb():.0f} MB after")
    report = {
        "date": date.today().isoformat(), "hardware": platform.processor() or platform.machine(),
        "torch": torch.__version__, "threads": torch.get_num_threads(), "model": options.model, "seed": options.seed,
        "requests": count, "seconds": round(seconds, 1), "before_mb": round(before, 1),
        "after_mb": round(resident_mb(), 1), "left": left, **result,
    }  # fmt: skip
    print(json.dumps(report))
    return int(bool(result["differing"] or left))


if __name__ == "__main__":
    raise SystemExit(main())
