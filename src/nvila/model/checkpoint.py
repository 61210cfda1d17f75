"""Reading and writing weights in the three layouts, with everything checked before a number is used.

Only safetensors are opened: pickle runs code. Names and shapes are compared with the model built on the `meta` device,
so a wrong checkpoint fails before memory is spent, and every value must be finite. Nothing outside the checkpoint's own
folder is read, whatever its files say.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import GenerationConfig

from nvila.errors import CheckpointError, ConfigError, nearest
from nvila.layouts import FOLDERS, PLACEHOLDERS, CheckpointSettings, open_tokenizer, read_json, read_settings, resolve
from nvila.model.config import NVILAConfig, NVILALiteConfig
from nvila.model.quantised import for_transformers, swap_linears

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

_HUB_KEYWORDS = ("cache_dir", "force_download", "local_files_only", "token", "revision")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_DERIVED = (".position_ids", ".rotary_emb.inv_freq")
"""Buffers that old versions stored and every version computes."""

Builder = Callable[[NVILAConfig, dict[str, torch.Tensor], dict[str, Any]], Any]


def load(cls: Any, name: str | os.PathLike[str], build: Builder, **kwargs: Any) -> Any:
    """A model of class `cls` from a checkpoint of any layout; `build` makes it from configuration and weights.

    Keywords are transformers' own. Raises CheckpointError or ConfigError naming the file and the fault.
    """
    hub = {key: kwargs.pop(key) for key in _HUB_KEYWORDS if key in kwargs}
    root = resolve(name, **hub)
    settings = read_settings(root)
    given = kwargs.pop("config", None)
    weights = read_weights(root, settings)
    config = given if isinstance(given, NVILAConfig) else read_config(settings, cls.config_class)
    _without_pooling_head(config, weights)
    stored = config.__dict__.pop("quantization_config", None)
    check_weights(cls, config, weights, root, stored)
    if config.dtype is None:
        config.dtype = weights["llm.model.embed_tokens.weight"].dtype
    kwargs.pop("use_safetensors", None)
    if stored is not None:
        config.quantization_config = for_transformers(stored)
    model = build(config, weights, kwargs)
    if stored is not None:
        model.config.quantization_config = stored
    check_finite(model, root)
    model.name_or_path = str(name)
    if model.can_generate():
        model.generation_config = read_generation_config(settings)
    return model


def read_config(settings: CheckpointSettings, config_class: type[NVILAConfig] = NVILAConfig) -> NVILAConfig:
    """The model configuration of a checkpoint, from its files."""
    root = settings.root
    path = root / "config.json"
    try:
        if settings.layout == "hf":
            own = NVILALiteConfig if settings.model_type == NVILALiteConfig.model_type else NVILAConfig
            config = own(
                **{k: v for k, v in read_json(path).items() if k not in ("model_type", "transformers_version")}
            )
            config.architectures = None
            return config
        text, vision = (read_json(root / part / "config.json") for part in ("llm", "vision_tower"))
        _, image_id, video_id = media_token_ids(settings.tokenizer_dir)
        config = config_class.from_settings(
            settings, vision_config=vision, text_config=text, image_token_id=image_id, video_token_id=video_id
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    top = read_json(path)
    for key, own_value in (("mm_hidden_size", config.mm_hidden_size), ("hidden_size", config.text_config.hidden_size)):
        if top.get(key) not in (None, own_value):
            raise ConfigError(f"{path}: {key} is {top[key]}, but the parts' own configurations make it {own_value}")
    return config


def media_token_ids(tokenizer_dir: Path) -> tuple[int, int, int]:
    """Ids of sentinel, image and video placeholder; a tokenizer that lacks them gets them in this order."""
    tokenizer = open_tokenizer(tokenizer_dir)
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in PLACEHOLDERS if token not in vocabulary]
    tokenizer.add_tokens(missing, special_tokens=True)
    sentinel, image, video = tokenizer.convert_tokens_to_ids(list(PLACEHOLDERS))
    return sentinel, image, video


def read_generation_config(settings: CheckpointSettings) -> GenerationConfig:
    """The checkpoint's generation settings, stopping at its end-of-sequence tokens and at the end of a turn."""
    folder = settings.tokenizer_dir
    given = read_json(folder / "generation_config.json") if (folder / "generation_config.json").is_file() else {}
    config = GenerationConfig.from_dict(given)
    tokenizer = open_tokenizer(folder)
    stops = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    stops = [*stops, tokenizer.eos_token_id, tokenizer.get_vocab().get("<|im_end|>")]
    config.eos_token_id = sorted({stop for stop in stops if stop is not None})
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    return config


def read_weights(root: Path, settings: CheckpointSettings) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by their full released names, memory-mapped.

    Raises CheckpointError for pickles, an index that points outside the folder, and missing or damaged files.
    """
    if settings.layout == "folders":
        weights = {}
        for part in FOLDERS:
            weights.update({f"{part}.{name}": tensor for name, tensor in _read_folder(root / part).items()})
    else:
        weights = _read_folder(root)
    renamed = {
        name.replace("vision_tower.vision_tower.", "vision_tower.", 1): tensor for name, tensor in weights.items()
    }
    return {name: tensor for name, tensor in renamed.items() if not name.endswith(_DERIVED)}


def _read_folder(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                weights.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: damaged or cut short ({error}); fetch the file again") from error
    return weights


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise CheckpointError(
                f"{folder / pickles[0]}: pickled weights can run code and are never read; convert them to safetensors"
            )
        raise CheckpointError(f"{folder}: holds no weights; expected {WEIGHTS} or {INDEX}")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: has no weight_map of tensor names to file names")
    names = sorted(set(weight_map.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index}: names {name!r}; only safetensors files beside the index are read")
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: missing, though {INDEX} names it; fetch the file again")
    return [folder / name for name in names]


def _without_pooling_head(config: NVILAConfig, weights: dict[str, torch.Tensor]) -> None:
    """Released towers come without SigLIP's pooling head, whether or not their configuration says so."""
    has_head = any(name.startswith("vision_tower.vision_model.head.") for name in weights)
    config.vision_config.vision_use_head = has_head


def check_weights(
    cls: Any,
    config: NVILAConfig,
    weights: dict[str, torch.Tensor],
    root: Path,
    stored: dict[str, Any] | None = None,
) -> None:
    """Compare names and shapes with the model that `config` describes; raises CheckpointError for the first fault.

    stored: the `quantization_config` of a quantised checkpoint.
    """
    with torch.device("meta"):
        model = cls(config)
    if stored is not None:
        swap_linears(model, stored)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = "llm.lm_head.weight"
    if config.text_config.tie_word_embeddings or tied not in expected:
        expected.pop(tied, None)
        weights.pop(tied, None)
    missing = [name for name in expected if name not in weights]
    if missing:
        raise CheckpointError(f"{root}: {len(missing)} tensors are missing, the first is {missing[0]!r}")
    unexpected = [name for name in weights if name not in expected]
    if unexpected:
        hint = nearest(unexpected[0], expected)
        raise CheckpointError(f"{root}: {len(unexpected)} unknown tensors, the first is {unexpected[0]!r}{hint}")
    for name, shape in expected.items():
        found = tuple(weights[name].shape)
        if found != shape:
            raise CheckpointError(f"{root}: {name} has shape {found}, but the configuration makes it {shape}")


def check_finite(model: torch.nn.Module, root: Path) -> None:
    """Raises CheckpointError naming the first parameter that holds NaN or infinity."""
    for name, parameter in model.named_parameters():
        if parameter.device.type != "meta" and not bool(torch.isfinite(parameter).all()):
            raise CheckpointError(f"{root}: {name} holds NaN or infinite values; the checkpoint is damaged")


def save_folders(model: Any, folder: Path, *, max_shard_size: str = "5GB") -> None:
    """Write `model` in the released three-folder layout (without tokenizer and preprocessor files)."""
    from huggingface_hub import save_torch_state_dict

    config: NVILAConfig = model.config
    state = dict(model.state_dict())
    if config.text_config.tie_word_embeddings:
        state.pop("llm.lm_head.weight", None)
    part_configs = {
        "llm": {**config.text_config.to_dict(), "architectures": [type(model.llm).__name__]},
        "vision_tower": {**config.vision_config.to_dict(), "architectures": ["SiglipVisionModel"]},
        "mm_projector": {
            "architectures": ["MultimodalProjector"],
            "mm_projector_type": config.projector_type,
            "model_type": "v2l_projector",
        },
    }
    for part, part_config in part_configs.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        prefix = f"{part}."
        tensors = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
        save_torch_state_dict(tensors, folder / part, max_shard_size=max_shard_size)
        _write_json(folder / part / "config.json", part_config)
    _write_json(folder / "config.json", legacy_config(config, part_configs))
    model.generation_config.save_pretrained(folder / "llm")


def legacy_config(config: NVILAConfig, parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The top-level config.json of the three-folder layout."""
    video_encoder: dict[str, Any] = {"_target_": "llava.model.encoders.BasicVideoEncoder"}
    if config.temporal_pool > 1:
        video_encoder = {
            "_target_": "llava.model.encoders.TSPVideoEncoder",
            "pool_sizes": [[config.temporal_pool, 1, 1]],
        }
    top = {
        "architectures": ["LlavaLlamaModel"],
        "model_type": "llava_llama",
        "image_aspect_ratio": config.image_mode,
        "dynamic_s2": bool(config.s2_scales),
        "s2": False,
        "min_tiles": config.min_tiles,
        "max_tiles": config.max_tiles,
        "hidden_size": config.text_config.hidden_size,
        "mm_hidden_size": config.mm_hidden_size,
        "mm_projector_type": config.projector_type,
        "mm_vision_select_layer": config.vision_select_layer,
        "mm_vision_select_feature": "cls_patch",
        "num_video_frames": config.num_video_frames,
        "fps": config.fps,
        "num_time_tokens": config.num_time_tokens,
        "time_token_format": config.time_token_format,
        "soft_ce_std": config.soft_ce_std,
        "image_encoder": {"_target_": "llava.model.encoders.BasicImageEncoder"},
        "video_encoder": video_encoder,
        "llm_cfg": parts["llm"],
        "vision_tower_cfg": parts["vision_tower"],
        "mm_projector_cfg": parts["mm_projector"],
    }
    if config.s2_scales:
        top["s2_scales"] = ",".join(str(scale) for scale in config.s2_scales)
        top["s2_max_split_size"] = config.s2_scales[0]
        top["s2_resize_output_to_scale_idx"] = config.s2_resize_output_to_scale_idx
    return top


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, default=str) + "\n", encoding="utf-8")
