"""Kernels: every one has one signature and an eager reference that tests compare it with."""

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
    "reference_token_losses",
    "token_losses",
]
