"""The S2 merge against the definition, pixel by pixel."""

from __future__ import annotations

import torch

from nvila.model import s2


def test_stitch_places_every_patch_where_it_lies_in_the_image() -> None:
    rows, cols, side = 2, 3, 4
    image = torch.arange(rows * side * cols * side, dtype=torch.float32).reshape(rows * side, cols * side)
    tiles = [
        image[r * side : (r + 1) * side, c * side : (c + 1) * side].flatten() for r in range(rows) for c in range(cols)
    ]
    stitched = s2.stitch(torch.stack(tiles).unsqueeze(-1), (rows, cols))
    assert torch.equal(stitched[0], image)
    assert torch.equal(s2.split(stitched, (rows, cols)).squeeze(-1), torch.stack(tiles))


def test_number_of_tiles_counts_every_scale_once() -> None:
    assert s2.num_tiles((448, 896, 1344), (3, 4)) == 1 + 4 + 12
    assert s2.num_tiles((448, 896, 1344), (1, 1)) == 1


def test_merge_averages_areas_and_orders_channels_from_small_to_large() -> None:
    scales, grid, side = (28, 56, 84), (3, 4), 2
    tiles = torch.randn(17, side * side, 5)
    merged, out_grid = s2.merge_scales(tiles, scales, grid, -1)
    assert out_grid == grid
    assert merged.shape == (12, 4, 15)
    stitched = s2.stitch(merged, grid)
    assert torch.equal(stitched[10:], s2.stitch(tiles[5:], grid))
    height, width = 3 * side, 4 * side
    for channel in range(5):
        small = tiles[0, :, channel].reshape(side, side)
        for row in range(height):
            for col in range(width):
                # Area interpolation: the mean over the source cells that the target cell touches.
                top, bottom = row * side // height, -(-(row + 1) * side // height)
                left, right = col * side // width, -(-(col + 1) * side // width)
                torch.testing.assert_close(stitched[channel, row, col], small[top:bottom, left:right].mean())


def test_an_untiled_image_repeats_its_features_on_channels() -> None:
    tiles = torch.randn(1, 16, 3)
    merged, grid = s2.merge_scales(tiles, (56, 112, 168), (1, 1), -1)
    assert grid == (1, 1)
    assert torch.equal(merged, torch.cat([tiles, tiles, tiles], dim=-1))


def test_the_output_scale_decides_the_map_and_its_grid() -> None:
    merged, grid = s2.merge_scales(torch.randn(17, 4, 2), (28, 56, 84), (4, 3), 1)
    assert grid == (2, 2)
    assert merged.shape == (4, 4, 6)


def test_tokens_run_row_by_row_over_the_whole_image() -> None:
    tokens = torch.arange(2 * 4, dtype=torch.float32).reshape(2, 4, 1)  # two tiles side by side, 2 x 2 tokens each
    assert s2.to_row_major(tokens, (1, 2)).flatten().tolist() == [0, 1, 4, 5, 2, 3, 6, 7]
