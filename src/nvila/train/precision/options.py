"""Which parts of a model train in FP8; read from a recipe, so no torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nvila.errors import ConfigError

Recipe = Literal["none", "tensorwise", "rowwise"]


@dataclass(frozen=True, kw_only=True)
class PrecisionOptions:
    """What `convert.apply_precision` changes; all parts are off by default.

    linears: the matrix products of linear layers in FP8, with one scale a tensor or one a row.
    inputs, norms, activations: what linear layers, norms and activation functions keep for the backward pass, in FP8.
    vision: the same for the vision tower; else only for the decoder.
    backend: whose linear layers; torchao's keep their inputs as they are, so `inputs` must be off with them.
    min_features: linear layers narrower than this on either side keep 16-bit products; FP8 costs time there.
    """

    linears: Recipe = "none"
    inputs: bool = False
    norms: bool = False
    activations: bool = False
    vision: bool = False
    backend: Literal["own", "torchao"] = "own"
    min_features: int = 256

    def __post_init__(self) -> None:
        if self.min_features < 1:
            raise ConfigError(f"min_features is {self.min_features}; it must be at least 1")
        if self.backend == "torchao" and self.linears == "none":
            raise ConfigError(
                "backend is 'torchao', but linears is 'none'; choose 'tensorwise' or 'rowwise' for linears"
            )
        if self.backend == "torchao" and self.inputs:
            raise ConfigError(
                "torchao's linear layers keep their inputs in 16 bits; set inputs = false or backend = 'own'"
            )
