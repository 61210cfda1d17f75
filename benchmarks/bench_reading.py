"""How well the small model reads held-out pictures, beside two OCR programs on the same files.

The tasks are those of `nvila eval`; the metrics too. Tesseract and RapidOCR get every picture three times as large,
because both are made for scans, and the page mode that suits the task; white space is normalised for all. They read
any font and know nothing of ours: the model learned other fonts of the same generator, which is its advantage. The last
line is JSON, which `nvila eval --card --readers` puts into the model card.

    apt-get install tesseract-ocr                      # in PATH
    python -m venv ocr && ocr/bin/pip install rapidocr-onnxruntime
    python benchmarks/bench_reading.py --rapidocr ocr/bin/python [--model nvila-mini] [--limit 200] [--out FILE]

A program that is not there is left out, and said to be.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from nvila.data.corpus import Assets
from nvila.eval.held_out import default_corpus, held_out_samples
from nvila.eval.runner import circumstances, conversation, model_answerer
from nvila.eval.task import Task
from nvila.eval.tasks import choose_tasks
from nvila.model import NVILAForConditionalGeneration
from nvila.processing import NVILAProcessor
from nvila.types import ImagePart, Sample
from nvila.utils.atomic import atomic_write_text

TASKS = {"words": "7", "lines": "7", "paragraphs": "6", "signs": "3", "signs_tiled": "3"}
"""Tasks, each with the page segmentation mode that suits tesseract best: a line, a block of text, a page."""
ENLARGED = 3
BATCH = 16
Reader = Callable[[Sequence[Path], str], list[str]]

RAPIDOCR = """
import json, sys
from rapidocr_onnxruntime import RapidOCR
read = RapidOCR()
for path in sys.stdin.read().split("\\n"):
    found = read(path)[0] or []
    print(json.dumps("\\n".join(line[1] for line in found)))
"""


def tesseract(paths: Sequence[Path], mode: str) -> list[str]:
    """What tesseract reads in each picture."""
    texts = []
    for path in paths:
        command = ["tesseract", str(path), "stdout", "--psm", mode, "-l", "eng"]
        texts.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return texts


def rapidocr(python: str) -> Reader:
    """What RapidOCR reads, run by the interpreter that has it."""

    def read(paths: Sequence[Path], mode: str) -> list[str]:
        given = "\n".join(map(str, paths))
        done = subprocess.run([python, "-c", RAPIDOCR], input=given, capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()[-len(paths) :]]

    return read


def readers(python: str | None) -> dict[str, Reader]:
    """The programs that are there, by name; says which are not."""
    found: dict[str, Reader] = {}
    if shutil.which("tesseract"):
        found["tesseract"] = tesseract
    else:
        print("tesseract is not in PATH and left out", file=sys.stderr)
    if python:
        found["rapidocr"] = rapidocr(python)
    else:
        print("RapidOCR is left out: give --rapidocr PYTHON", file=sys.stderr)
    return found


def picture(sample: Sample) -> Image.Image:
    part = sample.messages[0].content[0]
    assert isinstance(part, ImagePart)
    assert part.image is not None
    return part.image.resize((part.image.width * ENLARGED, part.image.height * ENLARGED), Image.Resampling.BICUBIC)


def score(task: Task, samples: Sequence[Sample], answers: Sequence[str]) -> dict[str, float]:
    """The task's metrics, means over the samples."""
    pairs = list(zip(samples, answers, strict=True))
    return {
        name: round(sum(metric(given, sample.meta["answers"]) for sample, given in pairs) / len(pairs), 4)
        for name, metric in task.metrics.items()
    }


def run(task: Task, options: argparse.Namespace, ours: Any, others: dict[str, Reader]) -> dict[str, Any]:
    """One task's scores of all readers."""
    count = min(options.limit, task.num_samples)
    samples = list(islice(held_out_samples(task, Assets.load(options.assets), default_corpus(), options.seed), count))
    answers: list[str] = []
    for start in range(0, count, BATCH):
        answers += ours([conversation(sample) for sample in samples[start : start + BATCH]], task.max_new_tokens)
    scores = {"nvila": score(task, samples, answers)}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.png" for number in range(count)]
        for path, sample in zip(paths, samples, strict=True):
            picture(sample).save(path)
        for name, read in others.items():
            scores[name] = score(task, samples, read(paths, TASKS[task.name]))
    return {"task": task.name, "num_samples": count, "scores": scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nvila-mini")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--assets", default=None)
    parser.add_argument("--rapidocr", default=None, help="a Python that has rapidocr_onnxruntime")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--quick", action="store_true", help="8 samples a task")
    options = parser.parse_args()
    if options.quick:
        options.limit = 8
    model = NVILAForConditionalGeneration.from_pretrained(options.model, dtype=torch.float32).eval()
    ours = model_answerer(model, NVILAProcessor.from_pretrained(options.model))
    others = readers(options.rapidocr)
    rows = []
    for task in choose_tasks(TASKS):
        rows.append(run(task, options, ours, others))
        told = "  ".join(f"{name} {next(iter(values.values())):.3f}" for name, values in rows[-1]["scores"].items())
        print(f"{task.name:12} {next(iter(task.metrics)):6} {told}")
    report = {"model": options.model, "seed": options.seed, "tasks": rows, **circumstances()}
    if options.out is not None:
        atomic_write_text(options.out, json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
