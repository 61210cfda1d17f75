"""Every way to train the tower with every way to train the decoder: two steps, saved, merged, loaded by plain peft."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from tests.adapters.conftest import logits
from tests.tiny import write_checkpoint
from tests.train.finetune.conftest import make_options, make_prepared

from nvila.adapters import store
from nvila.adapters.merge import attach_saved, merge_in_place
from nvila.model import NVILAForConditionalGeneration
from nvila.train.finetune.run import run

METHODS = [
    *product(("ln", "lora", "full", "frozen"), ("lora", "qlora", "full", "frozen"))
]  # frozen-frozen trains the projector


@pytest.mark.parametrize(("vision", "language"), METHODS, ids="-".join)
def test_two_steps(base: Path, data: Path, tmp_path: Path, vision: str, language: str) -> None:
    options = make_options(base, data, vision=vision, language=language)
    prepared = make_prepared(options, tmp_path / "out", "stage.0.steps=2")
    result = run(prepared, tmp_path / "out")
    assert result.adapter == tmp_path / "out" / "adapter"

    plain = NVILAForConditionalGeneration.from_pretrained(base)
    before = {name: weight.clone() for name, weight in plain.named_parameters()}
    untouched = logits(plain)
    model = NVILAForConditionalGeneration.from_pretrained(base)
    attach_saved(model, result.adapter)
    beside = logits(model)
    merge_in_place(model, torch.float32)
    assert torch.allclose(logits(model), beside, atol=1e-4)
    assert not torch.allclose(beside, untouched, atol=1e-4)

    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert {
        part for part in ("vision_tower", "mm_projector", "llm") if any(name.startswith(part) for name in moved)
    } == {
        *(["vision_tower"] if vision != "frozen" else []),
        "mm_projector",
        *(["llm"] if language != "frozen" else []),
    }
    if vision == "ln":
        assert all(".layer_norm" in name for name in moved if name.startswith("vision_tower"))
    if "lora" in (vision, language):
        tuned = result.adapter / store.TUNED_WEIGHTS
        plain.load_state_dict(load_file(tuned), strict=False)
        loaded = peft.PeftModel.from_pretrained(plain, result.adapter)
        if language != "qlora":
            assert torch.allclose(logits(loaded), beside, atol=1e-5)


@pytest.mark.parametrize("packing", [True, False])
def test_every_kind_of_sample_is_trained_on(base: Path, data: Path, tmp_path: Path, packing: bool) -> None:
    options = make_options(base, data, data=str(data / "mixed.jsonl"), packing=packing, epochs=2.0)
    prepared = make_prepared(options, tmp_path / "out")
    assert prepared.looked.survey.num_samples == 4
    assert run(prepared, tmp_path / "out").adapter is not None


def test_a_mixture_is_trained_on(base: Path, data: Path, tmp_path: Path) -> None:
    mixture = tmp_path / "mixture.toml"
    mixture.write_text(
        f'name = "two"\nroot = "{data}"\n[[source]]\nname = "a"\npath = "pictures.jsonl"\ncap = 4\n'
        '[[source]]\nname = "b"\npath = "mixed.jsonl"\nrepeat = 2.0\n'
    )
    prepared = make_prepared(make_options(base, data, data=str(mixture)), tmp_path / "out")
    assert prepared.looked.survey.num_samples == 4 + 2 * 4
    assert run(prepared, tmp_path / "out").adapter is not None


def test_recomputation_changes_no_loss(base: Path, data: Path, tmp_path: Path) -> None:
    options = make_options(base, data, vision="lora", language="qlora")
    again = 'stage.0.gradient_checkpointing=["vision", "llm"]'
    curves = []
    for name, more in (("kept", ()), ("again", (again,))):
        run(make_prepared(options, tmp_path / name, "stage.0.steps=3", *more), tmp_path / name)
        lines = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        curves.append([entry["loss"] for entry in map(json.loads, lines) if "loss" in entry])
    assert len(curves[0]) == 3
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


@pytest.mark.parametrize("mode", ["dynamic_s2", "resize"])
def test_every_image_mode_is_planned_and_trained(data: Path, tmp_path: Path, mode: str) -> None:
    scales = {"s2_scales": (56, 112, 168)} if mode == "dynamic_s2" else {}
    write_checkpoint(tmp_path / "base", "hf", text={"max_position_embeddings": 1024}, image_mode=mode, **scales)
    options = make_options(tmp_path / "base", data)
    prepared = make_prepared(options, tmp_path / "out", "stage.0.steps=1")
    assert prepared.plan.memory["projector_activations"] > 0
    assert run(prepared, tmp_path / "out").adapter is not None
