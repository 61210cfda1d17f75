"""The three phases of a request as free functions: encode images, prefill, decode one token.

Each bounds on something else: encoding and prefill on arithmetic, decoding on memory bandwidth, which is why their
weights may have different formats (paper, section 2.4). What runs when, and for whom, is the scheduler's business.

Letters: N tiles, P patches of a tile, C the tower's width, n features of a medium, T prompt tokens of a step, H the
decoder's width, B requests, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nvila.engine import language
from nvila.engine.kv_cache import BlockTable, KVCache
from nvila.engine.language import Span
from nvila.engine.low_rank import DecoderAdapter
from nvila.engine.prompt import Medium
from nvila.engine.weights import DecoderWeights


@dataclass(frozen=True, kw_only=True)
class PrefillChunk:
    """Prompt tokens of one request from position `offset` on, and the features that lie among them."""

    ids: Sequence[int]
    offset: int
    table: BlockTable
    features: Sequence[tuple[Sequence[int], torch.Tensor]]
    """Positions in the chunk, and the features (n, H) that go there."""
    ends_prompt: bool
    adapter: DecoderAdapter | None = None


def encode_tiles(model: Any, pixels_N3SS: torch.Tensor) -> torch.Tensor:
    """Features (N, P, C) of tiles or frames by the vision tower, within the model's vision memory budget."""
    # bf16 pixels are half as much to copy, and the tower rounds them anyway.
    features: torch.Tensor = model.encode_tiles(pixels_N3SS.to(model.dtype).to(model.device, non_blocking=True))
    return features


def encode_images(model: Any, medium: Medium, features_NPC: torch.Tensor) -> torch.Tensor:
    """Decoder-space features (n, H) of a picture or clip from its tiles' features."""
    if medium.kind == "image":
        found = model.get_image_features(None, [medium.grid], features_NPC)
    else:
        found = model.get_video_features(None, [len(features_NPC)], features_NPC)
    # A copy of its own: a part of a larger tensor would keep the whole of it alive.
    features: torch.Tensor = found.pooler_output[0].clone(memory_format=torch.contiguous_format)
    return features


def prefill(weights: DecoderWeights, cache: KVCache, chunks: Sequence[PrefillChunk]) -> torch.Tensor:
    """Next-token logits (B, V) of the chunks that end their prompts, in order; the cache takes all chunks' tokens."""
    ids_T = torch.tensor([token for chunk in chunks for token in chunk.ids], device=weights.device)
    x_TH = language.embed(weights, ids_T)
    spans: list[Span] = []
    begin = 0
    for chunk in chunks:
        for positions, features_nH in chunk.features:
            rows = torch.tensor(positions, device=weights.device) + begin
            x_TH.index_copy_(0, rows, features_nH.to(x_TH.dtype))
        spans.append(Span(begin, begin + len(chunk.ids), chunk.offset, chunk.table, chunk.adapter))
        begin += len(chunk.ids)
    hidden_SH = language.forward(weights, cache, x_TH, spans)
    wanted = [index for index, chunk in enumerate(chunks) if chunk.ends_prompt]
    return weights.head(hidden_SH[wanted])


def decode_one_token(
    weights: DecoderWeights,
    cache: KVCache,
    ids: Sequence[int],
    offsets: Sequence[int],
    tables: Sequence[BlockTable],
    adapters: Sequence[DecoderAdapter | None] | None = None,
) -> torch.Tensor:
    """Next-token logits (B, V) of requests whose last token `ids[b]` has the position `offsets[b]`."""
    x_BH = language.embed(weights, torch.tensor(ids, device=weights.device))
    found = zip(offsets, tables, adapters or [None] * len(ids), strict=True)
    spans = [Span(row, row + 1, offset, table, adapter) for row, (offset, table, adapter) in enumerate(found)]
    return weights.head(language.forward(weights, cache, x_BH, spans))
