"""Dynamic-S2: the features of one image at several scales become one wide feature map (paper, section 2.1.1).

Each scale's tiles are stitched, resized to one scale's size by area interpolation in float32, and concatenated on
channels, small scale first. The trade: detail of the large scales and context of the small ones for the price of the
tower's extra tiles, while the number of tokens follows the last scale alone.

Letters: N tiles, P patches of a tile, C channels, H and W of a map in patches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

Grid = tuple[int, int]  # (rows, cols)


def stitch(tiles_NPC: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Tiles (rows*cols, P, C) in row-major order to one map (C, rows*sqrt(P), cols*sqrt(P))."""
    rows, cols = grid
    num_tiles, patches, channels = tiles_NPC.shape
    side = round(patches**0.5)
    assert (num_tiles, patches) == (rows * cols, side * side)
    x = tiles_NPC.reshape(rows, cols, side, side, channels)
    return x.permute(4, 0, 2, 1, 3).reshape(channels, rows * side, cols * side)


def split(map_CHW: torch.Tensor, grid: Grid) -> torch.Tensor:
    """A map (C, H, W) to tiles (rows*cols, P, C) in row-major order: the inverse of `stitch`."""
    rows, cols = grid
    channels, height, width = map_CHW.shape
    x = map_CHW.reshape(channels, rows, height // rows, cols, width // cols)
    return x.permute(1, 3, 2, 4, 0).reshape(rows * cols, (height // rows) * (width // cols), channels)


def scale_grids(scales: Sequence[int], last: Grid) -> list[Grid]:
    """The tile grid at each scale of one tiled image: squares, then the grid chosen for the image."""
    squares = [(scale // scales[0], scale // scales[0]) for scale in scales[:-1]]
    return [*squares, last]


def num_tiles(scales: Sequence[int], grid: Grid) -> int:
    """Tiles of one image whose last scale has `grid`: all scales' tiles, or 1 for an untiled image, (1, 1)."""
    if grid == (1, 1):
        return 1
    return sum(rows * cols for rows, cols in scale_grids(scales, grid))


def merge_scales(
    tiles_NPC: torch.Tensor, scales: Sequence[int], grid: Grid, output_scale: int
) -> tuple[torch.Tensor, Grid]:
    """One image's tiles of all scales (N, P, C) to its merged tiles (rows*cols, P, C*len(scales)) and their grid.

    `output_scale` is the index of the scale whose size the map takes. An untiled image, grid (1, 1), has its features
    repeated once per scale.
    """
    if grid == (1, 1):
        return tiles_NPC.repeat(1, 1, len(scales)), grid
    grids = scale_grids(scales, grid)
    pieces = tiles_NPC.split([rows * cols for rows, cols in grids])
    maps = [stitch(piece, scale_grid) for piece, scale_grid in zip(pieces, grids, strict=True)]
    size = maps[output_scale].shape[1:]
    resized = [F.interpolate(x[None].float(), size=size, mode="area")[0].to(x.dtype) for x in maps]
    return split(torch.cat(resized), grids[output_scale]), grids[output_scale]


def to_row_major(tiles_NTH: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Projected tiles (rows*cols, T, H) to the tokens of the whole image in row-major order: (rows*cols*T, H)."""
    return stitch(tiles_NTH, grid).flatten(1).T
