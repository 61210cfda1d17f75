"""The NVILA model: configuration, vision tower, S2 merge, projector, temporal averaging, fusion, loading and saving."""

from __future__ import annotations

from nvila.model.base import NVILAPreTrainedModel
from nvila.model.config import NVILAConfig, NVILALiteConfig
from nvila.model.nvila import (
    NVILACausalLMOutputWithPast,
    NVILAForConditionalGeneration,
    NVILALiteForConditionalGeneration,
    NVILALiteModel,
    NVILAModel,
)

__all__ = [
    "NVILACausalLMOutputWithPast",
    "NVILAConfig",
    "NVILAForConditionalGeneration",
    "NVILALiteConfig",
    "NVILALiteForConditionalGeneration",
    "NVILALiteModel",
    "NVILAModel",
    "NVILAPreTrainedModel",
    "register",
]


def register() -> None:
    """Make the Auto classes of transformers know these models; `import nvila` calls it."""
    from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

    for config, base, head in (
        (NVILAConfig, NVILAModel, NVILAForConditionalGeneration),
        (NVILALiteConfig, NVILALiteModel, NVILALiteForConditionalGeneration),
    ):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, base, exist_ok=True)
        AutoModelForImageTextToText.register(config, head, exist_ok=True)
