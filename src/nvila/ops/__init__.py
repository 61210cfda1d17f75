"""Kernels: every one has one signature and an eager reference that tests compare it with."""

from nvila.ops.attention import reference_segment_attention, segment_attention
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
    "SoftTargets",
    "TokenLosses",
    "chunked_token_losses",
    "liger_token_losses",
    "linear_cross_entropy",
    "reference_segment_attention",
    "reference_token_losses",
    "segment_attention",
    "token_losses",
]
