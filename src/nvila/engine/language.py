"""The lean decoder: Qwen2 and Llama as one function over the rows of a step, with no transformers in it.

A step's rows are tokens of any number of requests, end to end; `Span` says which rows are whose. All layers but
attention see one flat batch. Attention reads the cache in place where a request's blocks are neighbours. A single new
token needs no mask, so its query heads are laid out as queries of their shared key/value head: the cache is read once
for all of them, and never repeated (grouped-query attention, Ainslie et al., 2023).

Letters: T rows of the step, H width, Q query heads, K key/value heads, G = Q / K, D channels of a head, L keys,
I the MLP's width, S spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right

from nvila.engine.kv_cache import BlockTable, KVCache
from nvila.engine.low_rank import AdaptedRows, DecoderAdapter, add_low_rank, rows_by_adapter
from nvila.engine.weights import DecoderWeights, LayerWeights


@dataclass(frozen=True)
class Span:
    """Rows `begin` to `end` of a step are one request's tokens from position `offset` on."""

    begin: int
    end: int
    offset: int
    table: BlockTable
    adapter: DecoderAdapter | None = None

    @property
    def num_keys(self) -> int:
        """Keys that the last row of the span sees."""
        return self.offset + self.end - self.begin


def embed(weights: DecoderWeights, ids_T: torch.Tensor) -> torch.Tensor:
    """Embeddings (T, H); a placeholder, which may lie beyond the table, gets row 0 as in the model's own fusion."""
    for placeholder in weights.placeholders:
        ids_T = ids_T.masked_fill(ids_T == placeholder, 0)
    return F.embedding(ids_T, weights.embedding)


def forward(weights: DecoderWeights, cache: KVCache, x_TH: torch.Tensor, spans: Sequence[Span]) -> torch.Tensor:
    """Normalised hidden states (S, H) of each span's last row; keys and values of all rows go into the cache.

    x_TH: embeddings of the step's rows, the spans one behind the other.
    """
    rows_T = torch.cat([span.table.rows[span.offset : span.num_keys] for span in spans])
    positions_T = torch.cat([torch.arange(span.offset, span.num_keys) for span in spans]).to(x_TH.device)
    cos_T1D, sin_T1D = rotary(weights, positions_T)
    is_batch_on_gpu = x_TH.device.type == "cuda" and 1 < len(spans) == len(x_TH)
    together = padded_rows(spans) if is_batch_on_gpu else None
    last_S = torch.tensor([span.end - 1 for span in spans], device=x_TH.device)
    adapted = rows_by_adapter(((span.adapter, range(span.begin, span.end)) for span in spans), x_TH.device)
    adapted_last = rows_by_adapter(((span.adapter, range(i, i + 1)) for i, span in enumerate(spans)), x_TH.device)
    for index, layer in enumerate(weights.layers):
        normed_TH = _norm(weights, x_TH, layer.input_norm)
        q_TQD, k_TKD, v_TKD = _qkv(
            weights, add_low_rank(layer.qkv(normed_TH), normed_TH, adapted, index, "qkv"), cos_T1D, sin_T1D
        )
        key_RKD, value_RKD = cache.key[index], cache.value[index]
        key_RKD.index_copy_(0, rows_T, k_TKD)
        value_RKD.index_copy_(0, rows_T, v_TKD)
        if together is not None:
            joined_TH = attend_together(q_TQD, key_RKD, value_RKD, *together)
        else:
            attended = [attend(q_TQD[span.begin : span.end], key_RKD, value_RKD, span) for span in spans]
            joined_TH = attended[0] if len(attended) == 1 else torch.cat(attended)
        if index == len(weights.layers) - 1 and len(last_S) < len(x_TH):  # nobody reads the other rows any more
            x_TH, joined_TH, adapted = x_TH[last_S], joined_TH[last_S], adapted_last
        x_TH = x_TH + add_low_rank(layer.out(joined_TH), joined_TH, adapted, index, "out")
        x_TH = x_TH + _mlp(layer, _norm(weights, x_TH, layer.mlp_norm), adapted, index)
    return _norm(weights, x_TH, weights.norm)


def rotary(weights: DecoderWeights, positions_T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and signed sines (T, 1, D) of the positions, in the model's dtype."""
    angles = positions_T[:, None].float() * weights.inv_freq
    cos, sin = angles.cos() * weights.rope_scale, angles.sin() * weights.rope_scale
    cos_TD, sin_TD = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
    return cos_TD[:, None].to(weights.dtype), sin_TD[:, None].to(weights.dtype)


def _qkv(
    weights: DecoderWeights, qkv_TO: torch.Tensor, cos_T1D: torch.Tensor, sin_T1D: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rotated queries (T, Q, D) and keys (T, K, D), and values (T, K, D)."""
    heads = qkv_TO.view(len(qkv_TO), -1, weights.head_dim)
    num_rotated = weights.num_heads + weights.num_kv_heads
    plain = heads[:, :num_rotated]
    # With the sign in the sine, turning the halves is a roll.
    rotated = torch.addcmul(plain * cos_T1D, plain.roll(weights.head_dim // 2, -1), sin_T1D)
    return rotated[:, : weights.num_heads], rotated[:, weights.num_heads :], heads[:, num_rotated:]


def attend(q_TQD: torch.Tensor, key_RKD: torch.Tensor, value_RKD: torch.Tensor, span: Span) -> torch.Tensor:
    """Causal attention of one span's queries to its request's cached keys: (T, Q * D)."""
    num_rows, num_heads, channels = q_TQD.shape
    k_1KLD, v_1KLD = (_of_request(x, span) for x in (key_RKD, value_RKD))
    num_kv_heads = k_1KLD.shape[1]
    if num_rows == 1:
        q = q_TQD.view(1, num_kv_heads, num_heads // num_kv_heads, channels)
        return F.scaled_dot_product_attention(q, k_1KLD, v_1KLD).reshape(1, -1)
    q = q_TQD.transpose(0, 1)[None]
    grouped = num_heads != num_kv_heads
    if span.offset == 0:
        attended = F.scaled_dot_product_attention(q, k_1KLD, v_1KLD, is_causal=True, enable_gqa=grouped)
    else:
        mask = causal_lower_right(num_rows, span.num_keys)
        attended = F.scaled_dot_product_attention(q, k_1KLD, v_1KLD, attn_mask=mask, enable_gqa=grouped)
    return attended[0].transpose(0, 1).reshape(num_rows, -1)


def padded_rows(spans: Sequence[Span]) -> tuple[torch.Tensor, torch.Tensor]:
    """The cache rows (S, L) that each span sees, padded to the longest, and which of them are real, (S, 1, 1, L)."""
    longest = max(span.num_keys for span in spans)
    rows_SL = torch.stack([F.pad(s.table.rows[: s.num_keys], (0, longest - s.num_keys)) for s in spans])
    lengths_S = torch.tensor([span.num_keys for span in spans], device=rows_SL.device)
    is_real_SL = torch.arange(longest, device=rows_SL.device) < lengths_S[:, None]
    return rows_SL, is_real_SL[:, None, None]


def attend_together(
    q_SQD: torch.Tensor,
    key_RKD: torch.Tensor,
    value_RKD: torch.Tensor,
    rows_SL: torch.Tensor,
    is_real_S11L: torch.Tensor,
) -> torch.Tensor:
    """`attend` for single tokens of several requests at once: (S, Q * D).

    Gathering costs memory traffic and saves calls: a GPU waits for calls, a CPU for memory.
    """
    num_spans, num_heads, channels = q_SQD.shape
    num_kv_heads = key_RKD.shape[1]
    k_SKLD, v_SKLD = (x_RKD[rows_SL].transpose(1, 2) for x_RKD in (key_RKD, value_RKD))
    q_SKGD = q_SQD.reshape(num_spans, num_kv_heads, num_heads // num_kv_heads, channels)
    return F.scaled_dot_product_attention(q_SKGD, k_SKLD, v_SKLD, attn_mask=is_real_S11L).reshape(num_spans, -1)


def _of_request(x_RKD: torch.Tensor, span: Span) -> torch.Tensor:
    """A request's rows of the cache, (1, K, L, D): in place, or gathered where its blocks lie apart."""
    table = span.table
    if table.start is not None:
        rows_LKD = x_RKD[table.start : table.start + span.num_keys]
    else:
        rows_LKD = x_RKD.index_select(0, table.rows[: span.num_keys])
    return rows_LKD.transpose(0, 1)[None]


def _mlp(layer: LayerWeights, x_TH: torch.Tensor, adapted: Sequence[AdaptedRows], index: int) -> torch.Tensor:
    gate_TI, up_TI = add_low_rank(layer.gate_up(x_TH), x_TH, adapted, index, "gate_up").chunk(2, dim=-1)
    hidden_TI = F.silu(gate_TI).mul_(up_TI)
    return add_low_rank(layer.down(hidden_TI), hidden_TI, adapted, index, "down")


def _norm(weights: DecoderWeights, x_TH: torch.Tensor, weight_H: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x_TH, weight_H.shape, weight_H, weights.norm_eps)
