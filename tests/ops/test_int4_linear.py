"""W4A16: packing there and back, and every path against the reference."""

from __future__ import annotations

import pytest
import torch

from nvila.ops.int4_linear import (
    CPU_CROSSING,
    Int4Linear,
    Int4Weight,
    dequantise_int4,
    int4_linear,
    pack_int4,
    pack_words,
    reference_int4_linear,
    unpack_words,
)


def make(outputs: int, inputs: int, group: int, dtype: torch.dtype = torch.bfloat16) -> Int4Weight:
    """A random weight."""
    words = pack_words(torch.randint(-8, 8, (outputs, inputs), dtype=torch.int8))
    scales = (torch.rand(outputs, inputs // group) + 0.1).to(dtype)
    return pack_int4(words, scales, torch.randint(-8, 8, scales.shape, dtype=torch.int8))


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference as a part of the largest value; infinite for NaN."""
    error = float((found.float() - wanted.float()).abs().max() / wanted.float().abs().max())
    return error if error == error else float("inf")


@pytest.mark.parametrize("columns", [8, 24, 13, 1])
def test_words_unpack_to_what_was_packed(columns: int) -> None:
    values = torch.randint(-8, 8, (5, columns), dtype=torch.int8)
    words = pack_words(values)
    assert words.dtype == torch.int32
    assert words.shape == (5, -(-columns // 8))
    assert torch.equal(unpack_words(words, columns), values)


def test_the_lowest_bits_come_first() -> None:
    values = torch.tensor([[-8, -7, 0, 0, 0, 0, 0, 7]], dtype=torch.int8)
    assert pack_words(values).item() & 0xFFFFFFFF == 0xF8888810


@pytest.mark.parametrize("tokens", [1, 7, CPU_CROSSING, CPU_CROSSING + 1])
@pytest.mark.parametrize(("outputs", "inputs", "group"), [(48, 256, 128), (32, 192, 64), (24, 64, 32), (16, 48, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_path_equals_the_reference(
    tokens: int, outputs: int, inputs: int, group: int, dtype: torch.dtype
) -> None:
    weight, bias = make(outputs, inputs, group, dtype), torch.randn(outputs).to(dtype)
    x = torch.randn(2, tokens, inputs).to(dtype)
    found = int4_linear(x, weight, bias)
    assert found.dtype == dtype
    assert found.shape == (2, tokens, outputs)
    assert relative(found, reference_int4_linear(x, weight, bias)) < (1e-5 if dtype == torch.float32 else 1.5e-2)


def test_a_group_has_its_own_scale_and_zero() -> None:
    words = pack_words(torch.tensor([[3] * 8 + [-2] * 8], dtype=torch.int8))
    weight = pack_int4(words, torch.tensor([[0.5, 2.0]]), torch.tensor([[1, -4]], dtype=torch.int8))
    assert torch.equal(dequantise_int4(weight, torch.float32), torch.tensor([[1.0] * 8 + [4.0] * 8]))


def test_shapes_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match=r"4 x 16 has scales \(4, 2\) and zeros \(4, 1\)"):
        pack_int4(torch.zeros(4, 2, dtype=torch.int32), torch.ones(4, 2), torch.zeros(4, 1, dtype=torch.int8))


def test_the_layer_reads_its_zeros_along_the_outputs() -> None:
    weight = make(20, 64, 32, torch.float32)
    layer = Int4Linear(64, 20, bias=False, group_size=32)
    layer.load_state_dict(
        {
            "weight_packed": weight.packed,
            "weight_scale": weight.scales,
            "weight_zero_point": pack_words(weight.zeros.t().contiguous()).t().contiguous(),
            "weight_shape": torch.tensor([20, 64]),
        }
    )
    x = torch.randn(4, 64)
    assert torch.equal(layer.prepared().zeros, weight.zeros)
    assert relative(layer(x), reference_int4_linear(x, weight)) < 1e-5


@pytest.mark.parametrize("half_sums", [False, True])
@pytest.mark.parametrize(("tokens", "outputs", "inputs", "group"), [(1, 48, 256, 128), (19, 40, 128, 32)])
def test_triton_equals_the_reference(half_sums: bool, tokens: int, outputs: int, inputs: int, group: int) -> None:
    pytest.importorskip("triton")
    import triton

    if not triton.knobs.runtime.interpret:
        pytest.skip("TRITON KERNELS NOT CHECKED: set TRITON_INTERPRET=1")
    from nvila.ops.triton_int4 import int4_product

    weight, bias, x = make(outputs, inputs, group, torch.float32), torch.randn(outputs), torch.randn(tokens, inputs)
    found = int4_product(x, weight, bias, half_sums=half_sums)
    assert relative(found, reference_int4_linear(x, weight, bias)) < (5e-3 if half_sums else 1e-5)
