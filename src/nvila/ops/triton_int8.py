"""W8A8 on CUDA by Triton: tokens through GELU and quantised in one pass, and the int8 product with both scales in its
epilogue.

Letters: M tokens, K features in, N features out. Any K and N: edges are masked, so SigLIP's 4304 needs no padding.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from nvila.ops.int8_linear import Activation

_TILE_M, _TILE_N, _TILE_K = 64, 64, 64


def quantise_tokens_fused(
    x: torch.Tensor, input_scale: torch.Tensor | None = None, activation: Activation | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """x (M, K), after the activation, to (M, K) int8 and scales (M, 1) float32, one program a token.

    input_scale: one element, for all tokens; None takes each token's own. The activation is computed in float32 and
    not rounded before it is quantised.
    """
    x = x.contiguous()
    num_tokens, width = x.shape
    values = torch.empty_like(x, dtype=torch.int8)
    scales = torch.empty(num_tokens, 1, dtype=torch.float32, device=x.device)
    if num_tokens:
        _quantise_kernel[(num_tokens,)](
            x, values, scales, scales if input_scale is None else input_scale, width,
            IS_STATIC=input_scale is not None, HAS_GELU=activation is not None, BLOCK=triton.next_power_of_2(width),
        )  # fmt: skip
    return values, scales


def int8_product(
    values: torch.Tensor,
    token_scales: torch.Tensor,
    weight: torch.Tensor,
    weight_scales: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """(M, K) int8 times (N, K) int8 transposed, by token_scales (M,) and weight_scales (N,), plus bias: (M, N)."""
    num_tokens, width = values.shape
    num_outputs = weight.shape[0]
    out = torch.empty(num_tokens, num_outputs, dtype=dtype, device=values.device)
    if num_tokens:
        grid = (triton.cdiv(num_tokens, _TILE_M), triton.cdiv(num_outputs, _TILE_N))
        _product_kernel[grid](
            values, token_scales.contiguous(), weight, weight_scales, weight_scales if bias is None else bias, out,
            num_tokens, num_outputs, width, HAS_BIAS=bias is not None,
            TILE_M=_TILE_M, TILE_N=_TILE_N, TILE_K=_TILE_K,
        )  # fmt: skip
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _quantise_kernel(  # type: ignore[no-untyped-def]
    x_ptr, values_ptr, scales_ptr, given_ptr, width,
    IS_STATIC: tl.constexpr, HAS_GELU: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    x = tl.load(x_ptr + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_GELU:
        # (1 + tanh(u)) / 2 is the sigmoid of 2 u; 1.5957... is 2 sqrt(2 / pi).
        x = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    if IS_STATIC:
        scale = tl.load(given_ptr).to(tl.float32)
    else:
        scale = tl.maximum(tl.max(tl.abs(x), axis=0), 1e-12) / 127.0
    steps = tl.minimum(tl.maximum(x / scale, -127.0), 127.0)
    # Halves go away from zero here and to even in torch: one step of 127 apart, and only on exact halves.
    rounded = tl.where(steps >= 0, tl.floor(steps + 0.5), tl.ceil(steps - 0.5))
    tl.store(values_ptr + row * width + columns, rounded.to(tl.int8), mask=inside)
    tl.store(scales_ptr + row, scale)


@triton.jit  # type: ignore[untyped-decorator]
def _product_kernel(  # type: ignore[no-untyped-def]
    x_ptr, token_scales_ptr, w_ptr, weight_scales_ptr, bias_ptr, out_ptr, M, N, K,
    HAS_BIAS: tl.constexpr, TILE_M: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    columns = tl.program_id(1) * TILE_N + tl.arange(0, TILE_N)
    depth = tl.arange(0, TILE_K)
    sums = tl.zeros((TILE_M, TILE_N), dtype=tl.int32)
    for start in range(0, K, TILE_K):
        inner = start + depth
        x = tl.load(
            x_ptr + rows[:, None] * K + inner[None, :], mask=(rows[:, None] < M) & (inner[None, :] < K), other=0
        )
        w = tl.load(
            w_ptr + columns[None, :] * K + inner[:, None], mask=(columns[None, :] < N) & (inner[:, None] < K), other=0
        )
        sums = tl.dot(x, w, sums, out_dtype=tl.int32)
    token_scales = tl.load(token_scales_ptr + rows, mask=rows < M, other=0.0)
    weight_scales = tl.load(weight_scales_ptr + columns, mask=columns < N, other=0.0)
    out = sums.to(tl.float32) * token_scales[:, None] * weight_scales[None, :]
    if HAS_BIAS:
        out += tl.load(bias_ptr + columns, mask=columns < N, other=0.0).to(tl.float32)[None, :]
    inside = (rows[:, None] < M) & (columns[None, :] < N)
    tl.store(out_ptr + rows[:, None] * N + columns[None, :], out.to(out_ptr.dtype.element_ty), mask=inside)
