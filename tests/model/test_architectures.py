"""The published architectures, built without memory: names, shapes and parameter counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nvila.model import NVILAConfig, NVILAForConditionalGeneration, NVILALiteConfig

SIGLIP = {
    "hidden_size": 1152,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "intermediate_size": 4304,
    "image_size": 448,
    "patch_size": 14,
    "vision_use_head": False,
}
QWEN_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 151648,
    "rope_theta": 1e6,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
QWEN_1_5B = QWEN_7B | {
    "hidden_size": 1536,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "intermediate_size": 8960,
    "tie_word_embeddings": True,
}
CASES: dict[str, Any] = {
    "NVILA-8B": (NVILAConfig, QWEN_7B),
    "NVILA-Lite-2B": (NVILALiteConfig, QWEN_1_5B),
}


def expected_shapes(text: dict[str, Any], *, lite: bool) -> dict[str, tuple[int, ...]]:
    """Every released tensor's name and shape, from the format's description alone."""
    shapes: dict[str, tuple[int, ...]] = {}
    width, wide = SIGLIP["hidden_size"], SIGLIP["intermediate_size"]
    tower = "vision_tower.vision_model"
    shapes[f"{tower}.embeddings.patch_embedding.weight"] = (width, 3, 14, 14)
    shapes[f"{tower}.embeddings.patch_embedding.bias"] = (width,)
    shapes[f"{tower}.embeddings.position_embedding.weight"] = (1024, width)
    for layer in range(27):
        prefix = f"{tower}.encoder.layers.{layer}"
        for norm in ("layer_norm1", "layer_norm2"):
            shapes[f"{prefix}.{norm}.weight"] = shapes[f"{prefix}.{norm}.bias"] = (width,)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{prefix}.self_attn.{name}.weight"] = (width, width)
            shapes[f"{prefix}.self_attn.{name}.bias"] = (width,)
        shapes |= {f"{prefix}.mlp.fc1.weight": (wide, width), f"{prefix}.mlp.fc1.bias": (wide,)}
        shapes |= {f"{prefix}.mlp.fc2.weight": (width, wide), f"{prefix}.mlp.fc2.bias": (width,)}
    shapes |= {f"{tower}.post_layernorm.weight": (width,), f"{tower}.post_layernorm.bias": (width,)}
    hidden = text["hidden_size"]
    if lite:
        linears = {
            1: (9 * width,),
            2: (3 * width, 9 * width),
            4: (3 * width,),
            5: (hidden, 3 * width),
            7: (hidden, hidden),
        }
    else:
        linears = {1: (4 * 3456,), 2: (hidden, 4 * 3456), 4: (hidden, hidden)}
    for index, shape in linears.items():
        shapes |= {f"mm_projector.layers.{index}.weight": shape, f"mm_projector.layers.{index}.bias": shape[:1]}
    head = hidden // text["num_attention_heads"]
    keys, ffn = head * text["num_key_value_heads"], text["intermediate_size"]
    shapes["llm.model.embed_tokens.weight"] = shapes["llm.lm_head.weight"] = (text["vocab_size"], hidden)
    shapes["llm.model.norm.weight"] = (hidden,)
    for layer in range(28):
        prefix = f"llm.model.layers.{layer}"
        shapes |= {f"{prefix}.{norm}.weight": (hidden,) for norm in ("input_layernorm", "post_attention_layernorm")}
        for name, rows in (("q_proj", hidden), ("k_proj", keys), ("v_proj", keys)):
            shapes |= {f"{prefix}.self_attn.{name}.weight": (rows, hidden), f"{prefix}.self_attn.{name}.bias": (rows,)}
        shapes[f"{prefix}.self_attn.o_proj.weight"] = (hidden, hidden)
        shapes |= {f"{prefix}.mlp.{name}.weight": (ffn, hidden) for name in ("gate_proj", "up_proj")}
        shapes[f"{prefix}.mlp.down_proj.weight"] = (hidden, ffn)
    return shapes


@pytest.mark.parametrize("name", CASES)
def test_published_architectures(name: str) -> None:
    config_class, text = CASES[name]
    with torch.device("meta"):
        model = NVILAForConditionalGeneration(config_class(SIGLIP, text))
    expected = expected_shapes(text, lite=config_class is NVILALiteConfig)
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == expected
    counted = dict(expected)
    if text["tie_word_embeddings"]:
        del counted["llm.lm_head.weight"]
    total = sum(torch.Size(shape).numel() for shape in counted.values())
    assert sum(parameter.numel() for parameter in model.parameters()) == total
    assert total == {"NVILA-8B": 8_088_386_800, "NVILA-Lite-2B": 2_000_132_720}[name]


def test_published_settings() -> None:
    full = NVILAConfig(SIGLIP, QWEN_7B)
    assert full.visual.s2_scales == (448, 896, 1344)
    assert (full.mm_hidden_size, full.visual.tokens_per_tile) == (3456, 256)
    lite = NVILALiteConfig(SIGLIP, QWEN_1_5B)
    assert (lite.image_mode, lite.mm_hidden_size, lite.visual.tokens_per_tile) == ("dynamic", 1152, 121)
