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

from nvila.ops import segment_attention

SEGMENTS = "segments"


_uncompiled: Any = torch.compiler.disable(segment_attention)
"""The segments are other ones in every batch: torch.compile would never come to an end."""


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
    batch, _, length, channels = query.shape
    packed = cu_seq_lens_q is not None and sliding_window is None
    if dropout or key.shape[2] != length or sliding_window or (attention_mask is not None and not packed):
        attended, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
        return attended, None
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    groups = query.shape[1] // key.shape[1]
    flat = [x.transpose(1, 2).flatten(0, 1) for x in (query, repeat_kv(key, groups), repeat_kv(value, groups))]
    attended_THD = _uncompiled(
        *flat,
        cu_seq_lens_q.tolist() if cu_seq_lens_q is not None else range(0, batch * length + 1, length),
        scale=channels**-0.5 if scaling is None else scaling,
        causal=getattr(module, "is_causal", True) if is_causal is None else is_causal,
    )
    return attended_THD.unflatten(0, (batch, length)), None


def without_unread_mask(decoder: Any, decoder_inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of packed rows such that transformers does not make a mask (B, L, L) that this attention ignores."""
    if decoder_inputs.get("cu_seq_lens_q") is None or decoder.config._attn_implementation != SEGMENTS:
        return decoder_inputs
    if getattr(decoder, "has_sliding_layers", False):
        return decoder_inputs
    return {**decoder_inputs, "attention_mask": {"full_attention": None}}


AttentionInterface.register(SEGMENTS, segments_forward)
AttentionMaskInterface.register(SEGMENTS, sdpa_mask)
