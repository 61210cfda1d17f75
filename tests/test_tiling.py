"""Tile grids against every golden choice, and at the edges."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nvila.errors import ConfigError
from nvila.tiling import candidate_grids, choose_grid, min_tiles_of_scales


def test_golden_choices(golden: Path) -> None:
    table = json.loads((golden / "tile_choices.json").read_text())
    assert len({(width, height) for width, height, *_ in table["rows"]}) == 1534
    for width, height, tile_size, dynamic, dynamic_s2 in table["rows"]:
        assert choose_grid(width, height, tile_size, 1, 12) == tuple(dynamic), (width, height, tile_size)
        assert choose_grid(width, height, tile_size, 9, 12) == tuple(dynamic_s2), (width, height, tile_size)


def test_golden_order(golden: Path) -> None:
    table = json.loads((golden / "tile_choices.json").read_text())
    assert [list(grid) for grid in candidate_grids(1, 12)] == table["ratio_order_dynamic_1_12"]
    assert [list(grid) for grid in candidate_grids(9, 12)] == table["ratio_order_dynamic_s2_9_12"]


def test_candidates_are_complete_and_sorted_by_tiles() -> None:
    for smallest, largest in ((1, 1), (1, 6), (4, 12), (2, 2), (9, 30)):
        grids = candidate_grids(smallest, largest)
        products = [cols * rows for cols, rows in grids]
        assert products == sorted(products)
        assert set(grids) == {
            (cols, rows)
            for cols in range(1, largest + 1)
            for rows in range(1, largest + 1)
            if smallest <= cols * rows <= largest
        }


@pytest.mark.parametrize(
    ("size", "limits", "grid"),
    [
        ((448, 448), (1, 12), (1, 1)),  # equally square grids: the smallest, for an image that small
        ((1000, 1000), (1, 12), (3, 3)),
        ((4000, 400), (1, 12), (10, 1)),
        ((400, 4000), (1, 4), (1, 4)),
        ((30, 30), (1, 1), (1, 1)),
        ((100, 100), (7, 7), (1, 7)),  # 7 cols differ by 6, 7 rows by less than 1
    ],
)
def test_choice(size: tuple[int, int], limits: tuple[int, int], grid: tuple[int, int]) -> None:
    assert choose_grid(*size, 448, *limits) == grid


def test_fewest_tiles_of_scales() -> None:
    assert min_tiles_of_scales((448, 896, 1344)) == 9
    assert min_tiles_of_scales((112,)) == 1


@pytest.mark.parametrize("limits", [(0, 3), (4, 3), (-1, -1)])
def test_bounds_out_of_order(limits: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=r"1 <= min_tiles <= max_tiles"):
        candidate_grids(*limits)


@pytest.mark.parametrize("size", [(0, 10, 448), (10, 0, 448), (10, 10, 0)])
def test_no_pixels(size: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="at least 1 pixel"):
        choose_grid(*size, 1, 12)
