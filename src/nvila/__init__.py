"""NVILA: efficient vision-language models, native to transformers.

Importing this imports no torch: the public names are loaded when they are first used, and the Auto classes learn
ours when transformers' Auto classes are themselves imported (before or after us).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from nvila.utils.after_import import AfterImport

if TYPE_CHECKING:
    from nvila.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        FusionError,
        MediaError,
        NVILAError,
        PromptError,
    )
    from nvila.model import (
        NVILAConfig,
        NVILAForConditionalGeneration,
        NVILALiteConfig,
        NVILALiteForConditionalGeneration,
        NVILAModel,
    )
    from nvila.processing import NVILAImageProcessor, NVILAProcessor, NVILAVideoProcessor
    from nvila.types import ImagePart, LabelledBox, Message, Sample, TextPart, VideoPart

__version__ = "0.1.0"

_HOME = {
    "nvila.engine": ("Completion", "Engine", "EngineBusyError", "EngineConfig", "SamplingParams"),
    "nvila.errors": (
        "CheckpointError",
        "ConfigError",
        "DataError",
        "FusionError",
        "MediaError",
        "NVILAError",
        "PromptError",
    ),
    "nvila.model": (
        "NVILAConfig",
        "NVILAForConditionalGeneration",
        "NVILALiteConfig",
        "NVILALiteForConditionalGeneration",
        "NVILAModel",
    ),
    "nvila.processing": ("NVILAImageProcessor", "NVILAProcessor", "NVILAVideoProcessor"),
    "nvila.types": ("ImagePart", "LabelledBox", "Message", "Sample", "TextPart", "VideoPart"),
}

__all__ = [
    "CheckpointError",
    "Completion",
    "ConfigError",
    "DataError",
    "Engine",
    "EngineBusyError",
    "EngineConfig",
    "FusionError",
    "ImagePart",
    "LabelledBox",
    "MediaError",
    "Message",
    "NVILAConfig",
    "NVILAError",
    "NVILAForConditionalGeneration",
    "NVILAImageProcessor",
    "NVILALiteConfig",
    "NVILALiteForConditionalGeneration",
    "NVILAModel",
    "NVILAProcessor",
    "NVILAVideoProcessor",
    "PromptError",
    "Sample",
    "SamplingParams",
    "TextPart",
    "VideoPart",
    "__version__",
]


def __getattr__(name: str) -> object:
    for module, names in _HOME.items():
        if name in names:
            return import_module(module).__dict__[name]
    raise AttributeError(f"module 'nvila' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def _register_auto_classes() -> None:
    """Make AutoConfig, AutoModelForImageTextToText, AutoProcessor and their kin know our classes."""
    from nvila import model, processing

    model.register()
    processing.register()  # after the model: it looks the configurations up


AfterImport(
    trigger="transformers.models.auto.configuration_auto",
    watched=("transformers", "nvila"),
    action=_register_auto_classes,
).install()
