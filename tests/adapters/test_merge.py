"""A merged model says what the model with its adapter said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.adapters.conftest import RANK, logits, trained
from tests.adapters.test_store import save
from tests.tiny import make_tokenizer

from nvila.adapters import export
from nvila.adapters.merge import attach_saved, difference, merge_in_place
from nvila.adapters.nf4 import NF4Linear
from nvila.adapters.options import AdapterOptions
from nvila.errors import CheckpointError
from nvila.model import NVILAForConditionalGeneration

METHODS = [
    AdapterOptions(vision=vision, language=language, rank=RANK)
    for vision in ("ln", "lora", "full")
    for language in ("lora", "qlora", "full")
]


@pytest.mark.parametrize("options", METHODS, ids=lambda options: f"{options.vision}-{options.language}")
def test_merged_and_unmerged_logits_agree(base: Path, options: AdapterOptions) -> None:
    model = trained(base, options)
    before = logits(model)
    merge_in_place(model, torch.float32)
    assert torch.allclose(logits(model), before, atol=1e-4)
    assert not any("lora" in name or "base_layer" in name for name in model.state_dict())
    assert not torch.allclose(logits(NVILAForConditionalGeneration.from_pretrained(base)), before, atol=1e-2)


def test_a_merged_model_is_a_plain_checkpoint(base: Path, tmp_path: Path) -> None:
    model = trained(base, METHODS[0])
    before = logits(model)
    merge_in_place(model, torch.float32)
    model.save_pretrained(tmp_path / "merged")
    make_tokenizer().save_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(NVILAForConditionalGeneration.from_pretrained(tmp_path / "merged")), before, atol=1e-4)


def test_qlora_is_merged_into_what_it_was_trained_beside(base: Path) -> None:
    options = AdapterOptions(language="qlora", rank=RANK)
    model = trained(base, options, "llm")
    layer = model.llm.model.layers[0].self_attn.q_proj
    low = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * 32.0 / RANK
    original = NVILAForConditionalGeneration.from_pretrained(base).llm.model.layers[0].self_attn.q_proj
    expected = NF4Linear(original).dequantised(torch.float32) + low
    merge_in_place(model, torch.float32)
    assert torch.allclose(model.llm.model.layers[0].self_attn.q_proj.weight, expected, atol=1e-6)


def test_16_bits_round_the_merged_weights_once(base: Path) -> None:
    model = trained(base, METHODS[0])
    exact = trained(base, METHODS[0])
    merge_in_place(model, torch.bfloat16)
    merge_in_place(exact, torch.float32)
    for (name, narrow), wide in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert torch.equal(narrow, wide.to(torch.bfloat16)), name
    frequencies = model.language_model.rotary_emb.inv_freq
    assert frequencies.dtype == torch.float32


@pytest.mark.parametrize("language", ["lora", "qlora"])
def test_what_merging_changed_is_reported(base: Path, tmp_path: Path, language: str) -> None:
    options = AdapterOptions(vision="ln", language=language, rank=RANK)  # type: ignore[arg-type]
    save(trained(base, options), base, options, tmp_path / "adapter")
    merged = export.load_merged(tmp_path / "adapter")
    assert merged.dtype == torch.float32
    assert merged.change.largest < 1e-4
    assert merged.change.same_top == 1.0
    assert merged.processor.image_processor.max_tiles == 3
    assert (merged.nf4_error is not None) == (language == "qlora")
    narrow = export.load_merged(tmp_path / "adapter", dtype=torch.bfloat16)
    assert 1e-4 < narrow.change.largest < 0.2 * narrow.change.scale
    assert "bfloat16 changed logits by: largest" in narrow.text()


def test_the_base_may_lie_elsewhere_but_must_be_the_same(base: Path, tmp_path: Path) -> None:
    save(trained(base, METHODS[0]), base, METHODS[0], tmp_path / "adapter")
    moved = tmp_path / "moved"
    moved.symlink_to(base)
    assert export.load_merged(tmp_path / "adapter", base=str(moved)).change.largest < 1e-4
    with pytest.raises(CheckpointError, match="but the base is nvila-mini"):
        export.load_merged(tmp_path / "adapter", base="nvila-mini")


def test_difference_sees_a_single_logit() -> None:
    first = torch.zeros(4, 8)
    first[:, 0] = 1.0
    second = first.clone()
    second[2, 5] = 3.0
    found = difference(first, second)
    assert found.largest == 3.0
    assert found.mean == pytest.approx(3 / 32)
    assert found.same_top == 0.75


def test_adapters_go_on_from_where_they_were(base: Path, tmp_path: Path) -> None:
    save(trained(base, METHODS[0]), base, METHODS[0], tmp_path / "adapter")
    again = NVILAForConditionalGeneration.from_pretrained(base)
    attach_saved(again, tmp_path / "adapter")
    assert {weight.dtype for name, weight in again.named_parameters() if "lora" in name} == {torch.float32}
