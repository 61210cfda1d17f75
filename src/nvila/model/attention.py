"""`attn_implementation="segments"`: `nvila.ops.segment_attention` as one of transformers' attentions.

It sees the borders of packed rows by `cu_seq_lens_q`, as flash attention does, and then wants no mask: see
`without_unread_mask`. Whatever it is not made for (masks of padded rows,
caches, dropout, sliding windows) goes to torch's own attention.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from nvila.ops.attention import segment_attention

SEGMENTS = "segments"


def segments_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it: (B, H, L, D) queries, and keys and values of as many or fewer heads, to
    (B, L, H, D)."""
    length, channels = query.shape[2:]
    packed = cu_seq_lens_q is not None and sliding_window is None
    if dropout or key.shape[2] != length or sliding_window or (attention_mask is not None and not packed):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    scale = channels**-0.5 if scaling is None else scaling
    attended: torch.Tensor = _uncompiled(query, key, value, cu_seq_lens_q, scale, causal)
    return attended, None


def _by_segments(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor | None,
    scale: float,
    causal: bool,
) -> torch.Tensor:
    """(B, L, H, D) from (B, H, L, D); without `borders` every row is a segment."""
    batch, num_heads, length, _ = query.shape
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    groups = num_heads // key.shape[1]
    heads = (query, repeat_kv(key, groups), repeat_kv(value, groups))
    q_THD, k_THD, v_THD = (x.transpose(1, 2).flatten(0, 1) for x in heads)
    ends = range(0, batch * length + 1, length) if borders is None else borders.tolist()
    return segment_attention(q_THD, k_THD, v_THD, ends, scale=scale, causal=causal).unflatten(0, (batch, length))


_uncompiled: Any = torch.compiler.disable(_by_segments)
"""The segments are other ones in every batch: torch.compile would begin anew each time."""


def without_unread_mask(decoder: Any, decoder_inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of packed rows such that transformers makes no mask (B, L, L), which this attention ignores.

    Its Qwen2 takes a mask that is at hand, and may be None; other decoders make theirs for nothing.
    """
    if decoder_inputs.get("cu_seq_lens_q") is None or decoder.config._attn_implementation != SEGMENTS:
        return decoder_inputs
    if decoder.config.model_type != "qwen2" or decoder.has_sliding_layers:
        return decoder_inputs
    return {**decoder_inputs, "attention_mask": {"full_attention": None}}


AttentionInterface.register(SEGMENTS, segments_forward)
AttentionMaskInterface.register(SEGMENTS, sdpa_mask)
