"""Kernels: every one has one signature and an eager reference that tests compare it with."""

from nvila.ops.attention import reference_segment_attention, segment_attention
from nvila.ops.int4_linear import Int4Linear, int4_linear, reference_int4_linear
from nvila.ops.int8_linear import Int8Linear, int8_linear, reference_int8_linear
from nvila.ops.losses import (
    SoftTargets,
    TokenLosses,
    chunked_token_losses,
    liger_token_losses,
    linear_cross_entropy,
    reference_token_losses,
    token_losses,
)

__all__ = [
    "Int4Linear",
    "Int8Linear",
    "SoftTargets",
    "TokenLosses",
    "chunked_token_losses",
    "int4_linear",
    "int8_linear",
    "liger_token_losses",
    "linear_cross_entropy",
    "reference_int4_linear",
    "reference_int8_linear",
    "reference_segment_attention",
    "reference_token_losses",
    "segment_attention",
    "token_losses",
]
