"""Which weights of a part learn, and how the others are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nvila.errors import ConfigError

VisionMethod = Literal["full", "ln", "lora"]
LanguageMethod = Literal["full", "lora", "qlora"]


@dataclass(frozen=True, kw_only=True)
class AdapterOptions:
    """How the parts that a stage trains are trained; the defaults are all of their weights, in float32.

    Raises ConfigError for values out of range.
    """

    vision: VisionMethod = "full"
    """ln: the layer norms of the tower alone; lora: matrices of low rank beside its own."""
    language: LanguageMethod = "full"
    """qlora: LoRA beside matrices that are kept in 4 bits (NF4 with double quantisation)."""
    rank: int = 16
    alpha: float = 32.0
    """What LoRA adds is scaled by alpha / rank."""
    dropout: float = 0.0
    """Of LoRA's inputs; a mask of them is kept for the backward pass."""
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights that do not learn; those that do are float32."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"adapters: rank is {self.rank}; give a whole number from 1")
        if not self.alpha > 0:
            raise ConfigError(f"adapters: alpha is {self.alpha:g}; give a number above 0")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"adapters: dropout is {self.dropout:g}; give a number from 0 and below 1")

    @property
    def has_lora(self) -> bool:
        """Whether any part gets matrices of low rank."""
        return self.vision == "lora" or self.language != "full"

    @property
    def is_plain(self) -> bool:
        """Whether every part is trained as a whole, in float32."""
        return not self.has_lora and self.vision == "full" and self.frozen_dtype == "float32"
