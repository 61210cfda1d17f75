"""Tile grids as pure integers: which grid of square tiles an image of a given size is cut into.

`dynamic` and `dynamic_s2` choose the grid whose aspect ratio is nearest to the image's (paper, section 2.1.1); they
differ only in how few tiles they allow. The trade: an image is stretched to its grid, so that no pixel is padding.
Nothing here sees an image; a grid is (cols, rows).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from nvila.errors import ConfigError

Grid = tuple[int, int]  # (cols, rows)


def min_tiles_of_scales(scales: Sequence[int]) -> int:
    """The fewest tiles that Dynamic-S2's last scale is cut into: (last / first) squared."""
    return (scales[-1] // scales[0]) ** 2


@lru_cache(maxsize=256)
def candidate_grids(min_tiles: int, max_tiles: int) -> tuple[Grid, ...]:
    """All grids (cols, rows) of `min_tiles` to `max_tiles` tiles, fewest tiles first.

    Among grids of equally many tiles the order decides ties, and the published models were trained with the iteration
    order of a Python set of pairs, filled as here: an accident, kept because their numbers depend on it.
    Raises ConfigError when the bounds are not 1 <= min_tiles <= max_tiles.
    """
    if not 1 <= min_tiles <= max_tiles:
        raise ConfigError(f"tiles from {min_tiles} to {max_tiles}: need 1 <= min_tiles <= max_tiles")
    grids = {
        (cols, rows)
        for num_tiles in range(min_tiles, max_tiles + 1)
        for cols in range(1, num_tiles + 1)
        for rows in range(1, num_tiles + 1)
        if min_tiles <= cols * rows <= max_tiles
    }
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))


def choose_grid(width: int, height: int, tile_size: int, min_tiles: int, max_tiles: int) -> Grid:
    """The grid (cols, rows) for an image of `width` x `height` pixels and square tiles of `tile_size` pixels.

    The nearest aspect ratio wins; of equally near ones the earlier candidate, unless the image holds more than half
    the pixels of the later one's grid. Raises ConfigError for sizes below 1 and for bounds out of order.
    """
    if width < 1 or height < 1 or tile_size < 1:
        raise ConfigError(f"an image of {width}x{height} in tiles of {tile_size}: all must be at least 1 pixel")
    ratio = width / height
    area = width * height
    best: Grid = (1, 1)
    smallest = float("inf")
    for cols, rows in candidate_grids(min_tiles, max_tiles):
        difference = abs(ratio - cols / rows)
        if difference < smallest:
            smallest, best = difference, (cols, rows)
        elif difference == smallest and area > 0.5 * tile_size * tile_size * cols * rows:
            best = (cols, rows)
    return best
