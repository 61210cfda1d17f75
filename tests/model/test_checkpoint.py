"""Loading, saving, and what a damaged or hostile checkpoint gets."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import write_checkpoint
from transformers import AutoModel, AutoModelForImageTextToText

from nvila.errors import CheckpointError, ConfigError, NVILAError
from nvila.model import NVILAForConditionalGeneration, NVILALiteForConditionalGeneration, NVILAModel
from nvila.model.checkpoint import save_folders

VARIANTS: dict[str, dict[str, Any]] = {
    "dynamic": {"image_mode": "dynamic"},
    "s2": {"image_mode": "dynamic_s2", "s2_scales": [56, 112, 168]},
    "s2_3x3_pooled": {"image_mode": "dynamic_s2", "projector_type": "mlp_downsample_3x3_fix", "temporal_pool": 4},
    "resize_tied": {"image_mode": "resize", "text": {"tie_word_embeddings": True}},
    "perceiver": {"image_mode": "pad", "projector_type": "perceiver_resampler"},
    "llama": {"text": {"model_type": "llama"}},
}


def assert_equal(one: torch.nn.Module, other: torch.nn.Module) -> None:
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("layout", ["folders", "hf"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_round_trip_changes_no_weight_and_no_setting(tmp_path: Path, layout: str, variant: str) -> None:
    written = write_checkpoint(tmp_path / "model", layout, **VARIANTS[variant])
    loaded = NVILAForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert_equal(written, loaded)
    assert loaded.config.visual == written.config.visual
    assert (loaded.config.image_token_id, loaded.config.video_token_id) == (262, 263)
    assert loaded.generation_config.eos_token_id == [258]
    assert not loaded.training


def test_shards_with_an_index_load_in_both_layouts(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "hf", "hf")
    model.save_pretrained(tmp_path / "hf", max_shard_size="20KB")
    (tmp_path / "hf" / "model.safetensors").unlink(missing_ok=True)
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 1
    assert_equal(model, NVILAForConditionalGeneration.from_pretrained(tmp_path / "hf"))
    write_checkpoint(tmp_path / "folders", "folders")
    (tmp_path / "folders" / "llm" / "model.safetensors").unlink()
    save_folders(model, tmp_path / "folders", max_shard_size="20KB")
    assert (tmp_path / "folders" / "llm" / "model.safetensors.index.json").is_file()
    assert_equal(model, NVILAForConditionalGeneration.from_pretrained(tmp_path / "folders"))


def test_auto_classes_and_dtypes(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "hf").to(torch.bfloat16).save_pretrained(tmp_path)
    head = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(head, NVILAForConditionalGeneration)
    assert head.dtype == torch.bfloat16
    assert isinstance(AutoModel.from_pretrained(tmp_path, dtype=torch.float32), NVILAModel)
    assert NVILAForConditionalGeneration.from_pretrained(tmp_path, dtype="float16").dtype == torch.float16


def test_a_released_lite_folder_needs_no_key_of_ours(tmp_path: Path) -> None:
    """The published single-folder config holds two sub-configs and two ids; the type implies the rest."""
    settings = {"image_mode": "dynamic", "projector_type": "mlp_downsample_3x3_fix"}
    written = write_checkpoint(tmp_path, "hf", **settings)
    config = json.loads((tmp_path / "config.json").read_text())
    kept = ("text_config", "vision_config", "image_token_id", "video_token_id")
    published = {key: config[key] for key in kept}
    published |= {"model_type": "nvila_lite", "architectures": ["NVILALiteForConditionalGeneration"], "use_cache": True}
    (tmp_path / "config.json").write_text(json.dumps(published))
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(loaded, NVILALiteForConditionalGeneration)
    assert_equal(written, loaded)
    assert loaded.config.visual == written.config.visual


def test_older_nesting_of_the_tower_loads(tmp_path: Path) -> None:
    written = write_checkpoint(tmp_path, "hf")
    weights = load_file(tmp_path / "model.safetensors")
    nested = {name.replace("vision_tower.", "vision_tower.vision_tower.", 1): value for name, value in weights.items()}
    save_file(nested, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert_equal(written, NVILAForConditionalGeneration.from_pretrained(tmp_path))


def test_a_hub_id_is_found_in_the_local_cache(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--tiny"
    written = write_checkpoint(repository / "snapshots" / commit, "folders")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    loaded = NVILAForConditionalGeneration.from_pretrained("someone/tiny", cache_dir=tmp_path, local_files_only=True)
    assert_equal(written, loaded)
    with pytest.raises(CheckpointError, match="someone/other: not a folder here"):
        NVILAForConditionalGeneration.from_pretrained("someone/other", cache_dir=tmp_path, local_files_only=True)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (open, (self.target, "w"))


def edit_config(part: str = "", **changes: Any) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        path = root / part / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def edit_weights(part: str, change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        path = root / part / "model.safetensors"
        weights = load_file(path)
        change(weights)
        save_file(weights, path, metadata={"format": "pt"})

    return edit


def only_a_pickle(root: Path) -> None:
    (root / "llm" / "model.safetensors").unlink()
    with (root / "llm" / "pytorch_model.bin").open("wb") as file:
        pickle.dump(Bomb(root / "exploded"), file)


def index_that_leaves_the_folder(root: Path) -> None:
    (root / "llm" / "model.safetensors").rename(root / "secret.safetensors")
    index = {"weight_map": {"model.norm.weight": "../secret.safetensors"}}
    (root / "llm" / "model.safetensors.index.json").write_text(json.dumps(index))


def index_of_a_missing_shard(root: Path) -> None:
    (root / "llm" / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}
    (root / "llm" / "model.safetensors.index.json").write_text(json.dumps(index))


def cut_short(root: Path) -> None:
    path = root / "vision_tower" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def header_of_nonsense(root: Path) -> None:
    (root / "mm_projector" / "model.safetensors").write_bytes(b"\xff" * 200)


def nan_weight(weights: dict[str, torch.Tensor]) -> None:
    weights["layers.2.weight"][0, 0] = float("nan")


def wrong_shape(weights: dict[str, torch.Tensor]) -> None:
    weights["layers.2.bias"] = weights["layers.2.bias"][:-1].clone()


def lost_tensor(weights: dict[str, torch.Tensor]) -> None:
    del weights["layers.1.weight"]


def stray_tensor(weights: dict[str, torch.Tensor]) -> None:
    weights["layers.9.weight"] = torch.zeros(3)


ENCODER = {"_target_": "os.system", "command": "touch exploded"}
HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "pickle only": (only_a_pickle, r"pytorch_model\.bin: pickled weights can run code"),
    "index leaves the folder": (index_that_leaves_the_folder, r"index\.json: names '\.\./secret\.safetensors'"),
    "index of a missing shard": (index_of_a_missing_shard, r"model-00001-of-00001\.safetensors: missing"),
    "cut short": (cut_short, r"vision_tower/model\.safetensors: damaged or cut short"),
    "nonsense header": (header_of_nonsense, r"mm_projector/model\.safetensors: damaged"),
    "NaN": (edit_weights("mm_projector", nan_weight), r"mm_projector\.layers\.2\.weight holds NaN"),
    "wrong shape": (edit_weights("mm_projector", wrong_shape), r"has shape \(47,\), but .* makes it \(48,\)"),
    "lost tensor": (edit_weights("mm_projector", lost_tensor), r"1 tensors are missing.*layers\.1\.weight"),
    "stray tensor": (edit_weights("mm_projector", stray_tensor), r"1 unknown tensors.*layers\.9\.weight"),
    "vocabulary": (edit_config("llm", vocab_size=300), r"shape \(264, 48\), but .* makes it \(300, 48\)"),
    "unknown key": (edit_config(max_tile=4), r"unknown key 'max_tile' \(did you mean 'max_tiles'\?\)"),
    "unknown mode": (edit_config(image_aspect_ratio="dynamic-s2"), r"'dynamic-s2', not one of"),
    "contradicting modes": (edit_config(image_aspect_ratio="dynamic_s2"), "dynamic_s2 is false; they must agree"),
    "contradicting widths": (edit_config(mm_hidden_size=33), r"mm_hidden_size is 33, but .* make it 32"),
    "contradicting tiles": (edit_config(min_tiles=13), "max_tiles is 12, below min_tiles, which is 13"),
    "contradicting projectors": (edit_config("mm_projector", mm_projector_type="mlp_downsample_3x3_fix"), "must agree"),
    "unknown projector": (edit_config("mm_projector", mm_projector_type="mlp9x_gelu"), "'mlp9x_gelu', not one of"),
    "code as encoder": (edit_config(video_encoder=ENCODER), r"names 'system', not one of"),
    "code as encoder text": (edit_config(image_encoder="__import__('os').system('touch exploded')"), "is not JSON"),
    "code as dtype": (edit_config(model_dtype="__import__('os').system('touch exploded')"), ""),
    "layer that is not there": (edit_config(mm_vision_select_layer=-9), "but the vision tower has 3 layers"),
    "other decoder": (edit_config("llm", model_type="gpt2"), r"model_type 'gpt2' of a sub-config is not supported"),
    "path as sub-config": (edit_config(llm_cfg="../elsewhere"), "llm_cfg is a str"),
    "other model": (edit_config(model_type="llava"), r"model_type is 'llava', not one of"),
    "config is no JSON": (lambda root: (root / "config.json").write_text("{") and None, "cannot be read as JSON"),
    "config is a list": (lambda root: (root / "config.json").write_text("[]") and None, "holds a JSON list"),
    "part is missing": (lambda root: shutil.rmtree(root / "mm_projector"), "lacks mm_projector/config.json"),
    "no weights": (lambda root: (root / "llm" / "model.safetensors").unlink(), "holds no weights"),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_hostile_checkpoints(tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path, "folders")
    damage, message = HOSTILE[fault]
    damage(tmp_path)
    if message:
        with pytest.raises(NVILAError, match=message) as caught:
            NVILAForConditionalGeneration.from_pretrained(tmp_path)
        assert isinstance(caught.value, CheckpointError | ConfigError)
        assert str(tmp_path) in str(caught.value)
    else:
        NVILAForConditionalGeneration.from_pretrained(tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_unknown_keys_in_a_single_folder(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "hf")
    edit_config(projector_typ="mlp_downsample")(tmp_path)
    with pytest.raises(ConfigError, match=r"config\.json: unknown .* 'projector_typ' \(did you mean 'projector_type'"):
        NVILAForConditionalGeneration.from_pretrained(tmp_path)


def test_remote_code_is_never_run(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "hf")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'exploded')!r}, 'w')")
    edit_config(auto_map={"AutoModelForImageTextToText": "evil.Model", "AutoConfig": "evil.Config"})(tmp_path)
    NVILAForConditionalGeneration.from_pretrained(tmp_path)
    AutoModelForImageTextToText.from_pretrained(tmp_path, trust_remote_code=False)
    assert not (tmp_path / "exploded").exists()
