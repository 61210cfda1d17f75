"""The decoder's weights, taken out of a transformers model and laid out for the lean decoder.

Qwen2 and Llama differ in their biases alone here. Whatever the lean decoder does not compute (sliding windows, rotary
frequencies that change with the length, other activations) is refused, because it would be wrong without a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from nvila.engine.linear import Linear, fuse
from nvila.errors import ConfigError

_FIXED_ROPE = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """One decoder layer. qkv: (H) to (q heads, k heads, v heads) * D; gate_up: (H) to 2 * I."""

    input_norm: torch.Tensor
    qkv: Linear
    out: Linear
    mlp_norm: torch.Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, kw_only=True)
class DecoderWeights:
    """A whole decoder with its head, and the constants of its architecture."""

    layers: tuple[LayerWeights, ...]
    embedding: torch.Tensor
    """(vocabulary, H)."""
    norm: torch.Tensor
    head: Linear
    norm_eps: float
    num_heads: int
    num_kv_heads: int
    head_dim: int
    inv_freq: torch.Tensor
    """(D / 2,) float32 rotary frequencies."""
    rope_scale: float
    max_length: int
    """Tokens of a conversation, with the answer."""
    placeholders: tuple[int, ...]
    """Ids that features overwrite; they may lie beyond the embedding."""

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache that one token takes in all layers."""
        return 2 * len(self.layers) * self.num_kv_heads * self.head_dim * self.dtype.itemsize


def take_weights(model: Any) -> DecoderWeights:
    """The decoder of an `NVILAForConditionalGeneration`; raises ConfigError for what the lean decoder cannot do.

    Works layer by layer, so that never more than one layer is held twice.
    """
    config = model.config.get_text_config()
    _check(config)
    decoder, head = model.llm.model, model.llm.lm_head
    num_kv_heads = config.num_key_value_heads or config.num_attention_heads
    return DecoderWeights(
        layers=tuple(_take_layer(layer) for layer in decoder.layers),
        embedding=decoder.embed_tokens.weight.data,
        norm=decoder.norm.weight.data,
        head=fuse([head]),
        norm_eps=config.rms_norm_eps,
        num_heads=config.num_attention_heads,
        num_kv_heads=num_kv_heads,
        head_dim=decoder.layers[0].self_attn.head_dim,
        inv_freq=decoder.rotary_emb.inv_freq.float(),
        rope_scale=float(decoder.rotary_emb.attention_scaling),
        max_length=config.max_position_embeddings,
        placeholders=(model.config.image_token_id, model.config.video_token_id),
    )


def _take_layer(layer: Any) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    return LayerWeights(
        input_norm=layer.input_layernorm.weight.data,
        qkv=fuse([attention.q_proj, attention.k_proj, attention.v_proj]),
        out=fuse([attention.o_proj]),
        mlp_norm=layer.post_attention_layernorm.weight.data,
        gate_up=fuse([mlp.gate_proj, mlp.up_proj]),
        down=fuse([mlp.down_proj]),
    )


def _check(config: Any) -> None:
    if config.hidden_act != "silu":
        raise ConfigError(f"the engine's decoder computes the activation silu, but the model has {config.hidden_act!r}")
    layer_types = config.to_dict().get("layer_types") or []
    if any(kind != "full_attention" for kind in layer_types):
        raise ConfigError("the model attends in sliding windows, which the engine's decoder cannot; use transformers")
    kind = (config.rope_parameters or {}).get("rope_type", "default")
    if kind not in _FIXED_ROPE:
        raise ConfigError(
            f"the model's rotary frequencies are of type {kind!r}; the engine's decoder computes "
            f"{', '.join(_FIXED_ROPE)}; use transformers"
        )
