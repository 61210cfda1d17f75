"""A tiny checkpoint, and small data sets of each kind: one picture, several, several turns, clips, text alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.tiny import write_checkpoint

from nvila.train.finetune.options import FinetuneOptions
from nvila.train.finetune.run import Prepared, prepare

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 60, 220)}
QUICK = ("run.workers=0", "run.bf16=false", "adapters.frozen_dtype=float32", "run.log_steps=1", "run.threads=1")
"""In this process and in float32, so that numbers are the same each time."""
RANK = 4


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    write_checkpoint(folder, "hf", text={"max_position_embeddings": 1024})
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `pictures.jsonl` (LLaVA's form), `mixed.jsonl` (OpenAI's), and the media they name."""
    root = tmp_path_factory.mktemp("data")
    records = []
    for number in range(12):
        name = list(COLOURS)[number % 3]
        Image.new("RGB", (60 + 5 * number, 56), COLOURS[name]).save(root / f"{number}.png")
        records.append(llava(f"p{number}", f"{number}.png", ("Which colour?", name)))
    write(root / "pictures.jsonl", records)
    write(root / "heldout.jsonl", [{**record, "id": f"h{record['id']}"} for record in records[:6]])
    for place in range(3):
        (root / "clip").mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), COLOURS["red"]).save(root / "clip" / f"{place}.png")
    image = {"type": "image_url", "image_url": {"url": "0.png"}}
    mixed = [
        openai("m0", [image, {"type": "image_url", "image_url": {"url": "1.png"}}, text("Same?")], "no"),
        openai("m1", [image, text("Which colour?")], "red"),
        openai("m2", [text("Say yes.")], "yes"),
        openai("m3", [{"type": "video", "path": "clip"}, text("What moves?")], "nothing"),
    ]
    mixed[1]["messages"] += [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "yes"}]
    write(root / "mixed.jsonl", mixed)
    return root


def llava(name: str, image: str, *turns: tuple[str, str]) -> dict[str, Any]:
    said: list[dict[str, str]] = []
    for number, (question, answer) in enumerate(turns):
        said.append({"from": "human", "value": f"<image>\n{question}" if number == 0 else question})
        said.append({"from": "gpt", "value": answer})
    return {"id": name, "image": image, "conversations": said}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def openai(name: str, parts: list[dict[str, Any]], answer: str) -> dict[str, Any]:
    return {"id": name, "messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]}


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def make_options(base: Path, root: Path, **changes: Any) -> FinetuneOptions:
    options = FinetuneOptions(data=str(root / "pictures.jsonl"), model=str(base), rank=RANK, batch=4, lr=5e-3)
    return replace(options, **changes)


def make_prepared(options: FinetuneOptions, out: Path, *overrides: str, **settings: Any) -> Prepared:
    return prepare(options, out, overrides=[*QUICK, *overrides], **settings)
