"""Tiny corpus assets, backbones and data sets for the tests of training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.corpus.tiny_corpus import write_tiny_assets
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from nvila.data.corpus import Assets
from nvila.layouts import read_settings, resolve

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 60, 220)}


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    """A hundred words, a few fonts, four concepts."""
    root = tmp_path_factory.mktemp("assets")
    write_tiny_assets(root)
    return Assets.load(root)


@dataclass(frozen=True)
class Backbones:
    """Folders of a SigLIP and of a Qwen2 with its tokenizer."""

    vision: Path
    language: Path


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Backbones:
    return write_backbones(tmp_path_factory.mktemp("backbones"))


@pytest.fixture(scope="session")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixture(tmp_path_factory.mktemp("mixture"))


def write_backbones(root: Path) -> Backbones:
    """Two layers each, 32 wide, tiles of 28 pixels with 16 patches."""
    torch.manual_seed(0)
    tower = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=7
    )
    SiglipVisionModel(tower).save_pretrained(root / "vision")
    tokenizer = AutoTokenizer.from_pretrained(read_settings(resolve("nvila-mini")).tokenizer_dir)
    decoder = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(decoder).save_pretrained(root / "language")
    tokenizer.save_pretrained(root / "language")
    return Backbones(vision=root / "vision", language=root / "language")


def write_mixture(root: Path) -> Path:
    """A mixture of 40 coloured pictures of many shapes, 30 texts of many lengths and 12 clips (folders of frames)."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    pictures, texts = [], []
    for number in range(40):
        name = list(COLOURS)[number % 3]
        size = tuple(int(side) for side in rng.integers(20, 120, 2))
        Image.new("RGB", size, COLOURS[name]).save(root / f"{number}.png")
        turns = [
            {"from": "human", "value": "<image>\nWhich colour is it?"},
            {"from": "gpt", "value": name},
        ]
        pictures.append({"id": f"p{number}", "image": f"{number}.png", "conversations": turns})
    for number in range(30):
        words = " ".join(["one", "two", "three"][int(place)] for place in rng.integers(0, 3, int(rng.integers(1, 12))))
        turns = [{"from": "human", "value": f"Say: {words}"}, {"from": "gpt", "value": words}]
        texts.append({"id": f"t{number}", "conversations": turns})
    clips = []
    for number in range(12):
        folder = root / f"clip{number}"
        folder.mkdir()
        order = [list(COLOURS)[int(place)] for place in rng.permutation(3)]
        for place, name in enumerate(order):
            Image.new("RGB", (40, 30), COLOURS[name]).save(folder / f"{place}.png")
        turns = [{"from": "human", "value": "<video>\nIn which order?"}, {"from": "gpt", "value": " ".join(order)}]
        clips.append({"id": f"c{number}", "video": folder.name, "conversations": turns})
    for name, records in (("pictures", pictures), ("texts", texts), ("clips", clips)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    text = 'name = "tiny"\n' + "".join(
        f'[[source]]\nname = "{name}"\npath = "{root / name}.jsonl"\n' for name in ("pictures", "texts", "clips")
    )
    (root / "mixture.toml").write_text(text, encoding="utf-8")
    return root / "mixture.toml"
