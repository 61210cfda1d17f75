"""The architectures that recipes name: the paper's six, `mini` (what the package ships) and `nano` (for tries).

Configurations alone; weights come from `init` in a recipe, or from training. Sizes of the vision tower are SigLIP's
so400m at 448 pixels with patches of 14, those of the decoders Qwen2.5's 1.5B, 7B and 14B with the vocabulary of the
released NVILA checkpoints. Base models read Dynamic-S2 scales 448, 896 and 1344 through the 2x2 projector, Lite models
1 to 12 tiles through the 3x3 one. Leaves out the placeholders' ids, which a tokenizer gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from nvila.errors import ConfigError, nearest
from nvila.layouts import MINI, read_settings, resolve
from nvila.model import NVILAConfig, NVILALiteConfig
from nvila.model.checkpoint import read_config

_SIGLIP = {
    "hidden_size": 1152,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "intermediate_size": 4304,
    "image_size": 448,
    "patch_size": 14,
    "vision_use_head": False,
}
_QWEN = {
    "vocab_size": 151648,
    "max_position_embeddings": 32768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "rms_norm_eps": 1e-6,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}
_QWEN_1_5B = {
    **_QWEN,
    "hidden_size": 1536,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "intermediate_size": 8960,
    "tie_word_embeddings": True,
}
_QWEN_7B = {
    **_QWEN,
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "tie_word_embeddings": False,
}
_QWEN_14B = {
    **_QWEN,
    "rms_norm_eps": 1e-5,
    "hidden_size": 5120,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "intermediate_size": 13824,
    "tie_word_embeddings": False,
}
_NANO_VISION = {
    "hidden_size": 64,
    "num_hidden_layers": 3,  # two are used, the last is stored alone
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "image_size": 56,
    "patch_size": 14,
    "vision_use_head": False,
}
_NANO_TEXT = {
    "vocab_size": 2496,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 192,
    "max_position_embeddings": 4096,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One named model without weights: the sub-configs' values and the visual settings.

    `lite` chooses the configuration class. `checkpoint` names a checkpoint whose own files say all of it, in place of
    `vision`, `text` and `visual`.
    """

    name: str
    vision: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)
    visual: Mapping[str, Any] = field(default_factory=dict)
    lite: bool = False
    checkpoint: str = ""

    def config(self) -> NVILAConfig:
        """A new configuration of this architecture."""
        if self.checkpoint:
            return read_config(read_settings(resolve(self.checkpoint)))
        config_class = NVILALiteConfig if self.lite else NVILAConfig
        return config_class(dict(self.vision), dict(self.text), **self.visual)


def architecture(name: str) -> Architecture:
    """The architecture called `name`; raises ConfigError with the nearest name for an unknown one."""
    if name not in ARCHITECTURES:
        raise ConfigError(
            f"unknown architecture {name!r}{nearest(name, ARCHITECTURES)}; known: {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]


def _all() -> dict[str, Architecture]:
    base = {"image_mode": "dynamic_s2", "s2_scales": (448, 896, 1344), "projector_type": "mlp_downsample"}
    lite = {"image_mode": "dynamic", "min_tiles": 1, "max_tiles": 12, "projector_type": "mlp_downsample_3x3_fix"}
    nano = {"image_mode": "dynamic", "max_tiles": 12, "projector_type": "mlp_downsample"}
    texts = {"2b": _QWEN_1_5B, "8b": _QWEN_7B, "15b": _QWEN_14B}
    return {
        **{size: Architecture(name=size, vision=_SIGLIP, text=text, visual=base) for size, text in texts.items()},
        **{
            f"lite-{size}": Architecture(name=f"lite-{size}", vision=_SIGLIP, text=text, visual=lite, lite=True)
            for size, text in texts.items()
        },
        "mini": Architecture(name="mini", checkpoint=MINI),
        "nano": Architecture(name="nano", vision=_NANO_VISION, text=_NANO_TEXT, visual=nano),
    }


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(_all())
"""Every architecture by its name, as recipes write it."""
