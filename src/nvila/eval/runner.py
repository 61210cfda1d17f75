"""Runs tasks on a model through the path a user takes: chat template, processor, greedy `generate`.

Batches are padded on the left. What comes out is a plain
dictionary, ready for JSON, with everything that a published number needs.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from nvila.data.corpus import Assets
from nvila.eval.held_out import default_corpus, held_out_samples
from nvila.eval.task import Task
from nvila.types import ImagePart, Sample, TextPart, VideoPart

Answerer = Callable[[Sequence[list[dict[str, Any]]], int], list[str]]
"""Conversations and the most new tokens, to answers."""


def conversation(sample: Sample) -> list[dict[str, Any]]:
    """The sample's question as chat-template messages."""
    parts: list[dict[str, Any]] = []
    for part in sample.messages[0].content:
        match part:
            case TextPart():
                parts.append({"type": "text", "text": part.text})
            case ImagePart():
                parts.append({"type": "image", "image": part.image or part.path or part.url})
            case VideoPart():
                parts.append({"type": "video", "video": list(part.video) if part.video else part.path or part.url})
    return [{"role": "user", "content": parts}]


def model_answerer(model: Any, processor: Any) -> Answerer:
    """Greedy answers of a loaded model."""

    def answer(conversations: Sequence[list[dict[str, Any]]], max_new_tokens: int) -> list[str]:
        inputs = processor.apply_chat_template(
            list(conversations),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
            padding_side="left",
        )
        with torch.inference_mode():
            generated = model.generate(
                **inputs.to(model.device, model.dtype), max_new_tokens=max_new_tokens, do_sample=False
            )
        new_ids = generated[:, inputs["input_ids"].shape[1] :]
        answers: list[str] = processor.batch_decode(new_ids, skip_special_tokens=True)
        return answers

    return answer


def run_task(
    task: Task,
    answer: Answerer,
    assets: Assets,
    *,
    corpus: Path | None = None,
    seed: int,
    limit: int | None,
    batch_size: int,
) -> dict[str, Any]:
    """One task's scores: `metrics` (means), `num_samples`, `seconds`, and the first wrong answers."""
    started = time.monotonic()
    wanted = task.num_samples if limit is None else min(limit, task.num_samples)
    samples = islice(held_out_samples(task, assets, corpus or default_corpus(), seed), wanted)
    sums = dict.fromkeys(task.metrics, 0.0)
    wrong: list[dict[str, Any]] = []
    headline, best = next(iter(task.metrics)), 0.0 if task.less_is_better else 1.0
    count = 0
    while batch := list(islice(samples, batch_size)):
        answers = answer([conversation(sample) for sample in batch], task.max_new_tokens)
        count += len(batch)
        for sample, given in zip(batch, answers, strict=True):
            values = {name: metric(given, sample.meta["answers"]) for name, metric in task.metrics.items()}
            for name, value in values.items():
                sums[name] += value
            if len(wrong) < 12 and values[headline] != best:
                wrong.append({"question": sample.meta["question"], "truth": sample.meta["answer"], "answer": given})
    return {
        "task": task.name,
        "metrics": {name: total / max(1, count) for name, total in sums.items()},
        "floor": task.floor,
        "less_is_better": task.less_is_better,
        "num_samples": count,
        "seconds": round(time.monotonic() - started, 1),
        "wrong": wrong,
    }


def run_tasks(
    tasks: Sequence[Task],
    answer: Answerer,
    assets: Assets,
    *,
    model_name: str,
    corpus: Path | None = None,
    seed: int = 0,
    limit: int | None = None,
    batch_size: int = 32,
    on_done: Callable[[Mapping[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Scores of all `tasks`, with the circumstances; `on_done` hears of each as it ends."""
    results = []
    for task in tasks:
        result = run_task(task, answer, assets, corpus=corpus, seed=seed, limit=limit, batch_size=batch_size)
        results.append(result)
        if on_done is not None:
            on_done(result)
    return {"model": model_name, "seed": seed, "limit": limit, **circumstances(), "tasks": results}


def circumstances() -> dict[str, Any]:
    """Date, hardware and versions."""
    return {
        "date": date.today().isoformat(),
        "hardware": f"{processor_name()}, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in ("torch", "transformers", "nvila")},
    }


def processor_name() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
