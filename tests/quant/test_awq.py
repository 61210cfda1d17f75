"""AWQ and rounding in groups, by themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RotaryEmbedding

from nvila.quant.awq import quantise_decoder_layer, round_groups
from nvila.quant.options import QuantiseOptions, group_size_for
from nvila.quant.w8a8 import fold_into_norm


def make_layer(**changes: Any) -> tuple[Any, Any, list[torch.Tensor]]:
    """A decoder layer whose inputs have a few large channels, how to run it, and inputs."""
    values = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4}
    config = Qwen2Config(**{**values, **changes}, attn_implementation="sdpa")
    torch.manual_seed(1)
    layer = Qwen2DecoderLayer(config, 0).eval()
    for norm in (layer.input_layernorm, layer.post_attention_layernorm):
        norm.weight.data = torch.rand(128) + 0.5
        norm.weight.data[::17] *= 25
    rotary = Qwen2RotaryEmbedding(config)

    def run(layer: Any, x: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(x.shape[1])[None]
        return layer(x, attention_mask=None, position_ids=positions, position_embeddings=rotary(x, positions))

    return layer, run, [torch.randn(1, 24, 128) for _ in range(6)]


@torch.no_grad()
def error(rounding: str, **changes: Any) -> float:
    """What quantising changes, on inputs that were not calibrated on."""
    layer, run, inputs = make_layer(**changes)
    fresh = torch.randn(1, 40, 128)
    wanted = run(layer, fresh) - fresh
    options = QuantiseOptions(language="w4a16", rounding=rounding)  # type: ignore[arg-type]
    quantise_decoder_layer(layer, run, inputs, options, dtype=torch.bfloat16)
    return float((run(layer, fresh) - fresh - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 2}])
def test_the_search_beats_the_nearest_steps(changes: dict[str, Any]) -> None:
    nearest = error("nearest", **changes)
    assert 0 < error("searched", **changes) < 0.8 * nearest


@torch.no_grad()
def test_folding_a_scale_into_a_norm_changes_nothing_behind_it() -> None:
    layer, _, inputs = make_layer()
    wanted = layer.mlp.gate_proj(layer.post_attention_layernorm(inputs[0]))
    before = layer.post_attention_layernorm.weight.clone()
    scale = fold_into_norm(layer.post_attention_layernorm, torch.rand(128) + 0.3, torch.bfloat16)
    layer.mlp.gate_proj.weight.data *= scale
    stored = layer.post_attention_layernorm.weight
    assert torch.equal(stored, stored.bfloat16().float())
    assert not torch.allclose(stored, before, rtol=0.1)
    assert torch.allclose(layer.mlp.gate_proj(layer.post_attention_layernorm(inputs[0])), wanted, atol=1e-5)


def test_rounding_keeps_zero_and_stays_within_half_a_step() -> None:
    weight = torch.randn(16, 256) + 0.3
    weight[:, 7] = 0
    rounded = round_groups(weight, 128, torch.float32)
    found = rounded.dequantised()
    assert torch.equal(found[:, 7], torch.zeros(16))
    steps = rounded.scales.repeat_interleave(128, 1)
    inner = (weight > steps * (-8 - rounded.zeros.repeat_interleave(128, 1))) & (
        weight < steps * (7 - rounded.zeros.repeat_interleave(128, 1))
    )
    assert inner.float().mean() > 0.95
    assert ((found - weight).abs() <= steps / 2 + 1e-6)[inner].all()


def test_a_group_of_one_sign_uses_all_its_steps() -> None:
    rounded = round_groups(torch.linspace(1, 2, 32)[None], 32, torch.float32)
    assert rounded.values.max() == 7
    assert rounded.zeros.item() == -8


@pytest.mark.parametrize(
    ("width", "size"), [(3584, 128), (256, 128), (768, 128), (576, 64), (96, 32), (48, None), (4304, None)]
)
def test_the_largest_group_that_divides_is_taken(width: int, size: int | None) -> None:
    assert group_size_for(width) == size
