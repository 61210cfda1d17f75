"""Attention inside segments equals torch's own, one segment at a time, forward and backward."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch

from nvila.ops.attention import reference_segment_attention, segment_attention

LENGTHS = {
    "equal": [12, 12, 12],
    "mixed": [1, 16, 17, 20, 90, 3, 40, 5],
    "one": [50],
    "empty between": [7, 0, 9],
}


def inputs(num_tokens: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(num_tokens)
    return [
        torch.randn(num_tokens, 2, 8, generator=generator, dtype=torch.float32).to(dtype).requires_grad_()
        for _ in range(3)
    ]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", LENGTHS)
def test_equals_the_reference(name: str, causal: bool) -> None:
    borders = [0, *accumulate(LENGTHS[name])]
    ours, theirs = (inputs(borders[-1], torch.float64) for _ in range(2))
    found = segment_attention(*ours, borders, scale=0.3, causal=causal)
    expected = reference_segment_attention(*theirs, borders, scale=0.3, causal=causal)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_bf16_is_within_its_rounding() -> None:
    borders = [0, 30, 47, 147]
    rounded, exact = inputs(147, torch.bfloat16), inputs(147, torch.bfloat16)
    found = segment_attention(*rounded, borders, scale=0.3)
    expected = reference_segment_attention(*(x.float() for x in exact), borders, scale=0.3)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.03)


def test_borders_of_other_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="reach from 0 to 4, but there are 5 tokens"):
        segment_attention(*inputs(5, torch.float32), [0, 2, 4], scale=1.0)
