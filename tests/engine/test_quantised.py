"""Layers in 4 and 8 bits in the engine: fused ones equal single ones, and answers equal the model's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.tiny_engines import TEXT, Reference, conversations, open_engine, write_lively_checkpoint
from torch import nn

from nvila import ConfigError, Engine
from nvila.engine.linear import DenseLinear, PackedLinear, SideBySide, fuse
from nvila.engine.round import round_in_place
from nvila.ops.int4_linear import Int4Linear
from nvila.ops.int8_linear import Int8Linear
from nvila.quant.awq import int4_layer, round_groups


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose widths groups of 64 divide."""
    folder = tmp_path_factory.mktemp("wide") / "model"
    return write_lively_checkpoint(folder, text={**TEXT, "hidden_size": 64, "intermediate_size": 128})


def linears(biases: tuple[bool, ...]) -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(64, width, bias=bias) for width, bias in zip((32, 16, 48), biases, strict=True)]


def as_int4(linear: nn.Linear, size: int = 32) -> Int4Linear:
    return int4_layer(round_groups(linear.weight.data, size, torch.float32), linear.bias, size)


@pytest.mark.parametrize("biases", [(True, True, True), (True, False, True), (False, False, False)])
@pytest.mark.parametrize("kind", [DenseLinear, PackedLinear, SideBySide])
@torch.no_grad()
def test_fused_layers_give_what_single_ones_give(kind: type, biases: tuple[bool, ...]) -> None:
    layers: list[Any] = [*linears(biases)]
    if kind is PackedLinear:
        layers = [as_int4(layer) for layer in layers]
    if kind is SideBySide:
        layers = [as_int4(layers[0], 32), as_int4(layers[1], 64), layers[2]]
    x = torch.randn(5, 64)
    expected = torch.cat([layer(x) for layer in layers], dim=-1)
    fused = fuse(layers)
    assert type(fused) is kind
    torch.testing.assert_close(fused(x), expected)
    torch.testing.assert_close(torch.cat([layer(x) for layer in layers], dim=-1), expected)


def test_fusing_holds_nothing_twice() -> None:
    dense = linears((True, True, True))
    fused = fuse(dense)
    assert isinstance(fused, DenseLinear)
    assert {layer.weight.untyped_storage().data_ptr() for layer in dense} == {fused.weight.untyped_storage().data_ptr()}
    packed = [as_int4(layer) for layer in dense]
    joined = fuse(packed)
    assert isinstance(joined, PackedLinear)
    assert {layer.weight_packed.untyped_storage().data_ptr() for layer in packed} == {
        joined.weight.packed.untyped_storage().data_ptr()
    }


def test_answers_are_those_of_the_rounded_model(wide: Path) -> None:
    reference = Reference(wide)
    plain = [reference.answer(messages, max_new_tokens=12) for messages in conversations()]
    round_in_place(reference.model, vision="w8a8", language="w4a16")
    kinds = {type(module) for module in reference.model.modules()}
    assert {Int4Linear, Int8Linear} <= kinds
    engine = Engine.from_pretrained(wide, dtype="float32", device="cpu", vision="w8a8", language="w4a16")
    expected = [reference.answer(messages, max_new_tokens=12) for messages in conversations()]
    found = [engine.generate(messages, max_new_tokens=12).token_ids for messages in conversations()]
    assert found == expected
    assert found != plain


def test_rounding_leaves_answers_near(wide: Path) -> None:
    engines = [
        Engine.from_pretrained(wide, dtype="float32", device="cpu", vision=vision, language=None)
        for vision in (None, "w8a8")
    ]
    first, second = (
        engine.generate(conversations()[1], max_new_tokens=1, logprobs=5).logprobs[0] for engine in engines
    )
    assert first.logprob != second.logprob
    assert first.logprob == pytest.approx(second.logprob, abs=0.5)


@pytest.mark.parametrize(("options", "words"), [({"vision": "w4a16"}, "vision"), ({"language": "w8a16"}, "w4a16")])
def test_unknown_formats(options: dict[str, str], words: str, checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        Engine.from_pretrained(checkpoint, **options)


def test_widths_that_no_group_divides_stay_as_they_are(checkpoint: Path) -> None:
    plain = open_engine(checkpoint).generate(conversations()[0], max_new_tokens=8)
    engine = Engine.from_pretrained(checkpoint, dtype="float32", device="cpu", language="w4a16")
    assert type(engine.model.llm.model.layers[0].self_attn.q_proj) is nn.Linear
    assert type(engine.model.llm.model.layers[0].mlp.down_proj) is Int4Linear
    assert plain.num_prompt_tokens == engine.generate(conversations()[0], max_new_tokens=8).num_prompt_tokens


def test_an_activation_inside_the_next_layer_gives_the_same_features(checkpoint: Path) -> None:
    model = Reference(checkpoint).model
    round_in_place(model, vision="w8a8", language=None)
    mlps = [layer.mlp for layer in model.vision_tower.vision_model.encoder.layers]
    assert all(type(mlp.activation_fn) is nn.Identity and mlp.fc2.input_activation for mlp in mlps)
    pixels = torch.randn(2, 3, 56, 56)
    fused = model.encode_tiles(pixels)
    for mlp in mlps:
        mlp.activation_fn, mlp.fc2.input_activation = nn.GELU(approximate="tanh"), None
    assert torch.equal(model.encode_tiles(pixels), fused)
