"""Tiny checkpoints whose answers depend on what they are shown, conversations of every kind, transformers' answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tests.media_files import noise
from tests.tiny import make_model, make_tokenizer

from nvila import NVILAForConditionalGeneration, NVILAProcessor
from nvila.engine import Engine, EngineConfig

TEXT = {"initializer_range": 0.4, "num_hidden_layers": 3}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {"text": TEXT},
    "qwen2_s2": {"text": TEXT, "image_mode": "dynamic_s2"},
    "llama": {"text": {**TEXT, "model_type": "llama", "num_key_value_heads": 4}},
    "llama_scaled": {
        "text": {
            **TEXT,
            "model_type": "llama",
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        }
    },
}


def write_lively_checkpoint(folder: Path, **settings: Any) -> Path:
    """A checkpoint whose features are as loud as its text, so that another picture gives another answer."""
    model = make_model(num_video_frames=4, temporal_pool=2, **settings)
    with torch.no_grad():
        for parameter in model.mm_projector.parameters():
            parameter.mul_(6)
        for name, parameter in model.llm.named_parameters():
            if name.endswith("proj.bias"):
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def open_engine(folder: Path, **limits: Any) -> Engine:
    """An engine in float32 on the CPU."""
    return Engine.from_pretrained(folder, dtype="float32", device="cpu", config=EngineConfig(**limits))


def ask(*parts: Any) -> list[dict[str, Any]]:
    """A question: strings, pictures, and lists of frames."""
    content: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        elif isinstance(part, Image.Image):
            content.append({"type": "image", "image": part})
        else:
            content.append({"type": "video", "video": part})
    return [{"role": "user", "content": content}]


def clip(seed: int, frames: int = 4) -> list[Image.Image]:
    """Frames of noise."""
    return [noise(56, 56, 100 * seed + index) for index in range(frames)]


def conversations(seed: int = 0) -> list[list[dict[str, Any]]]:
    """Text, a picture in tiles, several pictures, a clip, a picture and a clip, two turns."""
    first = ask(noise(112, 56, seed), "What is it?")
    return [
        ask(f"Hello {seed}"),
        first,
        ask(noise(50, 60, seed + 1), "or", noise(30, 40, seed + 2), "Which?"),
        ask(clip(seed), "What moves?"),
        ask(noise(60, 60, seed + 3), clip(seed + 1, 3), "Is it there?"),
        [*first, {"role": "assistant", "content": "A cat."}, *ask("Which one?")],
    ]


class Reference:
    """transformers' own greedy answers."""

    def __init__(self, folder: Path) -> None:
        self.processor = NVILAProcessor.from_pretrained(folder)
        self.model = NVILAForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()

    def inputs(self, messages: Any) -> Any:
        return self.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )

    def answer(self, messages: Any, **options: Any) -> list[int]:
        """The new tokens."""
        inputs = self.inputs(messages)
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, **{"do_sample": False, **options})
        new: list[int] = tokens[0, inputs["input_ids"].shape[1] :].tolist()
        return new
