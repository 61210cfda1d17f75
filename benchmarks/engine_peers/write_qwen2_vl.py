"""Writes a Qwen2-VL checkpoint of a published geometry with random weights. Needs torch and transformers alone.

python write_qwen2_vl.py OUT --size 2b|8b|nano
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from tokenizer import byte_tokenizer
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
TOWER = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14}
TEXT = {
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "use_sliding_window": False,
    "hidden_act": "silu",
    "bos_token_id": None,
}
SIZES: dict[str, dict[str, Any]] = {
    "2b": {
        "plain": 151643, "vocab": 151936, "tied": True, "sections": [16, 24, 24], "vision": TOWER,
        "text": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
                 "num_key_value_heads": 2},
    },
    "8b": {
        "plain": 151643, "vocab": 152064, "tied": False, "sections": [16, 24, 24], "vision": TOWER,
        "text": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
                 "num_key_value_heads": 4},
    },
    "nano": {
        "plain": 500, "vocab": 576, "tied": True, "sections": [8, 12, 12],
        "vision": {**TOWER, "depth": 2, "embed_dim": 128, "num_heads": 2},
        "text": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
                 "num_key_value_heads": 1},
    },
}  # fmt: skip
PIXELS = {
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif part['type'] == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_config(size: str) -> Qwen2VLConfig:
    """The geometry, with the ids of `SPECIALS`."""
    chosen = SIZES[size]
    ids = {name: chosen["plain"] + number for number, name in enumerate(SPECIALS)}
    rope = {"rope_type": "default", "type": "mrope", "mrope_section": chosen["sections"], "rope_theta": 1e6}
    text = {
        **TEXT,
        **chosen["text"],
        "vocab_size": chosen["vocab"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "rope_parameters": rope,
        "tie_word_embeddings": chosen["tied"],
    }
    vision = {**chosen["vision"], "hidden_size": chosen["text"]["hidden_size"], "in_channels": 3}
    return Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=chosen["tied"],
    )


def write(folder: Path, size: str) -> None:
    """Weights of a fixed seed in bfloat16, tokenizer, and the settings of the processors."""
    config = make_config(size)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = Qwen2VLForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    model.generation_config.eos_token_id = config.text_config.eos_token_id
    model.generation_config.pad_token_id = config.text_config.pad_token_id
    model.save_pretrained(folder)
    tokenizer = byte_tokenizer(SIZES[size]["plain"], SPECIALS, eos="<|im_end|>", pad="<|endoftext|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    image = {**PIXELS, "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor"}
    video = {**PIXELS, "video_processor_type": "Qwen2VLVideoProcessor", "processor_class": "Qwen2VLProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(image, indent=1))
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video, indent=1))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=SIZES, default="2b")
    chosen_options = parser.parse_args()
    write(chosen_options.out, chosen_options.size)
