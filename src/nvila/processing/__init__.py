"""From conversations and media to the model's inputs: tiles, frames, chat format, tokens.

Knows nothing of the model's classes: both are built from the same `nvila.layouts` settings.
"""

from __future__ import annotations

from transformers import AutoProcessor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from nvila.layouts import MODEL_TYPES
from nvila.processing.chat import chat_labels, chat_template
from nvila.processing.image import NVILAImageProcessor
from nvila.processing.processor import NVILAProcessor
from nvila.processing.video import NVILAVideoProcessor

__all__ = [
    "NVILAImageProcessor",
    "NVILAProcessor",
    "NVILAVideoProcessor",
    "chat_labels",
    "chat_template",
    "register",
]


def register() -> None:
    """Makes transformers' Auto classes know ours. The configurations must be registered before; idempotent."""
    for model_type in MODEL_TYPES:
        config = CONFIG_MAPPING[model_type]
        AutoProcessor.register(config, NVILAProcessor, exist_ok=True)
        backends = {"pil": NVILAImageProcessor, "torchvision": NVILAImageProcessor}
        AutoImageProcessor.register(config, image_processor_classes=backends, exist_ok=True)
        AutoVideoProcessor.register(config, NVILAVideoProcessor, exist_ok=True)
