"""The parts of a processor from a checkpoint's files, whatever its layout.

A folder that our `save_pretrained` wrote names every setting in `processor_config.json`; for the published layouts
they come from `nvila.layouts` and from the tokenizer and preprocessor files where those lie.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nvila.errors import CheckpointError, ConfigError, nearest
from nvila.layouts import CheckpointSettings, open_tokenizer, read_json, read_settings, resolve
from nvila.processing.image import NVILAImageProcessor
from nvila.processing.video import NVILAVideoProcessor

_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
_LOADER_OPTIONS = {
    "_from_auto",
    "_from_pipeline",
    "_commit_hash",
    "backend",
    "code_revision",
    "config",
    "dtype",
    "proxies",
    "trust_remote_code",
    "use_fast",
}
_PARTS = ("image_processor", "tokenizer", "video_processor", "chat_template")
_SETTINGS = ("patch_size", "downsample", "temporal_pool", "s2_resize_output_to_scale_idx", "strip_final_newline")
_WRITTEN = {"auto_map", "processor_class", "image_processor", "video_processor", *_SETTINGS}


def load_parts(name: str | Path, ignored: set[str], **kwargs: Any) -> dict[str, Any]:
    """Keyword arguments of `NVILAProcessor` for the checkpoint `name`.

    `kwargs` override the files; those in `ignored` that nothing here takes have no effect. Raises CheckpointError for
    missing files, ConfigError for wrong or unknown settings.
    """
    hub = {key: kwargs.pop(key) for key in _HUB_OPTIONS if key in kwargs}
    subfolder = kwargs.pop("subfolder", None)
    root = resolve(name, **hub) / (subfolder or "")
    given = {key: kwargs.pop(key) for key in (*_PARTS, *_SETTINGS) if key in kwargs}
    image_options = _take(NVILAImageProcessor, kwargs)
    video_options = _take(NVILAVideoProcessor, {**kwargs, **image_options})
    known = {*_LOADER_OPTIONS, *ignored, *video_options}
    for key in kwargs:
        if key not in known:
            raise ConfigError(
                f"unknown option {key!r}{nearest(key, {*known, *_SETTINGS})}; remove it, or correct its name"
            )
    saved = _saved(root)
    parts = _from_saved(root, saved) if saved is not None else _from_settings(read_settings(root))
    parts.update({key: value for key, value in given.items() if value is not None})
    return _assemble(parts, image_options, video_options)


def _take(cls: Callable[..., Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Pops what `cls` takes by name."""
    names = [name for name, item in inspect.signature(cls).parameters.items() if item.kind is not item.VAR_KEYWORD]
    return {name: kwargs.pop(name) for name in names if name in kwargs}


def _assemble(parts: dict[str, Any], image_options: dict[str, Any], video_options: dict[str, Any]) -> dict[str, Any]:
    """Builds the processors from their options, and opens the tokenizer where only its folder is known."""
    shared = ("size", "image_mean", "image_std", "resample", "rescale_factor")
    video_options = {key: value for key, value in video_options.items() if key in shared or key not in image_options}
    if isinstance(parts["image_processor"], dict):
        parts["image_processor"] = NVILAImageProcessor(**{**parts["image_processor"], **image_options})
    if isinstance(parts["video_processor"], dict):
        parts["video_processor"] = NVILAVideoProcessor(**{**parts["video_processor"], **video_options})
    if isinstance(parts["tokenizer"], Path):
        parts["tokenizer"] = load_tokenizer(parts["tokenizer"])
    return parts


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder`. Raises CheckpointError when its files are missing or damaged."""
    if not (folder / "tokenizer_config.json").is_file() and not (folder / "tokenizer.json").is_file():
        raise CheckpointError(f"{folder}: holds neither tokenizer.json nor tokenizer_config.json; restore them")
    try:
        return open_tokenizer(folder)
    except Exception as error:
        raise CheckpointError(f"{folder}: its tokenizer cannot be read ({error}); restore the files") from error


def _saved(root: Path) -> dict[str, Any] | None:
    """`processor_config.json` if it is one that we wrote; others' hold less and mean what the layout means."""
    path = root / "processor_config.json"
    saved = read_json(path) if path.is_file() else {}
    return saved if "downsample" in saved and isinstance(saved.get("image_processor"), dict) else None


def _from_saved(root: Path, saved: dict[str, Any]) -> dict[str, Any]:
    path = root / "processor_config.json"
    for key in saved:
        if key not in _WRITTEN:
            raise ConfigError(f"{path}: unknown key {key!r}{nearest(key, _WRITTEN)}; remove it, or correct its name")
    if not isinstance(saved.get("video_processor"), dict):
        raise CheckpointError(f"{path}: names no video_processor; save the processor again")
    template = root / "chat_template.jinja"
    return {
        **{key: saved[key] for key in _SETTINGS if key in saved},
        "image_processor": saved["image_processor"],
        "video_processor": saved["video_processor"],
        "tokenizer": root,
        "chat_template": template.read_text(encoding="utf-8") if template.is_file() else None,
    }


def _from_settings(settings: CheckpointSettings) -> dict[str, Any]:
    """The parts of a published checkpoint; its own chat template knows nothing of media and is not used."""
    pixels = _pixel_options(settings.preprocessor_dir / "preprocessor_config.json")
    return {
        "image_processor": {
            **pixels,
            "image_mode": settings.image_mode,
            "size": settings.tile_size,
            "min_tiles": settings.min_tiles,
            "max_tiles": settings.max_tiles,
            "s2_scales": settings.s2_scales,
        },
        "video_processor": {
            **pixels,
            "size": settings.tile_size,
            "num_frames": settings.num_video_frames,
            "fps": settings.fps,
        },
        "tokenizer": settings.tokenizer_dir,
        "patch_size": settings.patch_size,
        "downsample": settings.downsample,
        "temporal_pool": settings.temporal_pool,
        "s2_resize_output_to_scale_idx": settings.s2_resize_output_to_scale_idx,
        "strip_final_newline": not (settings.layout == "hf" and settings.model_type == "nvila_lite"),
    }


def _pixel_options(path: Path) -> dict[str, Any]:
    """Mean, deviation and scale of the pixels; SigLIP's where there is no file. Resizing is always bicubic."""
    if not path.is_file():
        return {}
    config = read_json(path)
    for key in ("do_rescale", "do_normalize", "do_resize"):
        if config.get(key) is False:
            raise ConfigError(f"{path}: {key} is false; the model needs it, remove the key")
    return {key: config[key] for key in ("image_mean", "image_std", "rescale_factor") if config.get(key) is not None}
