"""How long nvila-mini takes to load and to answer about a 336-pixel picture, imports apart; the last line is JSON.

The aims are 2 s and 1 s on two CPU cores. The ceiling of an answer is its arithmetic: one pass of ten tiles through the
tower and one of the prompt through the decoder, which is printed in GFLOP.

    python benchmarks/bench_mini.py [--repeats 7]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from datetime import date

import torch
from PIL import Image

from nvila import NVILAForConditionalGeneration, NVILAProcessor
from nvila.eval.runner import processor_name


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    loads, answers = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        processor = NVILAProcessor.from_pretrained("nvila-mini")
        model = NVILAForConditionalGeneration.from_pretrained("nvila-mini", dtype="auto").eval()
        loads.append(time.perf_counter() - started)
    image = Image.effect_mandelbrot((336, 336), (-2, -1.5, 1, 1.5), 60).convert("RGB")
    content = [{"type": "image", "image": image}, {"type": "text", "text": "What does the sign say?"}]
    for _ in range(repeats):
        started = time.perf_counter()
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt",
        )  # fmt: skip
        tokens = model.generate(**inputs.to(model.dtype), max_new_tokens=16, do_sample=False)
        answers.append(time.perf_counter() - started)
    tiles, length = inputs["pixel_values"].shape[0], inputs["input_ids"].shape[1]
    tower = sum(weight.numel() for weight in model.vision_tower.vision_model.encoder.parameters())
    decoder = sum(weight.numel() for weight in model.llm.parameters())
    report = {
        "gflop": round(2e-9 * (tower * tiles * 64 + decoder * length), 1),
        "load_s": round(statistics.median(loads), 3),
        "answer_s": round(statistics.median(answers), 3),
        "tiles": tiles,
        "prompt_tokens": length,
        "new_tokens": tokens.shape[1] - length,
        "repeats": repeats,
        "hardware": f"{processor_name()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "date": str(date.today()),
    }
    print(f"arithmetic of a prefill: {report['gflop']} GFLOP")
    print(f"load {report['load_s']} s (aim 2), answer {report['answer_s']} s (aim 1), medians of {repeats}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
