"""W4A16 on CUDA by Triton, for few tokens: weights are read packed, and written out in registers a group at a time.

`half_sums` adds up each group in float16 and the groups in float32: twice the rate on GeForce-class cards, none on data
centre ones, and less exact; so it is an option and off. What it costs in exactness is asserted in the tests.

Letters: M tokens, K features in, N features out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from nvila.ops.int4_linear import Int4Weight

_TILE_M, _TILE_N = 16, 32


def int4_product(
    x: torch.Tensor, weight: Int4Weight, bias: torch.Tensor | None = None, *, half_sums: bool = False
) -> torch.Tensor:
    """x (M, K) in 16 or 32 bits times the weight (N, K) transposed, plus bias: (M, N) of x's dtype."""
    x = x.contiguous()
    num_tokens, width = x.shape
    num_outputs = len(weight.packed)
    out = torch.empty(num_tokens, num_outputs, dtype=x.dtype, device=x.device)
    if num_tokens:
        grid = (triton.cdiv(num_tokens, _TILE_M), triton.cdiv(num_outputs, _TILE_N))
        _product_kernel[grid](
            x, weight.packed, weight.scales.contiguous(), weight.zeros.contiguous(),
            weight.scales if bias is None else bias, out, num_tokens, num_outputs, width,
            GROUP=weight.group_size, HAS_BIAS=bias is not None, HALF_SUMS=half_sums, TILE_M=_TILE_M, TILE_N=_TILE_N,
        )  # fmt: skip
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _product_kernel(  # type: ignore[no-untyped-def]
    x_ptr, packed_ptr, scales_ptr, zeros_ptr, bias_ptr, out_ptr, M, N, K,
    GROUP: tl.constexpr, HAS_BIAS: tl.constexpr, HALF_SUMS: tl.constexpr, TILE_M: tl.constexpr, TILE_N: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    columns = tl.program_id(1) * TILE_N + tl.arange(0, TILE_N)
    depth = tl.arange(0, GROUP)
    num_groups = K // GROUP
    has_row = rows[:, None] < M
    has_column = columns[None, :] < N
    sums = tl.zeros((TILE_M, TILE_N), dtype=tl.float32)
    for group in range(num_groups):
        inner = group * GROUP + depth
        x = tl.load(x_ptr + rows[:, None] * K + inner[None, :], mask=has_row, other=0.0)
        words = tl.load(packed_ptr + columns[None, :] * (K // 8) + inner[:, None] // 8, mask=has_column, other=0)
        steps = ((words >> ((inner[:, None] % 8) * 4)) & 15) - 8
        zeros = tl.load(zeros_ptr + columns * num_groups + group, mask=columns < N, other=0).to(tl.int32)
        scales = tl.load(scales_ptr + columns * num_groups + group, mask=columns < N, other=0.0).to(tl.float32)
        whole = steps - zeros[None, :]
        if HALF_SUMS:
            part = tl.dot(x.to(tl.float16), whole.to(tl.float16), out_dtype=tl.float16).to(tl.float32)
        else:
            part = tl.dot(x, whole.to(x.dtype), out_dtype=tl.float32)
        sums += part * scales[None, :]
    if HAS_BIAS:
        sums += tl.load(bias_ptr + columns, mask=columns < N, other=0.0).to(tl.float32)[None, :]
    tl.store(
        out_ptr + rows[:, None] * N + columns[None, :], sums.to(out_ptr.dtype.element_ty), mask=has_row & has_column
    )
