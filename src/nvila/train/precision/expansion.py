"""Groups of 128 numbers in E4M3 whose dynamic range is stretched until it fills the format's: how moments are stored.

After COAT (arXiv 2410.19313, section 4): the moments of a group span fewer octaves than E4M3 has, so most of its codes
lie idle. f(x) = sign(x) |x|^k with k = log R_fp8 / log R_x stretches them, R being the largest over the smallest
magnitude that is not zero; an error of a factor 1 + e behind f is one of (1 + e)^(1/k) in x. A k below 1 squeezes a
group that spans more octaves than E4M3.

A group keeps its largest magnitude and k, both in bf16 and both as they are stored used for writing too, so that their
own rounding costs nothing:

    code = 448 sign(x) (|x| / peak)^k        x = sign(code) peak (|code| / 448)^(1/k)

Two things are ours. `never_zero` keeps a positive number from being rounded to zero: a second moment of zero under a
first moment that is not would throw its weight across the room (without expansion, within ten steps of a small
decoder). `offsets` replace rounding to nearest: an average that moves by less than half a step of its grid never moves
at all. At beta2 0.999 second moments then stay near where the first steps put them, wrong by half after 200 steps of
that decoder instead of by a tenth (see also arXiv 2603.16731). Rounding up in a share of the steps keeps the drift. The
share is kept by a sequence that is even over the steps, not by random numbers: it costs 128 numbers a step, and a
resumed run repeats it exactly.

Letters: R rows, L numbers a row, K = ceil(L / 128) groups a row; the last may be short.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.nn import functional as F

GROUP_SIZE = 128
CODES = torch.float8_e4m3fn
PEAKS = torch.bfloat16
_LARGEST = torch.finfo(CODES).max
_SMALLEST_NORMAL_EXPONENT = -6  # numbers below 2^-6 are subnormal: evenly spaced, 2^-9 apart
_MANTISSA_BITS = 3
_SMALLEST = 2.0 ** (_SMALLEST_NORMAL_EXPONENT - _MANTISSA_BITS)
_OCTAVES = math.log2(_LARGEST / _SMALLEST)
# COAT bounds k by nothing. Below 1/8 a group would span 140 octaves; above 16 its numbers are nearly equal and the
# error is below bf16's already.
_EXPONENTS = (0.125, 16.0)
_EXPONENT_MASK = 0x7F800000
# Fractions of the golden ratio and of the plastic number: multiples of either are even over [0, 1).
_STEP_STRIDE = 0.6180339887498949
_PLACE_STRIDE = 0.7548776662466927


class Piece(NamedTuple):
    """A block of (R, L): its rows, its columns, and the groups that the columns are."""

    rows: slice
    columns: slice
    groups: slice


class Groups(NamedTuple):
    """codes: (R, L) E4M3. peaks: (R, K) bf16, the largest magnitudes. exponents: (R, K) bf16, or None without k.

    Slices of state tensors: `write` fills them in place.
    """

    codes: torch.Tensor
    peaks: torch.Tensor
    exponents: torch.Tensor | None

    def cut(self, piece: Piece) -> Groups:
        """The block, sharing memory."""
        exponents = None if self.exponents is None else self.exponents[piece.rows, piece.groups]
        return Groups(self.codes[piece.rows, piece.columns], self.peaks[piece.rows, piece.groups], exponents)

    def read(self) -> torch.Tensor:
        """(R, L) float32."""
        places = self.codes.view(torch.uint8).flatten().int()
        logs = _split(_log_shares(self.codes.device).index_select(0, places).view(self.codes.shape))
        if self.exponents is not None:
            logs = logs / self.exponents.float().unsqueeze(-1)
        magnitudes = torch.exp2(logs).mul_(self.peaks.float().unsqueeze(-1))
        return torch.copysign(_join(magnitudes, self.codes.shape[1]), self.codes.view(torch.int8).float())

    def write(
        self,
        values: torch.Tensor,
        *,
        spare_octaves: int = 0,
        never_zero: bool = False,
        offsets: torch.Tensor | None = None,
    ) -> None:
        """Store finite `values`, (R, L) float32.

        `spare_octaves` leaves so much of the format's low end free, where codes are far apart. `offsets` (128,) in
        [0, 1), one for each place of a group, are added in steps of the grid before rounding down; without them
        numbers are rounded to nearest.
        """
        grouped = _split(values)
        shares = grouped.abs()
        peaks = _rounded_up(shares.amax(-1))
        self.peaks.copy_(peaks)
        shares = (shares / (peaks + (peaks == 0)).float().unsqueeze(-1)).clamp_(max=1.0)
        codes = shares * _LARGEST
        if self.exponents is not None:
            exponents = _fitting_exponents(shares, _OCTAVES - spare_octaves)
            self.exponents.copy_(exponents)
            codes = torch.exp2(torch.log2(shares).mul_(exponents.float().unsqueeze(-1))).mul_(_LARGEST)
        if offsets is not None:
            codes = _round_down(codes, offsets)
        if never_zero:
            codes = torch.maximum(codes, (shares > 0) * _SMALLEST)
        self.codes.copy_(_join(torch.copysign(codes, grouped), values.shape[1]))


def num_groups(row_length: int) -> int:
    """K for rows of `row_length` numbers."""
    return math.ceil(row_length / GROUP_SIZE)


def even_offsets(step: int, device: torch.device) -> torch.Tensor:
    """(128,) float32 in [0, 1), other ones every step: over any run of steps each place sees them evenly."""
    places = torch.arange(GROUP_SIZE, device=device, dtype=torch.float32) * _PLACE_STRIDE
    return torch.frac(places + math.fmod(step * _STEP_STRIDE, 1.0))


def pieces(num_rows: int, row_length: int, limit: int) -> Iterator[Piece]:
    """Cut (R, L) into blocks of about `limit` numbers; no group is cut."""
    width = min(row_length, max(GROUP_SIZE, limit // GROUP_SIZE * GROUP_SIZE))
    height = max(1, limit // max(1, width))
    for row in range(0, num_rows, height):
        for column in range(0, row_length, width):
            end = min(column + width, row_length)
            yield Piece(slice(row, row + height), slice(column, end), slice(column // GROUP_SIZE, num_groups(end)))


def _log_shares(device: torch.device) -> torch.Tensor:
    """log2(|code| / 448) for each of the 256 codes, by its bits; -inf for the two zeros, NaN for the two NaNs."""
    codes = torch.arange(256, dtype=torch.uint8, device=device).view(CODES)
    return torch.log2(codes.float().abs() / _LARGEST)


def _split(values: torch.Tensor) -> torch.Tensor:
    """(R, L) as (R, K, 128), short groups filled up with zeros."""
    missing = -values.shape[1] % GROUP_SIZE
    filled = F.pad(values, (0, missing)) if missing else values
    return filled.unflatten(1, (-1, GROUP_SIZE))


def _join(grouped: torch.Tensor, row_length: int) -> torch.Tensor:
    return grouped.flatten(1)[:, :row_length]


def _rounded_up(peaks: torch.Tensor) -> torch.Tensor:
    """bf16 at or above `peaks`: half a step of bf16 is at most 2^-8 of a number, so that much is added first."""
    return (peaks * (1 + 2**-8)).to(PEAKS)


def _fitting_exponents(shares: torch.Tensor, octaves: float) -> torch.Tensor:
    """k (R, K) in bf16 that stretches `shares` (R, K, 128), each group's within [0, 1], over `octaves`."""
    smallest = (shares + (shares == 0)).amin(-1)
    return (octaves / torch.log2(smallest).abs()).clamp(*_EXPONENTS).to(PEAKS)


def _round_down(codes: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """`codes` (R, K, 128) >= 0 plus `offsets` (128,) steps of the grid, to the E4M3 number at or below."""
    binades = (codes.view(torch.int32) & _EXPONENT_MASK).view(torch.float32).clamp(min=2.0**_SMALLEST_NORMAL_EXPONENT)
    spacing = binades * 2.0**-_MANTISSA_BITS
    return (torch.floor(codes / spacing + offsets) * spacing).clamp(max=_LARGEST)
