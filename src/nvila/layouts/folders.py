"""Settings from the released three-folder layout, whose dialect is a training script's arguments dumped to JSON.

Every key that the published files are known to hold is either read, checked, or listed as without effect; any other is
an error that names the nearest known one. Paths inside the values are the authors' own and are never followed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nvila.errors import ConfigError, nearest
from nvila.layouts.find import LEGACY_MODEL_TYPE, read_json
from nvila.layouts.settings import CheckpointSettings, ProjectorType

_PROJECTORS: dict[str, ProjectorType] = {
    "mlp_downsample": "mlp_downsample",
    "mlp_downsample_2x2_fix": "mlp_downsample",
    "mlp_downsample_3x3_fix": "mlp_downsample_3x3_fix",
    "token_learner": "token_learner",
    "perceiver_resampler": "perceiver_resampler",
}
_READ = {
    "dynamic_s2", "fps", "hidden_size", "image_aspect_ratio", "image_encoder", "llm_cfg", "max_tiles", "min_tiles",
    "mm_hidden_size", "mm_projector_cfg", "mm_projector_type", "mm_vision_select_feature", "mm_vision_select_layer",
    "model_type", "num_time_tokens", "num_video_frames", "ps3", "s2", "s2_max_split_size",
    "s2_resize_output_to_scale_idx", "s2_scales", "soft_ce_std", "time_token_format", "time_token_ids", "video_encoder",
    "vision_tower_cfg",
}  # fmt: skip
_WITHOUT_EFFECT = {
    "architectures", "auto_map", "chat_template", "drop_path_rate", "high_res_pos_embed", "image_grid_pinpoints",
    "interpolate_mode", "is_encoder_decoder", "look_close_mode", "mm_low_res_token_num", "mm_projector_lr",
    "mm_scale_num", "mm_use_im_patch_token", "mm_use_im_start_end", "model_dtype", "model_name_or_path",
    "num_look_close", "num_token_look_close", "ps3_dynamic_aspect_ratio", "resume_path", "select_num_each_scale",
    "smooth_selection_prob", "speech_tower_cfg", "top_down_prompt_head_type", "torch_dtype", "transformers_version",
    "tune_language_model", "tune_mm_projector", "tune_vision_tower", "use_cache", "version", "video_max_tiles",
    "vision_resolution", "vision_tower_lr", "xvila_mode",
}  # fmt: skip


def settings_from_folders(root: Path) -> CheckpointSettings:
    """Settings of a three-folder checkpoint. Raises ConfigError naming the file, the key and both values."""
    path = root / "config.json"
    config = read_json(path)
    _check_keys(path, config)
    preprocessor_path = root / "vision_tower" / "preprocessor_config.json"
    vision = read_json(root / "vision_tower" / "config.json")
    size = read_json(preprocessor_path).get("size", {})
    tile_size = size.get("height", vision.get("image_size", 448)) if isinstance(size, dict) else size
    image_mode: Any = config.get("image_aspect_ratio") or "resize"  # checked by CheckpointSettings
    try:
        return CheckpointSettings(
            layout="folders",
            model_type=LEGACY_MODEL_TYPE,
            root=root,
            tokenizer_dir=root / "llm",
            preprocessor_dir=root / "vision_tower",
            image_mode=image_mode,
            tile_size=tile_size,
            patch_size=vision.get("patch_size", 14),
            s2_scales=_scales(config, image_mode, tile_size),
            s2_resize_output_to_scale_idx=config.get("s2_resize_output_to_scale_idx", -1),
            min_tiles=config.get("min_tiles", 1),
            max_tiles=config.get("max_tiles", 12),
            projector_type=_projector(root, config),
            temporal_pool=_temporal_pool(config),
            num_video_frames=config.get("num_video_frames", 8),
            fps=config.get("fps") or 0.0,
            vision_select_layer=config.get("mm_vision_select_layer", -2),
            num_time_tokens=config.get("num_time_tokens") or 0,
            time_token_format=config.get("time_token_format") or "<t{t}>",
            soft_ce_std=config.get("soft_ce_std") or 1.0,
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _check_keys(path: Path, config: dict[str, Any]) -> None:
    known = _READ | _WITHOUT_EFFECT
    # Training copied its whole argument list here: FP8 and quantisation options, none of which touches inference.
    unknown = sorted(
        key for key in config if key not in known and not key.startswith(("_", "fp8", "quantize", "tune_", "float8"))
    )
    if unknown:
        raise ConfigError(
            f"{path}: unknown key {unknown[0]!r}{nearest(unknown[0], known)}; remove it, or correct its name"
        )
    for name in ("llm_cfg", "vision_tower_cfg", "mm_projector_cfg"):
        value = config.get(name)
        if value is not None and not isinstance(value, dict):
            raise ConfigError(
                f"{path}: {name} is a {type(value).__name__}; only the sub-folder beside it is read, so give a table"
            )
    if config.get("ps3"):
        raise ConfigError(f"{path}: ps3 is set; top-down patch selection (VILA-HD) is not supported")
    feature = config.get("mm_vision_select_feature", "cls_patch")
    if feature != "cls_patch":
        raise ConfigError(
            f"{path}: mm_vision_select_feature is {feature!r}; SigLIP has no class token, so only 'cls_patch' is right"
        )


def _scales(config: dict[str, Any], image_mode: str, tile_size: int) -> tuple[int, ...]:
    """Dynamic-S2's scales, from "448,896,1344" or a list; empty where S2 is off."""
    if config.get("s2"):
        raise ConfigError("s2 is set; the square-only S2 of VILA-1.5 is not supported, dynamic_s2 is")
    dynamic_s2 = config.get("dynamic_s2", image_mode == "dynamic_s2")
    if image_mode == "dynamic_s2" and not dynamic_s2:
        raise ConfigError("image_aspect_ratio is 'dynamic_s2', but dynamic_s2 is false; they must agree")
    if not dynamic_s2:
        return ()
    if image_mode not in ("dynamic_s2", "resize", "pad"):
        raise ConfigError(f"dynamic_s2 is true, but image_aspect_ratio is {image_mode!r}; they must agree")
    given = config.get("s2_scales", "448,896,1344")
    try:
        scales = tuple(int(item) for item in (given.split(",") if isinstance(given, str) else given))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"s2_scales is {given!r}; it must be whole numbers such as '448,896,1344'") from error
    split = config.get("s2_max_split_size", scales[0])
    if split != tile_size:
        raise ConfigError(f"s2_max_split_size is {split}, but tiles are {tile_size} pixels; they must agree")
    return scales


def _projector(root: Path, config: dict[str, Any]) -> ProjectorType:
    """The projector's type: its own folder decides; the top-level copy must not contradict it."""
    own = read_json(root / "mm_projector" / "config.json").get("mm_projector_type")
    copy = (config.get("mm_projector_cfg") or {}).get("mm_projector_type", own)
    if own is None:
        own = copy
    if own not in _PROJECTORS:
        raise ConfigError(
            f"mm_projector_type is {own!r}, not one of {', '.join(_PROJECTORS)}{nearest(str(own), _PROJECTORS)}"
        )
    if _PROJECTORS.get(str(copy)) != _PROJECTORS[own]:
        raise ConfigError(f"mm_projector_cfg says {copy!r}, but mm_projector/config.json says {own!r}; they must agree")
    return _PROJECTORS[own]


def _temporal_pool(config: dict[str, Any]) -> int:
    """The group size of temporal averaging: 1 for the basic encoder, `pool_sizes` of the pooling one."""
    _encoder(config, "image_encoder", ("BasicImageEncoder",))
    encoder = _encoder(config, "video_encoder", ("BasicVideoEncoder", "TSPVideoEncoder"))
    if not encoder.get("_target_", "").endswith("TSPVideoEncoder"):
        return 1
    pools = encoder.get("pool_sizes", [[1, 1, 1]])
    if len(pools) != 1 or len(pools[0]) != 3 or list(pools[0][1:]) != [1, 1]:
        raise ConfigError(
            f"video_encoder pool_sizes are {pools}; only one pooling over time, such as [[8, 1, 1]], is supported"
        )
    return int(pools[0][0])


def _encoder(config: dict[str, Any], key: str, known: tuple[str, ...]) -> dict[str, Any]:
    """The encoder's table; the published files hold it as a table or as JSON text. Its class name is only compared."""
    value = config.get(key) or {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{key} is {value!r}, which is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{key} is {value!r}; it must be a table")
    target = str(value.get("_target_", known[0])).rsplit(".", 1)[-1]
    if target not in known:
        raise ConfigError(f"{key} names {target!r}, not one of {', '.join(known)}{nearest(target, known)}")
    for option, default in (("start_tokens", None), ("end_tokens", "\n"), ("sep_tokens", None)):
        if value.get(option, default) != default:
            raise ConfigError(f"{key}.{option} is {value[option]!r}; only the published {default!r} is supported")
    unknown = sorted(set(value) - {"_target_", "start_tokens", "end_tokens", "sep_tokens", "pool_sizes"})
    if unknown:
        raise ConfigError(
            f"{key} has an unknown option {unknown[0]!r}{nearest(unknown[0], ['pool_sizes', 'end_tokens'])}"
        )
    return value
