"""The format of moments: the stretch, rounding that keeps drifts, numbers that cannot be stretched, blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nvila.train.precision.expansion import CODES, PEAKS, Groups, even_offsets, num_groups, pieces


def empty_groups(num_rows: int, row_length: int, *, expansion: bool = True) -> Groups:
    shape = (num_rows, num_groups(row_length))
    exponents = torch.zeros(shape, dtype=PEAKS) if expansion else None
    return Groups(torch.zeros(num_rows, row_length, dtype=CODES), torch.zeros(shape, dtype=PEAKS), exponents)


def stored(values: torch.Tensor, *, expansion: bool = True, **how: Any) -> torch.Tensor:
    """`values` (R, L) written and read again."""
    groups = empty_groups(*values.shape, expansion=expansion)
    groups.write(values, **how)
    return groups.read()


def test_a_group_is_stored_by_the_formula() -> None:
    values = torch.tensor([[1.0, -0.5, 0.25, 0.0, 2.0**-4]])
    groups = empty_groups(1, 5)
    groups.write(values)
    k = groups.exponents.double().item()
    assert groups.peaks.item() == pytest.approx(1.0, rel=2**-7)
    assert k == pytest.approx(17.807 / 4, rel=2**-7)  # log2(448 / 2^-9) octaves over the 4 of the group
    codes = (448 * values.double().abs() / groups.peaks.double()).pow(1) / 448
    expected = (448 * codes.pow(k)).float().to(CODES).float() * values.sign()
    assert torch.equal(groups.codes.float(), expected)
    inverse = (expected.double().abs() / 448).pow(1 / k) * groups.peaks.double() * values.sign()
    torch.testing.assert_close(groups.read().double(), inverse, rtol=1e-5, atol=0)


def test_expansion_halves_the_error_of_a_narrow_group_and_a_wide_one_is_squeezed() -> None:
    torch.manual_seed(0)
    narrow = torch.randn(64, 256).exp()
    wide = 10 ** (-9 * torch.rand(64, 256))

    def error(values: torch.Tensor, *, expansion: bool) -> float:
        return ((stored(values, expansion=expansion) - values) / values).abs().mean().item()

    assert error(narrow, expansion=True) < 0.5 * error(narrow, expansion=False)
    assert error(wide, expansion=True) < 0.1
    assert error(wide, expansion=False) > 0.3


def test_numbers_that_cannot_be_stretched_are_kept() -> None:
    values = torch.zeros(4, 128)
    values[1] = 3.0
    values[2, 5] = -7e-12
    values[3, :2] = torch.tensor([1e3, 1e-27])
    read = stored(values)
    assert torch.equal(read[0], values[0])
    torch.testing.assert_close(read[1], values[1], rtol=2**-6, atol=0)
    torch.testing.assert_close(read[2], values[2], rtol=2**-6, atol=0)
    torch.testing.assert_close(read[3, :1], values[3, :1], rtol=2**-6, atol=0)
    assert stored(values, never_zero=True)[3, 1] > 0
    assert stored(values, never_zero=True, expansion=False)[3, 1] > 0
    assert stored(values, expansion=False)[3, 1] == 0


@pytest.mark.parametrize("value", [0.003, 0.0171, 0.5, 300.0])
def test_offsets_keep_the_mean_and_land_next_to_the_value(value: float) -> None:
    values = torch.full((1, 128), value)
    values[0, 0] = 448.0  # a peak of 448 and no exponents: codes are the values
    read = torch.stack(
        [stored(values, expansion=False, offsets=even_offsets(step, values.device)) for step in range(200)]
    )
    found = read[:, 0, 1:].unique()
    assert len(found) == 2
    assert found[0] <= value * (1 + 2**-7)
    assert found[1] >= value
    assert read[:, 0, 1:].mean().item() == pytest.approx(
        value * 448 / stored(values, expansion=False).max().item(), rel=0.02
    )


def test_an_average_that_moves_less_than_a_step_of_the_grid_still_moves() -> None:
    truth = torch.cat([torch.ones(64), torch.full((64,), 1e-3)])[None]
    start, target = truth.clone(), truth.clone()
    start[0, 64:96] = 0.1
    nearest, even = empty_groups(1, 128), empty_groups(1, 128)
    nearest.write(start, never_zero=True)
    even.write(start, never_zero=True, spare_octaves=2)
    exact = start
    for step in range(1500):
        exact = 0.999 * exact + 0.001 * target
        nearest.write(0.999 * nearest.read() + 0.001 * target, never_zero=True)
        offsets = even_offsets(step, target.device)
        even.write(0.999 * even.read() + 0.001 * target, spare_octaves=2, never_zero=True, offsets=offsets)
    decayed = slice(64, 96)
    assert nearest.read()[0, decayed].mean() > 2 * exact[0, decayed].mean()
    assert even.read()[0, decayed].mean().item() == pytest.approx(exact[0, decayed].mean().item(), rel=0.1)


@pytest.mark.parametrize(("shape", "limit"), [((3, 300), 128), ((7, 130), 520), ((1, 1000), 256), ((0, 256), 64)])
def test_pieces_cover_everything_once_and_cut_no_group(shape: tuple[int, int], limit: int) -> None:
    seen, seen_groups = torch.zeros(shape), torch.zeros(shape[0], num_groups(shape[1]))
    for piece in pieces(*shape, limit):
        assert piece.columns.start == 128 * piece.groups.start
        seen[piece.rows, piece.columns] += 1
        seen_groups[piece.rows, piece.groups] += 1
    assert (seen == 1).all()
    assert (seen_groups == 1).all()
