"""What can be chosen when a model is quantised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nvila.errors import ConfigError, nearest

Rounding = Literal["searched", "nearest"]
Activations = Literal["auto", "token", "static"]
GROUP_SIZES = (128, 64, 32)
"""Tried in this order: the first that divides a layer's inputs; a layer that none divides stays in 16 bits."""


@dataclass(frozen=True, kw_only=True)
class QuantiseOptions:
    """Schemes of the parts, how they are found, and on what. Raises ConfigError for values out of range.

    rounding: "searched" smooths the tower's activations and searches AWQ's scales and clipping; "nearest" rounds
    weights as they are, the baseline.
    """

    vision: Literal["w8a8"] | None = None
    language: Literal["w4a16"] | None = None
    head: Literal["int8"] | None = None
    rounding: Rounding = "searched"
    activations: Activations = "auto"
    """A scale a token, a tensor ("static"), or a tensor where that is measured equal ("auto")."""
    samples: int = 128
    search_tokens: int = 512
    """Tokens that a search measures its error on; statistics are of all."""
    max_tokens: int = 2048
    """Longer samples lose turns from their end, or are passed over."""
    max_tiles: int = 512
    """Tiles and frames of all samples together; their activations are what fills the memory. What would exceed it is
    passed over."""
    seed: int = 0

    def __post_init__(self) -> None:
        known = {
            "vision": ("w8a8", None),
            "language": ("w4a16", None),
            "head": ("int8", None),
            "rounding": ("searched", "nearest"),
            "activations": ("auto", "token", "static"),
        }
        for name, values in known.items():
            value = vars(self)[name]
            if value not in values:
                names = [str(one) for one in values if one]
                raise ConfigError(f"{name} is {value!r}; give {' or '.join(names)}{nearest(str(value), names)}")
        if not (self.vision or self.language or self.head):
            raise ConfigError("nothing to quantise: give --vision w8a8, --language w4a16 or --head int8")
        for name in ("samples", "search_tokens", "max_tokens", "max_tiles"):
            if vars(self)[name] < 1:
                raise ConfigError(f"{name} is {vars(self)[name]}; give a whole number from 1")


def group_size_for(in_features: int) -> int | None:
    """The group size of a layer with so many inputs; None where it stays in 16 bits."""
    return next((size for size in GROUP_SIZES if in_features % size == 0), None)
