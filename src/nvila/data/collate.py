"""Encoded samples to a batch: packed rows, or one sample a row with padding.

Packed rows change nothing that is learned (the paper's "functional-preserving" packing, section 3.1): positions restart
at every sample, no token attends across a border, and none is predicted across one. How a border is known depends on
the attention: transformers builds the mask of `sdpa`, `eager` and `flex_attention` from the restarting positions, for
which there must be no attention mask and no KV cache; its flash attention takes `cu_seq_lens_*`, the places of the
borders. Both are in the batch; what an attention does not want it ignores.

Letters: B rows, L tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nvila.data.encode import Encoded
from nvila.errors import DataError
from nvila.processing.chat import IGNORED


def collate_packed(rows: Sequence[Sequence[Encoded]], *, pad_id: int, length: int | None = None) -> dict[str, Any]:
    """A batch of packed rows, all that the model's `forward` takes.

    input_ids, labels, position_ids: (B, L) long; L is the longest row's, or `length`. Padding at a row's end is a
    sample of its own without labels. cu_seq_lens_q, cu_seq_lens_k: (samples + paddings + 1,) int32, borders in the
    rows laid end to end; max_length_q, max_length_k: tokens between the two farthest. Pixels as in `media_inputs`.
    Raises DataError when there is nothing to collate, and for a row longer than `length`, with both numbers.
    """
    _refuse_empty(rows)
    sizes = [[sample.num_tokens for sample in row] for row in rows]
    longest = max(sum(row) for row in sizes)
    length = longest if length is None else length
    if longest > length:
        raise DataError(f"a packed row has {longest} tokens, over the length of {length}; pack it with that budget")
    segments = [[*row, length - sum(row)] if sum(row) < length else row for row in sizes]
    position_ids = torch.stack([torch.cat([torch.arange(size) for size in row]) for row in segments])
    labels = _padded([torch.cat([sample.labels for sample in row]) for row in rows], length, IGNORED)
    labels[position_ids == 0] = IGNORED  # what the token before it, of another sample, would have to predict
    return {
        "input_ids": _padded([torch.cat([sample.input_ids for sample in row]) for row in rows], length, pad_id),
        "labels": labels,
        "position_ids": position_ids,
        **_borders([size for row in segments for size in row]),
        **media_inputs([sample for row in rows for sample in row]),
    }


def collate_padded(samples: Sequence[Encoded], *, pad_id: int) -> dict[str, Any]:
    """A batch with one sample a row, padded on the right to the longest.

    input_ids, labels, attention_mask: (B, L) long. Pixels as in `media_inputs`. Raises DataError for no samples.
    """
    _refuse_empty([samples])
    length = max(sample.num_tokens for sample in samples)
    return {
        "input_ids": _padded([sample.input_ids for sample in samples], length, pad_id),
        "labels": _padded([sample.labels for sample in samples], length, IGNORED),
        "attention_mask": _padded([torch.ones_like(sample.input_ids) for sample in samples], length, 0),
        **media_inputs(samples),
    }


def media_inputs(samples: Sequence[Encoded]) -> dict[str, Any]:
    """The pixels of a batch in the samples' order, as the model takes them; without the kinds that it has none of.

    pixel_values: (tiles, 3, S, S) float, block_sizes: a (rows, cols) a picture; pixel_values_videos: (frames, 3, S, S)
    float, video_lengths: the frames of each clip.
    """
    inputs: dict[str, Any] = {}
    tiles = [sample.pixel_values for sample in samples if sample.pixel_values is not None]
    if tiles:
        inputs["pixel_values"] = torch.cat(tiles)
        inputs["block_sizes"] = [block for sample in samples for block in sample.block_sizes]
    frames = [sample.pixel_values_videos for sample in samples if sample.pixel_values_videos is not None]
    if frames:
        inputs["pixel_values_videos"] = torch.cat(frames)
        inputs["video_lengths"] = [frames for sample in samples for frames in sample.video_lengths]
    return inputs


def _padded(rows: Sequence[torch.Tensor], length: int, value: int) -> torch.Tensor:
    padded = torch.full((len(rows), length), value, dtype=torch.long)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded


def _borders(sizes: Sequence[int]) -> dict[str, Any]:
    """What flash attention wants to know of samples that lie end to end."""
    borders = torch.tensor([0, *sizes]).cumsum(0).to(torch.int32)
    names = ("q", "k")
    return {f"cu_seq_lens_{name}": borders for name in names} | {f"max_length_{name}": max(sizes) for name in names}


def _refuse_empty(rows: Sequence[Sequence[Encoded]]) -> None:
    if not rows or not all(rows):
        raise DataError("a batch has a row without samples; give each row at least 1")
