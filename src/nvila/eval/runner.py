"""Asks samples' questions through the path a user takes, and scores the greedy answers.

`engine_answerer` asks the engine, as `nvila ask` does; `model_answerer` asks a model that is loaded in transformers.
What comes out is a plain dictionary, ready for JSON, with everything that a published number needs.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from nvila.data.corpus import Assets
from nvila.engine import Engine
from nvila.eval.held_out import default_corpus, held_out_samples
from nvila.eval.metrics import LESS_IS_BETTER, Metric
from nvila.eval.task import Task
from nvila.types import ImagePart, Part, Sample, TextPart, VideoPart

Answerer = Callable[[Sequence[list[dict[str, Any]]], int], list[str]]
"""Conversations and the most new tokens, to answers."""


def conversation(sample: Sample) -> list[dict[str, Any]]:
    """The sample's turns, which end with its question, as chat-template messages."""
    return [{"role": turn.role, "content": [_content(part) for part in turn.content]} for turn in sample.messages]


def _content(part: Part) -> dict[str, Any]:
    match part:
        case TextPart():
            return {"type": "text", "text": part.text}
        case ImagePart():
            return {"type": "image", "image": part.image or part.path or part.url}
        case VideoPart():
            return {"type": "video", "video": list(part.video) if part.video else part.path or part.url}


def engine_answerer(engine: Engine, adapter: str | None = None) -> Answerer:
    """Greedy answers of an engine, many at a time; `adapter` is the name of one of its adapters."""

    def answer(conversations: Sequence[list[dict[str, Any]]], max_new_tokens: int) -> list[str]:
        found = engine.generate_all(conversations, adapter=adapter, max_new_tokens=max_new_tokens)
        return [completion.text for completion in found]

    return answer


def model_answerer(model: Any, processor: Any) -> Answerer:
    """Greedy answers of a model in transformers, in batches padded on the left."""

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
    """One task's scores as `score_samples` gives them, with the task's `floor`."""
    wanted = task.num_samples if limit is None else min(limit, task.num_samples)
    samples = islice(held_out_samples(task, assets, corpus or default_corpus(), seed), wanted)
    found = score_samples(
        samples, answer, task.metrics, max_new_tokens=task.max_new_tokens, batch_size=batch_size, name=task.name
    )
    return {**found, "floor": task.floor}


def score_samples(
    samples: Iterable[Sample],
    answer: Answerer,
    metrics: Mapping[str, Metric],
    *,
    max_new_tokens: int,
    batch_size: int,
    name: str,
) -> dict[str, Any]:
    """`metrics` (means), `num_samples`, `seconds`, and the first answers that the first metric finds wrong.

    samples: each ends with a question; `meta` has `question`, `answer` (the first accepted one) and `answers`.
    """
    started = time.monotonic()
    left = iter(samples)
    sums = dict.fromkeys(metrics, 0.0)
    wrong: list[dict[str, Any]] = []
    headline = next(iter(metrics))
    best = 0.0 if headline in LESS_IS_BETTER else 1.0
    count = 0
    while batch := list(islice(left, batch_size)):
        answers = answer([conversation(sample) for sample in batch], max_new_tokens)
        count += len(batch)
        for sample, given in zip(batch, answers, strict=True):
            values = {key: metric(given, sample.meta["answers"]) for key, metric in metrics.items()}
            for key, value in values.items():
                sums[key] += value
            if len(wrong) < 12 and values[headline] != best:
                wrong.append({"question": sample.meta["question"], "truth": sample.meta["answer"], "answer": given})
    return {
        "task": name,
        "metrics": {key: total / max(1, count) for key, total in sums.items()},
        "floor": None,
        "less_is_better": headline in LESS_IS_BETTER,
        "num_samples": count,
        "seconds": round(time.monotonic() - started, 1),
        "wrong": wrong,
    }


def run_tasks(
    tasks: Sequence[Task],
    answer: Answerer,
    assets: Assets,
    *,
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
    return {"seed": seed, "limit": limit, **circumstances(), "tasks": results}


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
