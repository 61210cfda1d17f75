"""Settings from configuration files alone, in the dialects that published checkpoints use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nvila.errors import CheckpointError, ConfigError, NVILAError
from nvila.layouts import MINI, VisualSettings, detect, read_settings, resolve

PUBLISHED_8B: dict[str, Any] = {
    "architectures": ["LlavaLlamaModel"],
    "model_type": "llava_llama",
    "image_aspect_ratio": "dynamic_s2",
    "dynamic_s2": True,
    "s2": False,
    "s2_scales": "448,896,1344",
    "s2_max_split_size": 448,
    "s2_resize_output_to_scale_idx": -1,
    "hidden_size": 3584,
    "mm_hidden_size": 3456,
    "mm_projector_type": "mlp_downsample",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "cls_patch",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": True,
    "num_video_frames": 8,
    "fps": 0.0,
    "chat_template": None,
    "num_time_tokens": 0,
    "time_token_format": "<t{t}>",
    "time_token_ids": [],
    "soft_ce_std": 1.0,
    "vision_resolution": -1,
    "interpolate_mode": "linear",
    "drop_path_rate": 0.0,
    "tune_language_model": True,
    "model_dtype": "torch.bfloat16",
    "resume_path": "runs/train/some-run/model",
    "transformers_version": "4.46.0",
    "llm_cfg": {},
    "vision_tower_cfg": {},
    "mm_projector_cfg": {},
}
POOLING = {"_target_": "llava.model.encoders.TSPVideoEncoder", "pool_sizes": [[8, 1, 1]]}


def write(root: Path, projector: str = "mlp_downsample", side: int = 448, **changes: Any) -> Path:
    files = {
        "config.json": {**PUBLISHED_8B, **changes},
        "llm/config.json": {},
        "vision_tower/config.json": {"image_size": side, "patch_size": 14},
        "vision_tower/preprocessor_config.json": {"size": {"height": side, "width": side}},
        "mm_projector/config.json": {"mm_projector_type": projector},
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({key: value for key, value in content.items() if value != "absent"}))
    return root


def test_the_published_8b(tmp_path: Path) -> None:
    settings = read_settings(write(tmp_path))
    assert settings.s2_scales == (448, 896, 1344)
    assert (settings.image_mode, settings.min_tiles, settings.max_tiles) == ("dynamic_s2", 1, 12)
    assert (settings.tokens_per_tile, settings.temporal_pool, settings.fps) == (256, 1, 0.0)
    assert settings.tokenizer_dir == tmp_path / "llm"


def test_keys_that_are_absent_take_the_reference_defaults(tmp_path: Path) -> None:
    names = ("s2_scales", "s2_resize_output_to_scale_idx", "num_video_frames", "fps", "soft_ce_std", "num_time_tokens")
    assert (
        read_settings(write(tmp_path, **dict.fromkeys(names, "absent"))).visual == read_settings(write(tmp_path)).visual
    )
    assert read_settings(write(tmp_path, fps=None)).fps == 0.0


@pytest.mark.parametrize("as_text", [False, True])
def test_temporal_pooling_as_table_and_as_text(tmp_path: Path, as_text: bool) -> None:
    encoder: Any = json.dumps(POOLING) if as_text else POOLING
    assert read_settings(write(tmp_path, video_encoder=encoder)).temporal_pool == 8


def test_lite_and_the_two_names_of_the_2x2_projector(tmp_path: Path) -> None:
    lite = write(tmp_path / "lite", "mlp_downsample_3x3_fix", image_aspect_ratio="dynamic", dynamic_s2=False)
    assert read_settings(lite).tokens_per_tile == 121
    assert read_settings(write(tmp_path / "video", "mlp_downsample_2x2_fix")).projector_type == "mlp_downsample"


def test_s2_features_without_tiling(tmp_path: Path) -> None:
    settings = read_settings(write(tmp_path, image_aspect_ratio="resize"))
    assert (settings.image_mode, settings.num_scales) == ("resize", 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"s2": True}, "VILA-1.5"),
        ({"ps3": True}, "top-down patch selection"),
        ({"s2_scales": "448,896,x"}, "whole numbers"),
        ({"s2_scales": "448,1344,896"}, "they must grow"),
        ({"s2_scales": "448,900"}, "multiple of the first"),
        ({"s2_scales": [384, 768]}, "first of s2_scales is 384, but the tile size is 448"),
        ({"s2_max_split_size": 384}, "s2_max_split_size is 384, but tiles are 448"),
        ({"s2_resize_output_to_scale_idx": 3}, "there are 3 s2_scales"),
        ({"video_encoder": {**POOLING, "pool_sizes": [[8, 1, 1], [4, 1, 1]]}}, "only one pooling over time"),
        ({"video_encoder": {**POOLING, "pool_sizes": [[8, 2, 2]]}}, "only one pooling over time"),
        ({"video_encoder": {**POOLING, "pool_size": [[8, 1, 1]]}}, "unknown option 'pool_size'"),
        ({"image_encoder": {"_target_": "x.BasicImageEncoder", "end_tokens": None}}, "only the published"),
        ({"mm_vision_select_feature": "patch"}, "SigLIP has no class token"),
        ({"num_video_frames": 0}, "num_video_frames is 0"),
        ({"fps": -1.0}, "fps is -1.0"),
        ({"imagee_aspect_ratio": "pad"}, r"did you mean 'image_aspect_ratio'"),
    ],
)
def test_contradictions_name_the_file_and_both_values(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(NVILAError, match=message) as caught:
        read_settings(write(tmp_path, **changes))
    assert str(tmp_path / "config.json") in str(caught.value)


def test_names_that_are_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, message in {
        tmp_path / "nowhere": "no such folder",
        tmp_path / "file": "is a file",
        "../up/and/away": "no such folder",
        tmp_path: "missing; a checkpoint folder needs it",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            detect(resolve(name))


def test_the_default_model_has_a_name() -> None:
    assert resolve(MINI).name == MINI
    assert resolve(MINI).parent.name == "assets"


def test_visual_settings_refuse_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="needs s2_scales"):
        VisualSettings(image_mode="dynamic_s2")
    with pytest.raises(ConfigError, match=r"did you mean 'dynamic_s2'"):
        VisualSettings(image_mode="dynamic-s2")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="temporal_pool is True"):
        VisualSettings(image_mode="resize", temporal_pool=True)
