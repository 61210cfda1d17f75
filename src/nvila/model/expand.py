"""Repeating media for beam search and several answers.

transformers repeats tensors along their first dimension, which for media counts tiles or frames, not conversations.
Here each conversation's media are found by their placeholders and repeated as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from nvila.model import s2

if TYPE_CHECKING:
    from nvila.model.base import NVILAPreTrainedModel


def expand_media(
    model: NVILAPreTrainedModel, input_ids_BL: torch.Tensor, media: dict[str, Any], times: int
) -> dict[str, Any]:
    """`media` with every conversation's images and clips standing `times` times in a row.

    media: pixel_values (N, 3, S, S) with block_sizes, pixel_values_videos (frames, 3, S, S) with video_lengths, and
    the like under `tile_features` and `video_tile_features`.
    """
    visual = model.visual
    tokens = visual.tokens_per_tile
    expanded = dict(media)
    images = media.get("pixel_values", media.get("tile_features"))
    if images is not None:
        grids = model._grids(media.get("block_sizes"), images.shape[0])
        rows = [model.num_image_tiles(grid) for grid in grids]
        kept = rows if not visual.s2_scales else [_s2_blocks(model, grid) for grid in grids]
        order, tile_order = _orders(input_ids_BL, model.config.image_token_id, [k * tokens for k in kept], rows, times)
        expanded["block_sizes"] = [grids[index] for index in order]
        for name in ("pixel_values", "tile_features"):
            if name in media:
                expanded[name] = media[name][tile_order]
    clips = media.get("pixel_values_videos", media.get("video_tile_features"))
    if clips is not None:
        lengths = [int(length) for length in media.get("video_lengths") or [clips.shape[0]]]
        counts = [-(-length // visual.temporal_pool) * tokens for length in lengths]
        order, frame_order = _orders(input_ids_BL, model.config.video_token_id, counts, lengths, times)
        expanded["video_lengths"] = [lengths[index] for index in order]
        for name in ("pixel_values_videos", "video_tile_features"):
            if name in media:
                expanded[name] = media[name][frame_order]
    return expanded


def _s2_blocks(model: NVILAPreTrainedModel, grid: tuple[int, int]) -> int:
    """Projected tiles of one image under Dynamic-S2: those of the scale whose size the map takes."""
    if grid == (1, 1):
        return 1
    rows, cols = s2.scale_grids(model.visual.s2_scales, grid)[model.visual.s2_resize_output_to_scale_idx]
    return rows * cols


def _orders(
    input_ids_BL: torch.Tensor, placeholder: int, tokens: list[int], rows: list[int], times: int
) -> tuple[list[int], list[int]]:
    """The order of media, and of their rows, after each conversation is repeated `times` times."""
    starts = [sum(rows[:index]) for index in range(len(rows))]
    order: list[int] = []
    next_medium = 0
    for wanted in (input_ids_BL == placeholder).sum(dim=1).tolist():
        mine = []
        while wanted > 0 and next_medium < len(tokens):
            mine.append(next_medium)
            wanted -= tokens[next_medium]
            next_medium += 1
        order.extend(mine * times)
    row_order = [starts[index] + row for index in order for row in range(rows[index])]
    return order, row_order
