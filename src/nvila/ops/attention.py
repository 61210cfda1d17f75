"""Attention inside segments: samples that lie end to end in a row attend to themselves alone.

A masked product over the whole row costs its length squared, however short the samples are. Here segments of like
length are gathered into one batched product, so that the cost follows the samples; gradients are written out, because
autograd would copy every gathered tensor once more. Written for CPUs, where it also beats the fused kernel on short
sequences (`benchmarks/bench_train_step.py`); a GPU has flash attention.

Letters: T tokens, H heads, D channels of a head, n segments of a bucket, W its width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import nn

_LADDER = (1.0, 1.25, 1.5, 1.75)
"""A bucket is as wide as its power of two times one of these: at most a quarter of a product is wasted."""
_NARROWEST = 16


class Bucket(NamedTuple):
    """Segments that are computed as if they were equally long."""

    rows: torch.Tensor
    """(n * H * W,): which rows of (T * H, D) they are, T * H for padding; empty where no gathering is needed."""
    width: int
    padding: torch.Tensor | None
    """(n * H, 1, W) bool, where keys are padding; None where a causal mask hides them anyway, or there are none."""


def segment_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: Sequence[int],
    *,
    scale: float,
    causal: bool = True,
) -> torch.Tensor:
    """softmax(scale * query key^T) value within each segment. query, key, value and the result: (T, H, D).

    borders: 0, the ends of all segments but the last, T. Equals `reference_segment_attention` within the dtype's
    rounding, the scores being rounded to the dtype before the softmax.
    """
    num_tokens, num_heads, _ = query.shape
    if borders[0] != 0 or borders[-1] != num_tokens:
        raise ValueError(f"segments reach from {borders[0]} to {borders[-1]}, but there are {num_tokens} tokens")
    buckets = _buckets(tuple(borders), num_heads, causal, query.device)
    attended: torch.Tensor = _SegmentAttention.apply(query, key, value, buckets, scale, causal)
    return attended


def reference_segment_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: Sequence[int],
    *,
    scale: float,
    causal: bool = True,
) -> torch.Tensor:
    """What `segment_attention` computes, one segment at a time by torch's own attention."""
    attended = []
    for begin, end in pairwise(borders):
        q, k, v = (x[begin:end].transpose(0, 1) for x in (query, key, value))
        attended.append(nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale))
    return torch.cat(attended, dim=1).transpose(0, 1)


@lru_cache(maxsize=8)
def _buckets(borders: tuple[int, ...], num_heads: int, causal: bool, device: torch.device) -> tuple[Bucket, ...]:
    """The segments by like width; the same for all layers of a forward pass."""
    starts, lengths = torch.tensor(borders[:-1]), torch.tensor(borders).diff()
    if len(set(lengths.tolist())) == 1:
        return (Bucket(torch.empty(0, dtype=torch.long), int(lengths[0]), None),)
    widths = torch.tensor([_width(length) for length in lengths.tolist()])
    return tuple(
        _bucket(starts[widths == width], lengths[widths == width], int(width), borders[-1], num_heads, causal, device)
        for width in widths.unique().tolist()
        if width
    )


def _bucket(
    starts: torch.Tensor,
    lengths: torch.Tensor,
    width: int,
    num_tokens: int,
    num_heads: int,
    causal: bool,
    device: torch.device,
) -> Bucket:
    width = min(width, int(lengths.max()))
    offsets_W = torch.arange(width)
    is_padding_nW = offsets_W >= lengths[:, None]
    tokens_nW = starts[:, None] + offsets_W
    rows_nHW = tokens_nW[:, None] * num_heads + torch.arange(num_heads)[:, None]
    rows_nHW = rows_nHW.masked_fill(is_padding_nW[:, None], num_tokens * num_heads)
    hidden = None if causal or not is_padding_nW.any() else is_padding_nW.repeat_interleave(num_heads, 0)[:, None]
    return Bucket(rows_nHW.flatten().to(device), width, None if hidden is None else hidden.to(device))


def _width(length: int) -> int:
    """The narrowest bucket for a segment; 0 for one without tokens."""
    if length <= _NARROWEST:
        return _NARROWEST if length else 0
    power = 1 << ((length - 1).bit_length() - 1)
    return next((int(power * step) for step in _LADDER if length <= power * step), 2 * power)


class _SegmentAttention(torch.autograd.Function):
    """Keeps the gathered queries, keys, values and probabilities of each bucket."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        buckets: tuple[Bucket, ...],
        scale: float,
        causal: bool,
    ) -> torch.Tensor:
        with torch.autocast(query.device.type, enabled=False):
            gathered = [_gather(x, buckets) for x in (query, key, value)]
            probabilities = [
                _probabilities(q, k, bucket, scale, causal)
                for q, k, bucket in zip(gathered[0], gathered[1], buckets, strict=True)
            ]
            attended = [torch.bmm(p, v) for p, v in zip(probabilities, gathered[2], strict=True)]
            ctx.save_for_backward(*gathered[0], *gathered[1], *gathered[2], *probabilities)
            ctx.buckets, ctx.scale = buckets, scale
            return _scatter(attended, buckets, query.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        buckets, scale = ctx.buckets, ctx.scale
        tensors, count = ctx.saved_tensors, len(buckets)
        saved = [tensors[start : start + count] for start in range(0, 4 * count, count)]
        d_query, d_key, d_value = [], [], []
        for grad, q, k, v, p in zip(_gather(grads[0], buckets), *saved, strict=True):
            d_value.append(torch.bmm(p.transpose(1, 2), grad))
            d_scores = torch._softmax_backward_data(torch.bmm(grad, v.transpose(1, 2)), p, -1, p.dtype)
            d_query.append(torch.bmm(d_scores, k).mul_(scale))
            d_key.append(torch.bmm(d_scores.transpose(1, 2), q).mul_(scale))
        shape = grads[0].shape
        return *(_scatter(found, buckets, shape) for found in (d_query, d_key, d_value)), None, None, None


def _probabilities(q: torch.Tensor, k: torch.Tensor, bucket: Bucket, scale: float, causal: bool) -> torch.Tensor:
    """softmax of the scores (n * H, W, W)."""
    if causal:
        bias = torch.full((bucket.width, bucket.width), -torch.inf, dtype=q.dtype, device=q.device).triu_(1)
        scores = torch.baddbmm(bias.expand(len(q), -1, -1), q, k.transpose(1, 2), alpha=scale)
    else:
        scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale)
    if bucket.padding is not None:
        scores.masked_fill_(bucket.padding, -torch.inf)
    return scores.softmax(dim=-1)


def _gather(x_THD: torch.Tensor, buckets: tuple[Bucket, ...]) -> list[torch.Tensor]:
    """(n * H, W, D) of each bucket, zeros in the padding."""
    num_tokens, num_heads, width = x_THD.shape
    if not len(buckets[0].rows):
        segments = x_THD.unflatten(0, (-1, buckets[0].width)).transpose(1, 2)
        return [segments.reshape(-1, buckets[0].width, width)]
    rows = torch.cat((x_THD.reshape(num_tokens * num_heads, width), x_THD.new_zeros(1, width)))
    return [rows.index_select(0, bucket.rows).view(-1, bucket.width, width) for bucket in buckets]


def _scatter(found: list[torch.Tensor], buckets: tuple[Bucket, ...], shape: torch.Size) -> torch.Tensor:
    """(T, H, D) of what was computed for each bucket."""
    num_tokens, num_heads, width = shape
    if not len(buckets[0].rows):
        segments = found[0].view(-1, num_heads, buckets[0].width, width).transpose(1, 2)
        return segments.reshape(num_tokens, num_heads, width)
    rows = found[0].new_empty(num_tokens * num_heads + 1, width)
    for part, bucket in zip(found, buckets, strict=True):
        rows.index_copy_(0, bucket.rows, part.view(-1, width))
    return rows[:-1].view(num_tokens, num_heads, width)
