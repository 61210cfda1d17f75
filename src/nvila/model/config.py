"""The model's configuration: two transformers sub-configs and the visual settings, checked as a whole.

`NVILAConfig` (`model_type` "nvila") defaults to Dynamic-S2 with the 2x2 projector, `NVILALiteConfig` ("nvila_lite") to
dynamic tiling with the 3x3 one: the constants of the published code, so that published files, which do not name them,
mean the same here. Unknown keys are errors.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar

from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, Qwen2Config, SiglipVisionConfig

from nvila.errors import ConfigError, nearest
from nvila.layouts import CheckpointSettings, VisualSettings, default_visual

# What older transformers versions wrote into every config file; without effect on this model.
_INHERITED = {
    "add_cross_attention", "attn_implementation", "auto_map", "begin_suppress_tokens", "bos_token_id",
    "cross_attention_hidden_size", "decoder_start_token_id", "eos_token_id", "experts_implementation",
    "finetuning_task", "ignore_index", "is_decoder", "name_or_path", "num_labels", "output_attentions", "pad_token_id",
    "prefix", "pruned_heads", "quantization_config", "sep_token_id", "task_specific_params", "tf_legacy_loss",
    "tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class", "torch_dtype", "torchscript", "use_bfloat16",
    "use_cache", "vocab_size",
}  # fmt: skip


class NVILAConfig(PreTrainedConfig):
    """Configuration of an NVILA model.

    `vision_config` is a SiglipVisionConfig (or its dictionary), `text_config` that of a Qwen2 or Llama decoder; the
    rest are the fields of `nvila.layouts.VisualSettings` (a value of None takes the published default) and:

    vision_select_layer: which of the tower's hidden states is used; -2 is the output of the last layer but one.
    image_token_id, video_token_id: the placeholders that features overwrite; -1 where there is none.
    num_time_tokens, time_token_format, soft_ce_std: temporal localisation.

    Raises ConfigError for unknown keys and for values that contradict each other.
    """

    model_type = "nvila"
    sub_configs: ClassVar = {"text_config": AutoConfig, "vision_config": AutoConfig}

    def __init__(
        self,
        vision_config: dict[str, Any] | PreTrainedConfig | None = None,
        text_config: dict[str, Any] | PreTrainedConfig | None = None,
        *,
        image_mode: str | None = None,
        tile_size: int | None = None,
        s2_scales: list[int] | tuple[int, ...] | None = None,
        s2_resize_output_to_scale_idx: int | None = None,
        min_tiles: int | None = None,
        max_tiles: int | None = None,
        projector_type: str | None = None,
        temporal_pool: int | None = None,
        num_video_frames: int | None = None,
        fps: float | None = None,
        vision_select_layer: int = -2,
        image_token_id: int = -1,
        video_token_id: int = -1,
        num_time_tokens: int = 0,
        time_token_format: str = "<t{t}>",
        soft_ce_std: float = 1.0,
        mm_hidden_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.vision_config = _sub_config(vision_config, SiglipVisionConfig)
        self.text_config = _sub_config(text_config, Qwen2Config)
        kwargs.pop("model_type", None)  # transformers hands it over with the file's other values
        _check_keys(kwargs)
        given = {
            "image_mode": image_mode,
            "tile_size": tile_size,
            "s2_scales": s2_scales,
            "s2_resize_output_to_scale_idx": s2_resize_output_to_scale_idx,
            "min_tiles": min_tiles,
            "max_tiles": max_tiles,
            "projector_type": projector_type,
            "temporal_pool": temporal_pool,
            "num_video_frames": num_video_frames,
            "fps": fps,
        }
        visual = self._complete({key: value for key, value in given.items() if value is not None})
        for field in fields(VisualSettings):
            if field.name != "patch_size":
                value = getattr(visual, field.name)
                setattr(self, field.name, list(value) if field.name == "s2_scales" else value)
        self.vision_select_layer = vision_select_layer
        self.image_token_id = image_token_id
        self.video_token_id = video_token_id
        self.num_time_tokens = num_time_tokens
        self.time_token_format = time_token_format
        self.soft_ce_std = soft_ce_std
        _check_select_layer(vision_select_layer, self.vision_config.num_hidden_layers)
        self.mm_hidden_size = self.vision_config.hidden_size * visual.num_scales
        if mm_hidden_size not in (None, self.mm_hidden_size):
            raise ConfigError(
                f"mm_hidden_size is {mm_hidden_size}, but {visual.num_scales} scale(s) of a vision tower "
                f"{self.vision_config.hidden_size} wide make {self.mm_hidden_size}"
            )
        kwargs["tie_word_embeddings"] = self.text_config.tie_word_embeddings
        super().__init__(**{key: value for key, value in kwargs.items() if key != "vocab_size"})

    def _complete(self, given: dict[str, Any]) -> VisualSettings:
        """The given settings over this model type's published defaults."""
        tile_size = given.get("tile_size", self.vision_config.image_size)
        visual = {**default_visual(self.model_type, tile_size, self.vision_config.patch_size)}
        if given.get("image_mode", visual["image_mode"]) != "dynamic_s2":
            visual["s2_scales"] = ()
        visual.update(given)
        visual["s2_scales"] = tuple(visual["s2_scales"])
        return VisualSettings(**visual)

    @property
    def visual(self) -> VisualSettings:
        """The settings that the model shares with the processor."""
        values = {
            field.name: getattr(self, field.name) for field in fields(VisualSettings) if field.name != "patch_size"
        }
        values["s2_scales"] = tuple(values["s2_scales"])
        return VisualSettings(patch_size=self.vision_config.patch_size, **values)

    def get_text_config(self, *args: Any, **kwargs: Any) -> PreTrainedConfig:
        """The decoder's configuration, which generation code asks for."""
        return self.text_config

    @classmethod
    def from_settings(
        cls,
        settings: CheckpointSettings,
        *,
        vision_config: dict[str, Any],
        text_config: dict[str, Any],
        image_token_id: int,
        video_token_id: int,
    ) -> NVILAConfig:
        """A configuration from a checkpoint's settings, its sub-configs and the placeholders' ids."""
        visual = {key: value for key, value in settings.visual.items() if key != "patch_size"}
        return cls(
            vision_config=vision_config,
            text_config=text_config,
            vision_select_layer=settings.vision_select_layer,
            num_time_tokens=settings.num_time_tokens,
            time_token_format=settings.time_token_format,
            soft_ce_std=settings.soft_ce_std,
            image_token_id=image_token_id,
            video_token_id=video_token_id,
            **visual,
        )


class NVILALiteConfig(NVILAConfig):
    """Configuration of an NVILA-Lite model: `NVILAConfig` with dynamic tiling and the 3x3 projector as defaults."""

    model_type = "nvila_lite"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # transformers makes every config class without an own __init__ a dataclass, with another one.
        super().__init__(*args, **kwargs)


def _sub_config(given: dict[str, Any] | PreTrainedConfig | None, default: type[PreTrainedConfig]) -> PreTrainedConfig:
    if given is None:
        return default()
    if isinstance(given, PreTrainedConfig):
        return given
    values = dict(given)
    model_type = values.pop("model_type", default.model_type)
    if model_type not in (default.model_type, "llama"):
        raise ConfigError(
            f"model_type {model_type!r} of a sub-config is not supported; known: {default.model_type}, llama"
        )
    return AutoConfig.for_model(model_type, **values)


def _check_keys(kwargs: dict[str, Any]) -> None:
    common = {field.name for field in fields(PreTrainedConfig)} | _INHERITED
    generation = set(GenerationConfig().to_dict())
    known = common | generation | {field.name for field in fields(VisualSettings)}
    for key in kwargs:
        if key not in known and not key.startswith("_"):
            raise ConfigError(f"unknown configuration key {key!r}{nearest(key, known)}; remove it, or correct its name")


def _check_select_layer(layer: int, num_layers: int) -> None:
    if not -num_layers - 1 <= layer <= num_layers:
        raise ConfigError(f"vision_select_layer is {layer}, but the vision tower has {num_layers} layers")
