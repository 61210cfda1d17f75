"""Settings from the single-folder layouts `nvila` and `nvila_lite`.

The published files carry two sub-configs and little else: where they are silent, the constants of the published code
hold. What our own `save_pretrained` writes names every setting.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from nvila.layouts.find import read_json
from nvila.layouts.settings import CheckpointSettings


def default_visual(model_type: str, tile_size: int, patch_size: int) -> dict[str, Any]:
    """What a single-folder config of this type means where it is silent: constants of the published code."""
    if model_type == "nvila_lite":
        own: dict[str, Any] = {"image_mode": "dynamic", "projector_type": "mlp_downsample_3x3_fix", "s2_scales": ()}
    else:
        scales = (tile_size, 2 * tile_size, 3 * tile_size)
        own = {"image_mode": "dynamic_s2", "projector_type": "mlp_downsample", "s2_scales": scales}
    return {"tile_size": tile_size, "patch_size": patch_size, **own}


def settings_from_single_folder(root: Path) -> CheckpointSettings:
    config = read_json(root / "config.json")
    vision = config.get("vision_config") or {}
    tile_size = config.get("tile_size") or vision.get("image_size", 448)
    visual = default_visual(config["model_type"], tile_size, vision.get("patch_size", 14))
    places = {"layout", "model_type", "root", "tokenizer_dir", "preprocessor_dir"}
    names = {field.name for field in fields(CheckpointSettings)} - places
    given = {name: config[name] for name in names if config.get(name) is not None}
    if given.get("image_mode", visual["image_mode"]) != "dynamic_s2":
        visual["s2_scales"] = ()
    merged = {**visual, **given}
    merged["s2_scales"] = tuple(merged["s2_scales"])
    return CheckpointSettings(
        layout="hf", model_type=config["model_type"], root=root, tokenizer_dir=root, preprocessor_dir=root, **merged
    )
