"""Little models of ours and of transformers, and data sets with pictures, as the tests of scoring use them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tests.media_files import noise
from tests.tiny import write_checkpoint
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
)

MARKS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|pad|>",
)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}PICTURE"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_TEMPLATE = TEMPLATE.replace("PICTURE", "<|vision_start|><|image_pad|><|vision_end|>")
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "initializer_range": 0.3,
}


def byte_tokenizer(*, merges: tuple[tuple[str, str], ...] = (), marks: tuple[str, ...] = MARKS) -> Any:
    """Bytes, joined by `merges`, and the marks of a chat."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(marks))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|pad|>")


class QwenProcessor(Qwen2VLProcessor):  # type: ignore[misc]
    """Qwen2-VL's, without the class check that needs torchvision for its video processor."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if argument_name == "video_processor":
            return type(argument)
        return super().check_argument_for_proper_class(argument_name, argument)


def little_qwen() -> tuple[Any, Any]:
    """A Qwen2-VL of random weights, and its processor."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = byte_tokenizer()
    pictures = Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=1, min_pixels=64, max_pixels=1024
    )
    ids = dict(zip(MARKS, tokenizer.convert_tokens_to_ids(list(MARKS)), strict=True))
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = Qwen2VLConfig(
        text_config={**TEXT, "vocab_size": len(tokenizer), "eos_token_id": ids["<|im_end|>"], "rope_parameters": rope},
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 4,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 1,
            "mlp_ratio": 2,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(config).eval()
    return model, QwenProcessor(pictures, tokenizer, None, chat_template=QWEN_TEMPLATE)


def write_llava(folder: Path, *, merges: tuple[tuple[str, str], ...] = ()) -> Path:
    """A LLaVA of random weights as a folder that AutoProcessor reads; `merges` give it another tokenizer."""
    tokenizer = byte_tokenizer(merges=merges, marks=(*MARKS, "<image>"))
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=TEMPLATE.replace("PICTURE", "<image>"),
    )
    end, image = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<image>"])
    config = LlavaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "image_size": 28,
            "patch_size": 14,
            "vision_use_head": False,
        },
        text_config={**TEXT, "model_type": "qwen2", "vocab_size": len(tokenizer), "eos_token_id": end},
        image_token_id=image,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    torch.manual_seed(1)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_pair(folder: Path) -> tuple[str, str]:
    """Two NVILA checkpoints of one architecture and tokenizer whose weights differ."""
    for name, scale in (("large", 4.0), ("small", 2.0)):
        model = write_checkpoint(folder / name, "hf")
        with torch.no_grad():
            for parameter in model.llm.parameters():
                parameter.mul_(scale if parameter.dim() > 1 else 1.0)
        model.save_pretrained(folder / name)
    return str(folder / "large"), str(folder / "small")


def record(identifier: str, answer: str = "A cat.", *, image: str | None = None, question: str = "What?") -> Any:
    """A record in LLaVA's form."""
    picture = {} if image is None else {"image": image}
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": identifier, **picture, "conversations": turns}


def write_records(path: Path, records: list[Any]) -> Path:
    """JSON lines, and the pictures that the records name beside them unless they are called `missing*`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(records):
        image = one.get("image")
        if image and not image.startswith("missing") and not (path.parent / image).exists():
            noise(20 + 7 * (number % 9), 30 + 5 * (number % 7), number).save(path.parent / image)
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return path


def mixed_records(count: int = 20) -> list[Any]:
    """Answers of different lengths; of three records two have a picture."""
    return [
        record(
            f"r{number}",
            "It is " + "very " * (number % 5) + f"{number}.",
            image=f"{number}.png" if number % 3 else None,
        )
        for number in range(count)
    ]
