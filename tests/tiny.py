"""Tiny random models, built from a configuration alone; what tests of several layers use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nvila.model import NVILAConfig, NVILAForConditionalGeneration
from nvila.model.checkpoint import save_folders

VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 56,
    "patch_size": 14,
    "vision_use_head": False,
}
TEXT = {
    "model_type": "qwen2",
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 264,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 258,
    "pad_token_id": 260,
}
IMAGE_ID, VIDEO_ID, NEWLINE_ID = 262, 263, 5


def make_config(
    *, vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **visual: Any
) -> NVILAConfig:
    """A tiny configuration; keywords override the visual settings, `vision` and `text` the sub-configs."""
    settings = {"image_mode": "dynamic", "image_token_id": IMAGE_ID, "video_token_id": VIDEO_ID, **visual}
    return NVILAConfig({**VISION, **(vision or {})}, {**TEXT, **(text or {})}, **settings)


def make_model(**settings: Any) -> NVILAForConditionalGeneration:
    """A tiny model with weights from a fixed seed, in evaluation mode."""
    torch.manual_seed(0)
    return NVILAForConditionalGeneration(make_config(**settings)).eval()


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as ids 0 to 255, then the special tokens of the published tokenizers."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "[BOS]", "[PAD]"]
    tokenizer.add_special_tokens([*specials, "<vila/sentinel>", "<image>", "<vila/video>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="[PAD]")
    assert fast.convert_tokens_to_ids(["<|im_end|>", "[PAD]", "<image>", "<vila/video>"]) == [258, 260, 262, 263]
    return fast


def write_checkpoint(folder: Path, layout: str, **settings: Any) -> NVILAForConditionalGeneration:
    """A loadable tiny checkpoint in the "folders" or "hf" layout; returns the model that was written."""
    model = make_model(**settings)
    if layout == "hf":
        model.save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        return model
    save_folders(model, folder)
    make_tokenizer().save_pretrained(folder / "llm")
    side = model.config.tile_size
    preprocessor = {
        "image_processor_type": "SiglipImageProcessor",
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"height": side, "width": side},
    }
    (folder / "vision_tower" / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return model
