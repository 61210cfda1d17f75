"""Which weights learn, in which dtype, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.adapters.conftest import RANK, parts

from nvila.adapters.nf4 import NF4Linear
from nvila.adapters.options import AdapterOptions
from nvila.adapters.tune import attach, lora_layers, train_parts
from nvila.errors import ConfigError
from nvila.model import NVILAForConditionalGeneration

ALL = ("vision", "projector", "llm")


def learning(base: Path, options: AdapterOptions, train: tuple[str, ...] = ALL) -> dict[str, torch.nn.Parameter]:
    model = NVILAForConditionalGeneration.from_pretrained(base, dtype="auto")
    attach(model, options)
    train_parts(parts(model), train, options)
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def test_layer_norms_of_the_tower_are_all_that_learns_there(base: Path) -> None:
    found = learning(base, AdapterOptions(vision="ln", language="lora", rank=RANK), ("vision",))
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in found} == {"layer_norm1", "layer_norm2"}
    assert all(name.startswith("vision_tower.") for name in found)


def test_lora_stands_beside_every_matrix_of_the_decoders_layers_and_no_other(base: Path) -> None:
    found = learning(base, AdapterOptions(language="lora", rank=RANK), ("llm",))
    assert all(".lora_" in name and name.startswith("llm.model.layers.") for name in found)
    assert len(found) == 2 * 7 * 2


def test_lora_of_the_tower_leaves_the_layer_out_that_never_runs(base: Path) -> None:
    found = learning(base, AdapterOptions(vision="lora", rank=RANK), ("vision",))
    assert {name.split("layers.")[1][0] for name in found} == {"0", "1"}
    assert len(found) == 2 * 6 * 2


def test_whole_parts_learn_without_adapters(base: Path) -> None:
    model = NVILAForConditionalGeneration.from_pretrained(base, dtype="auto")
    assert learning(base, AdapterOptions()).keys() == dict(model.named_parameters()).keys()


def test_what_learns_is_float32_and_the_rest_as_asked(base: Path) -> None:
    model = NVILAForConditionalGeneration.from_pretrained(base, dtype="auto")
    options = AdapterOptions(vision="ln", language="lora", rank=RANK, frozen_dtype="bfloat16")
    attach(model, options)
    train_parts(parts(model), ALL, options)
    dtypes = {weight.dtype for weight in model.parameters() if weight.requires_grad}
    frozen = {weight.dtype for weight in model.parameters() if not weight.requires_grad}
    assert dtypes == {torch.float32}
    assert frozen == {torch.bfloat16}


def test_a_base_in_16_bits_is_trained_whole_in_32(base: Path) -> None:
    model = NVILAForConditionalGeneration.from_pretrained(base, dtype=torch.bfloat16)
    attach(model, AdapterOptions())
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_qlora_keeps_the_decoders_matrices_in_4_bits(base: Path) -> None:
    model = NVILAForConditionalGeneration.from_pretrained(base, dtype="auto")
    attach(model, AdapterOptions(language="qlora", rank=RANK))
    layers = lora_layers(model)
    assert len(layers) == 14
    assert all(isinstance(layer.get_base_layer(), NF4Linear) for layer in layers.values())
    assert not any(name.endswith("proj.base_layer.weight") for name, _ in model.named_parameters())


def test_a_rank_above_a_matrix_is_refused_with_both_numbers(base: Path) -> None:
    with pytest.raises(ConfigError, match=r"rank is 25, but llm\.model\.layers\.0\.self_attn\.k_proj is .* 24 x 48"):
        learning(base, AdapterOptions(language="lora", rank=25))


@pytest.mark.parametrize(("name", "value"), [("rank", 0), ("alpha", 0.0), ("dropout", 1.0), ("dropout", -0.1)])
def test_options_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {value:g}"):
        AdapterOptions(**{name: value})  # type: ignore[arg-type]
