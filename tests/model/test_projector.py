"""Projectors: block order, padding, token counts, names."""

from __future__ import annotations

import pytest
import torch

from nvila.model.projector import PerceiverResampler, Projector, SpatialToChannel, TokenLearner


@pytest.mark.parametrize(("grid", "side"), [(8, 2), (8, 3), (7, 2), (32, 3)])
def test_spatial_to_channel_keeps_blocks_row_major(grid: int, side: int) -> None:
    patches = torch.randn(2, grid * grid, 3)
    tokens = SpatialToChannel(side)(patches)
    blocks = -(-grid // side)
    assert tokens.shape == (2, blocks * blocks, side * side * 3)
    for row in range(blocks):
        for col in range(blocks):
            wanted = []
            for r in range(row * side, (row + 1) * side):
                for c in range(col * side, (col + 1) * side):
                    inside = r < grid and c < grid
                    wanted.append(patches[0, r * grid + c] if inside else torch.zeros(3))
            assert torch.equal(tokens[0, row * blocks + col], torch.cat(wanted))


@pytest.mark.parametrize("kind", ["mlp_downsample", "token_learner", "perceiver_resampler"])
def test_alternatives_give_as_many_tokens_as_the_2x2_projector(kind: str) -> None:
    projector = Projector(kind, 32, 48, num_tokens=16)  # type: ignore[arg-type]
    assert projector(torch.randn(3, 64, 32)).shape == (3, 16, 48)


def test_released_names() -> None:
    names = set(Projector("mlp_downsample_3x3_fix", 8, 16, num_tokens=9).state_dict())
    assert names == {f"layers.{k}.{p}" for k in (1, 2, 4, 5, 7) for p in ("weight", "bias")}
    names = set(Projector("mlp_downsample", 8, 16, num_tokens=16).state_dict())
    assert names == {f"layers.{k}.{p}" for k in (1, 2, 4) for p in ("weight", "bias")}


def test_learned_alternatives_do_not_depend_on_patch_order() -> None:
    """Both see a set of patches: moving patches around moves nothing in the tokens."""
    patches, order = torch.randn(1, 16, 32), torch.randperm(16)
    for module in (TokenLearner(32, 4), PerceiverResampler(32, 4)):
        torch.testing.assert_close(module(patches), module(patches[:, order]), atol=1e-5, rtol=1e-4)


def test_token_learner_weights_are_a_mean_over_patches() -> None:
    constant = torch.ones(1, 16, 32) * torch.arange(32)
    torch.testing.assert_close(TokenLearner(32, 4)(constant), constant[:, :4])
