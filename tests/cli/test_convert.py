"""`nvila convert`: every layout to every other, with identical inputs and logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.tiny import write_checkpoint

from nvila.cli.main import main
from nvila.model import NVILAForConditionalGeneration
from nvila.processing import NVILAProcessor

VARIANTS: dict[str, dict[str, Any]] = {
    "lite": {"image_mode": "dynamic", "projector_type": "mlp_downsample_3x3_fix"},
    "full": {"image_mode": "dynamic_s2", "temporal_pool": 2},
}


def logits(folder: Path) -> torch.Tensor:
    """Next-token logits for a conversation whose image ends the turn, where the layouts' text rules differ."""
    processor = NVILAProcessor.from_pretrained(folder)
    image = Image.effect_mandelbrot((150, 90), (-2, -1, 1, 1), 50).convert("RGB")
    content = [{"type": "text", "text": "Describe:"}, {"type": "image", "image": image}]
    messages = [{"role": "user", "content": content}]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        return NVILAForConditionalGeneration.from_pretrained(folder)(**inputs).logits


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("first", "second"), [("folders", "hf"), ("hf", "folders")])
def test_there_and_back_again(tmp_path: Path, variant: str, first: str, second: str) -> None:
    write_checkpoint(tmp_path / "a", first, **VARIANTS[variant])
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "b"), "--layout", second]) == 0
    assert main(["convert", str(tmp_path / "b"), str(tmp_path / "c"), "--layout", first]) == 0
    expected = logits(tmp_path / "a")
    assert torch.equal(expected, logits(tmp_path / "b"))
    assert torch.equal(expected, logits(tmp_path / "c"))
    written = json.loads((tmp_path / ("b" if second == "hf" else "c") / "config.json").read_text())
    assert written["model_type"] == ("nvila_lite" if variant == "lite" else "nvila")


def test_golden_checkpoints_keep_their_logits(tmp_path: Path, golden: Path) -> None:
    for name in ("nvila_lite", "nvila_s2_mlp_downsample", "nvila_video_tsp"):
        source = golden / name / "checkpoint"
        assert main(["convert", str(source), str(tmp_path / name), "--layout", "hf", "--max-shard-size", "300KB"]) == 0
        assert (tmp_path / name / "model.safetensors.index.json").is_file()
        assert torch.equal(logits(source), logits(tmp_path / name))


def test_nothing_is_left_behind_by_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path / "a", "folders")
    (tmp_path / "a" / "mm_projector" / "model.safetensors").unlink()
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "b"), "--layout", "hf"]) == 2
    assert "holds no weights" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_existing_target_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path / "a", "folders")
    (tmp_path / "b").mkdir()
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "b"), "--layout", "hf"]) == 2
    assert "already there" in capsys.readouterr().err
