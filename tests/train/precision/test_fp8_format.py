"""FP8 tensors: error bounds, zeros, extremes, odd shapes, and what is not a number."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch

from nvila.train.precision.fp8_format import (
    E4M3,
    E5M2,
    QuantisedTensor,
    dequantise,
    quantise_groups,
    quantise_rows,
    quantise_tensor,
    transpose,
)

# Half of a step between two codes, relative to the value: 3 and 2 bits behind the leading one.
HALF_STEP = {E4M3: 2**-4, E5M2: 2**-3}
# The smallest normal number of the format over its largest: below it, errors are bounded by the scale instead.
SMALLEST = {E4M3: 2**-6 / 448, E5M2: 2**-14 / 57344}
KINDS: dict[str, Callable[..., QuantisedTensor]] = {
    "tensor": quantise_tensor,
    "rows": quantise_rows,
    "groups": quantise_groups,
}


def spread(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers whose rows differ in size by orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10.0 ** torch.randint(-3, 4, (*shape[:-1], 1), generator=generator)
    return torch.randn(shape, generator=generator) * sizes


def amax_by_scale(x: torch.Tensor, packed: QuantisedTensor) -> torch.Tensor:
    """The largest absolute value among those that share a scale with each value of `x`."""
    if packed.group_size == 0:
        return x.abs().amax().expand_as(x)
    groups = [part.abs().amax(-1, keepdim=True).expand_as(part) for part in x.split(packed.group_size, dim=-1)]
    return torch.cat(groups, dim=-1)


@pytest.mark.parametrize("format", [E4M3, E5M2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 128), (2, 5, 300), (7, 1), (4, 129)])
def test_every_value_comes_back_within_half_a_step(
    kind: str, format: torch.dtype, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    x = spread(*shape).to(dtype)
    packed = KINDS[kind](x, format=format)
    assert packed.values.shape == x.shape
    assert packed.values.dtype == format
    error = (dequantise(packed, torch.float32) - x.float()).abs()
    # A power of two as the scale may lie almost a factor of two above, and a scale in bf16 2 ** -8.
    loss = 2.0 if kind == "rows" else 1.01
    bound = torch.maximum(x.float().abs(), loss * amax_by_scale(x.float(), packed) * SMALLEST[format])
    assert torch.all(error <= HALF_STEP[format] * bound * 1.001)


@pytest.mark.parametrize("columns", [128, 200, 5])
def test_a_group_has_its_own_scale_and_the_last_may_be_short(columns: int) -> None:
    x = spread(4, columns)
    packed = quantise_groups(x)
    assert packed.scale.shape == (4, -(-columns // 128))
    assert packed.scale.dtype == torch.bfloat16
    alone = quantise_groups(x[:, -(columns % 128 or 128) :].contiguous())
    assert torch.equal(packed.scale[:, -1:], alone.scale)


def test_groups_beat_one_scale_where_there_is_an_outlier() -> None:
    x = torch.randn(16, 512, generator=torch.Generator().manual_seed(1))
    x[0, 0] = 1e6
    rest = torch.ones_like(x, dtype=torch.bool)
    rest[0, :128] = False
    both = quantise_groups(x), quantise_tensor(x)
    errors = [(dequantise(packed, torch.float32) - x)[rest].norm() for packed in both]
    assert errors[0] < 0.04 * x[rest].norm()
    assert errors[1] > 0.5 * x[rest].norm()


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_stay_zeros_and_extremes_stay_finite(kind: str) -> None:
    assert torch.equal(dequantise(KINDS[kind](torch.zeros(3, 200)), torch.float32), torch.zeros(3, 200))
    for size in (3e38, 1e-30, 1.2e-38):
        x = torch.tensor([[size, -size, size / 2, 0.0]])
        back = dequantise(KINDS[kind](x), torch.float32)
        assert torch.allclose(back, x, rtol=2**-4, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_spoils_all_that_share_its_scale(kind: str, broken: float) -> None:
    x = torch.ones(2, 256)
    x[1, 3] = broken
    back = dequantise(KINDS[kind](x), torch.float32)
    spoiled = {"tensor": back, "rows": back[1], "groups": back[1, :128]}[kind]
    assert spoiled.isnan().all()
    if kind != "tensor":
        assert torch.allclose(back[0], x[0], rtol=2**-8)
    if kind == "groups":
        assert torch.allclose(back[1, 128:], x[1, 128:], rtol=2**-8)


@pytest.mark.parametrize("kind", KINDS)
def test_empty_tensors_pass(kind: str) -> None:
    assert dequantise(KINDS[kind](torch.zeros(0, 64)), torch.bfloat16).shape == (0, 64)


def test_scales_of_rows_are_powers_of_two_just_large_enough() -> None:
    x = spread(64, 40)
    scale = quantise_rows(x).scale[:, 0]
    mantissas, _ = torch.frexp(scale)
    assert torch.equal(mantissas, torch.full_like(mantissas, 0.5))
    needed = x.abs().amax(-1) / 448
    assert torch.all(scale >= needed)
    assert torch.all(scale < 2 * needed)
    exact = torch.tensor([[448.0, 1.0], [896.0, 1.0]])
    assert quantise_rows(exact).scale[:, 0].tolist() == [1.0, 2.0]


def test_rows_packed_again_as_columns_lose_nothing_more() -> None:
    x = torch.randn(32, 48, generator=torch.Generator().manual_seed(2))
    once = dequantise(quantise_rows(x), torch.float32)
    twice = dequantise(quantise_rows(once.t().contiguous()), torch.float32).t()
    normal = once.abs() > 2 * SMALLEST[E4M3] * once.abs().amax()
    assert torch.equal(once[normal], twice[normal])


def test_transposing_equals_packing_the_transposed() -> None:
    x = torch.randn(6, 10, generator=torch.Generator().manual_seed(3))
    turned, direct = transpose(quantise_tensor(x)), quantise_tensor(x.t())
    assert turned.values.is_contiguous()
    assert torch.equal(dequantise(turned, torch.float32), dequantise(direct, torch.float32))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
@pytest.mark.parametrize("columns", [200, 256])
def test_compiled_code_packs_groups_as_the_plain_code(columns: int) -> None:
    """torch's compiler for the CPU drops short last groups in other, equal ways of writing this."""
    x = torch.randn(6, columns, generator=torch.Generator().manual_seed(4)).bfloat16()
    pack = torch.compile(lambda x: tuple(quantise_groups(x)[:2]))
    read = torch.compile(lambda values, scale: dequantise(QuantisedTensor(values, scale, 128), torch.float32))
    values, scale = pack(x)
    wanted = quantise_groups(x)
    assert torch.equal(values.float(), wanted.values.float())
    assert torch.equal(scale, wanted.scale)
    assert torch.equal(read(values, scale), dequantise(wanted, torch.float32))


def test_a_packed_bf16_tensor_takes_about_half_the_bytes() -> None:
    x = torch.randn(64, 1024).bfloat16()
    packed = quantise_groups(x)
    bytes_packed = packed.values.nbytes + packed.scale.nbytes
    assert bytes_packed / x.nbytes == pytest.approx(0.5 + 1 / 128)
