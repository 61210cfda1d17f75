"""The product of two FP8 matrices: torch's scaled matrix product where the hardware has one, else an emulation.

Both take the same quantised operands and sum in float32, so they differ by the order of the sums alone. The emulation
is for numerics on a CPU or an older GPU, and is slower than bf16. The path of the hardware (CUDA, compute capability
8.9 and above) has not been run: no such GPU was at hand.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from nvila.train.precision.fp8_format import QuantisedTensor

CONTRACTION_MULTIPLE = 16
FP8_CAPABILITY = (8, 9)


def scaled_matmul(
    a: QuantisedTensor, b: QuantisedTensor, dtype: torch.dtype, *, fast_accumulation: bool = False
) -> torch.Tensor:
    """a @ b.T as (M, N) `dtype`, for `a` (M, K) and `b` (N, K), each with one scale for all or one a row.

    N must be a multiple of 16 on a GPU; K is filled up there. `fast_accumulation` sums in fewer bits on a GPU that
    offers it, which torchao's recipes do for outputs and never for gradients.
    """
    if has_fp8_matmul(a.values.device) and a.values.numel() and b.values.numel():
        return _on_hardware(a, b, dtype, fast_accumulation)
    return reference_scaled_matmul(a, b, dtype)


def reference_scaled_matmul(a: QuantisedTensor, b: QuantisedTensor, dtype: torch.dtype) -> torch.Tensor:
    """The same in plain torch: the product of the codes in float32, then the scales, then one rounding to `dtype`."""
    with torch.autocast(a.values.device.type, enabled=False):
        product = a.values.float() @ b.values.float().t()
    return (product * a.scale * b.scale.reshape(-1)).to(dtype)


def has_fp8_matmul(device: torch.device) -> bool:
    """Whether the device multiplies FP8 matrices."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= FP8_CAPABILITY


def _on_hardware(a: QuantisedTensor, b: QuantisedTensor, dtype: torch.dtype, fast_accumulation: bool) -> torch.Tensor:
    rowwise = a.scale.ndim > 0
    missing = -a.values.shape[1] % CONTRACTION_MULTIPLE
    # The kernel for one scale a row writes bf16 only.
    return torch._scaled_mm(
        _filled_up(a.values, missing),
        _filled_up(b.values, missing).t(),
        scale_a=a.scale,
        scale_b=b.scale.t() if rowwise else b.scale,
        out_dtype=torch.bfloat16 if rowwise else dtype,
        use_fast_accum=fast_accumulation,
    ).to(dtype)


def _filled_up(values: torch.Tensor, missing: int) -> torch.Tensor:
    """Zeros behind each row; padding knows no FP8, and a zero is the same byte in it."""
    return F.pad(values.view(torch.uint8), (0, missing)).view(values.dtype) if missing else values
