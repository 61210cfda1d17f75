"""transformers' own front doors open on our model: pipeline, Auto classes, batched generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.tiny import write_checkpoint
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

import nvila

PICTURE = Image.effect_mandelbrot((150, 90), (-2, -1, 1, 1), 50).convert("RGB")


def ask(*content: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder, "hf", image_mode="dynamic", temporal_pool=2, num_video_frames=4)
    nvila.NVILAProcessor.from_pretrained(folder).save_pretrained(folder)
    return folder


def test_pipeline(checkpoint: Path) -> None:
    ours = pipeline("image-text-to-text", model=str(checkpoint))
    messages = ask({"type": "image", "image": PICTURE}, {"type": "text", "text": "What?"})
    answer = ours(text=messages, max_new_tokens=4, generate_kwargs={"do_sample": False})[0]["generated_text"][-1]
    assert answer["role"] == "assistant"
    processor = nvila.NVILAProcessor.from_pretrained(checkpoint)
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    model = nvila.NVILAForConditionalGeneration.from_pretrained(checkpoint)
    tokens = model.generate(**inputs, max_new_tokens=4, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    assert answer["content"] == processor.batch_decode(tokens, skip_special_tokens=True)[0]


def test_auto_classes_give_ours(checkpoint: Path) -> None:
    assert isinstance(AutoProcessor.from_pretrained(checkpoint), nvila.NVILAProcessor)
    assert isinstance(AutoModelForImageTextToText.from_pretrained(checkpoint), nvila.NVILAForConditionalGeneration)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_mixed_batch_answers_like_each_conversation_alone(checkpoint: Path, side: str) -> None:
    """Text only, one tiled image, two images and a clip, in one padded batch."""
    processor = nvila.NVILAProcessor.from_pretrained(checkpoint)
    model = nvila.NVILAForConditionalGeneration.from_pretrained(checkpoint)
    image = {"type": "image", "image": PICTURE}
    video = {"type": "video", "video": [PICTURE.rotate(10 * turn) for turn in range(3)]}
    question = {"type": "text", "text": "What is it?"}
    conversations = [ask(question), ask(image, question), ask(image, question, image), ask(video, question, image)]

    def prepare(batch: list[Any]) -> Any:
        return processor.apply_chat_template(
            batch, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", padding=True,
            padding_side=side,
        )  # fmt: skip

    with torch.no_grad():
        together = prepare(conversations)
        positions = (together["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        batch = model(**together, position_ids=positions).logits
        for row, conversation in enumerate(conversations):
            alone = prepare([conversation])
            kept = batch[row][together["attention_mask"][row].bool()]
            torch.testing.assert_close(kept, model(**alone).logits[0], atol=1e-5, rtol=1e-4)
    if side == "left":
        tokens = model.generate(**together, max_new_tokens=3, do_sample=False, eos_token_id=None)
        for row, conversation in enumerate(conversations):
            alone = model.generate(**prepare([conversation]), max_new_tokens=3, do_sample=False, eos_token_id=None)
            assert tokens[row, -3:].tolist() == alone[0, -3:].tolist()
