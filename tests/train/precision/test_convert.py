"""Swapping the parts of a whole model: names and checkpoints stay, bytes kept halve, training goes on as before."""

from __future__ import annotations

import copy
import dataclasses
import sys

import pytest
import torch
from tests.tiny import make_model
from tests.train.precision.stack import (
    EVERYTHING,
    EVERYTHING_KEPT,
    cosine,
    gradients,
    make_stack,
    run_decoder,
    slope,
)
from torch import nn

from nvila.errors import ConfigError
from nvila.model import NVILAForConditionalGeneration
from nvila.train.precision.convert import apply_precision
from nvila.train.precision.linear import Fp8Linear
from nvila.train.precision.options import PrecisionOptions
from nvila.train.precision.saved import saved_bytes

LAYER = "llm.model.layers.0"


def decoder_bytes(model: NVILAForConditionalGeneration, *, tokens: int) -> int:
    """What the decoder's layers keep for the backward pass, without the parameters."""
    decoder = model.language_model
    x = torch.randn(1, tokens, decoder.config.hidden_size).to(model.dtype).requires_grad_()
    places = torch.arange(tokens)[None]
    rotary = decoder.rotary_emb(x, places)

    def forward() -> torch.Tensor:
        states = x
        for layer in decoder.layers:
            states = layer(states, attention_mask=None, position_embeddings=rotary)
        return states

    return saved_bytes(forward, [*model.parameters(), *rotary])


@pytest.mark.parametrize("recipe", ["none", "tensorwise", "rowwise"])
@pytest.mark.parametrize("key_value_heads", [1, 4])
def test_kept_bytes_are_at_most_0_55_of_those_of_bf16(recipe: str, key_value_heads: int) -> None:
    sizes = {
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": key_value_heads,
    }
    model = make_stack(dtype=torch.bfloat16, **sizes)
    plain = decoder_bytes(model, tokens=256)
    options = PrecisionOptions(**{**dataclasses.asdict(EVERYTHING_KEPT), "linears": recipe})
    apply_precision(model, options)
    assert decoder_bytes(model, tokens=256) <= 0.55 * plain


@pytest.mark.parametrize("part", ["inputs", "norms", "activations"])
def test_each_part_alone_keeps_less_and_the_output_stays_the_same_to_the_bit(part: str) -> None:
    model = make_stack(dtype=torch.bfloat16)
    plain, wanted = decoder_bytes(model, tokens=64), run_decoder(model)
    apply_precision(model, PrecisionOptions(**{part: True}))
    assert decoder_bytes(model, tokens=64) < 0.95 * plain
    assert torch.equal(run_decoder(model), wanted)


def test_names_parameters_and_numbers_of_a_checkpoint_stay() -> None:
    model = make_model(text={"hidden_size": 64})
    names = list(model.state_dict())
    before = dict(model.named_parameters())
    apply_precision(model, dataclasses.replace(EVERYTHING, vision=True))
    assert list(model.state_dict()) == names
    after = dict(model.named_parameters())
    assert all(after[name] is weight for name, weight in before.items())
    model.load_state_dict(make_model(text={"hidden_size": 64}).state_dict())


@pytest.mark.parametrize("options", [EVERYTHING_KEPT, EVERYTHING])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_all_layers_follow_the_plain_model(options: PrecisionOptions, dtype: torch.dtype) -> None:
    plain = make_stack(dtype=dtype)
    packed = copy.deepcopy(plain)
    apply_precision(packed, options)
    wanted, found = (gradients(model, run_decoder(model)) for model in (plain, packed))
    assert set(found) == set(wanted)
    both = [torch.cat([grads[name].flatten().double() for name in wanted]) for grads in (found, wanted)]
    assert cosine(*both) > (0.99 if options.linears == "none" else 0.98)
    assert slope(*both) == pytest.approx(1, abs=0.03)
    assert min(cosine(found[name], wanted[name]) for name in wanted) > (0.98 if options.linears == "none" else 0.9)


@pytest.mark.parametrize("options", [EVERYTHING_KEPT, EVERYTHING])
def test_gradient_checkpointing_gives_the_same_gradients(options: PrecisionOptions) -> None:
    model = make_stack()
    apply_precision(model, options)
    wanted = gradients(model, run_decoder(model))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    found = gradients(model, run_decoder(model))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.slow
def test_compiled_layers_give_the_same_gradients() -> None:
    model = make_stack(num_hidden_layers=1)
    apply_precision(model, EVERYTHING)
    wanted = gradients(model, run_decoder(model))
    model.language_model.layers[0].compile(backend="aot_eager", fullgraph=True, dynamic=True)
    found = gradients(model, run_decoder(model))
    assert min(cosine(found[name], wanted[name]) for name in wanted) > 0.9999


def test_autocast_gives_the_plain_output_and_float32_gradients() -> None:
    model = make_stack()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = run_decoder(model)
    grads = gradients(model, wanted)
    apply_precision(model, EVERYTHING_KEPT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run_decoder(model)
    assert torch.equal(found, wanted)
    ours = gradients(model, found)
    assert all(grad.dtype == torch.float32 for grad in ours.values())
    assert min(cosine(ours[name], grads[name]) for name in grads) > 0.98


def test_frozen_layers_pass_gradients_through_and_keep_less() -> None:
    model = make_stack(dtype=torch.bfloat16)
    apply_precision(model, EVERYTHING)
    trained = decoder_bytes(model, tokens=64)
    model.language_model.layers.requires_grad_(False)
    assert decoder_bytes(model, tokens=64) < trained
    states = run_decoder(model)
    states.float().sum().backward()
    embeddings = model.get_input_embeddings().weight.grad
    assert embeddings is not None
    assert embeddings.abs().sum() > 0


def test_the_vision_tower_is_asked_for_explicitly() -> None:
    plain = make_model(text={"hidden_size": 64}).train()
    model = copy.deepcopy(plain)
    assert not [path for path in apply_precision(model, EVERYTHING).swapped if path.startswith("vision_tower.")]
    model = copy.deepcopy(plain)
    report = apply_precision(model, dataclasses.replace(EVERYTHING_KEPT, vision=True))
    swapped = {
        path.rpartition("layers.0.")[2]
        for path in report.swapped
        if path.startswith("vision_tower.") and "layers.0." in path
    }
    linears = {f"self_attn.{name}_proj" for name in "qkv"} | {"mlp.fc1", "mlp.fc2"}
    assert swapped == linears | {"layer_norm1", "layer_norm2", "mlp.activation_fn"}
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    features = [one.encode_tiles(pixels) for one in (model, plain)]
    assert torch.equal(*features)
    for one in features:
        one.square().sum().backward()
    name = "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"
    grads = [dict(one.named_parameters())[name].grad for one in (model, plain)]
    assert grads[0] is not None
    assert grads[1] is not None
    assert cosine(grads[0], grads[1]) > 0.99


def test_head_embeddings_and_projector_are_left_with_a_reason() -> None:
    model = make_stack()
    report = apply_precision(model, dataclasses.replace(EVERYTHING, vision=True))
    for path in ("llm.lm_head", "llm.model.embed_tokens", "llm.model.norm"):
        assert report.left[path] == "language head, embedding or last norm"
    assert any(path.startswith("mm_projector.") for path in report.left)
    assert not any(isinstance(one, Fp8Linear) for one in (model.llm.lm_head, *model.mm_projector.modules()))
    assert not set(report.left) & set(report.swapped)
    assert "language head, embedding or last norm" in report.summary()


def test_dimensions_decide_which_products_are_in_fp8() -> None:
    model = make_stack(intermediate_size=168, num_key_value_heads=1)
    report = apply_precision(model, PrecisionOptions(linears="rowwise", min_features=32))
    assert report.swapped[f"{LAYER}.self_attn.q_proj"] == "linear layer, rowwise products, input kept in 16 bits"
    assert "under min_features = 32" in report.left[f"{LAYER}.self_attn.k_proj"]
    assert "64 to 168 features: not multiples of 16" in report.left[f"{LAYER}.mlp.up_proj"]
    assert type(model.llm.model.layers[0].self_attn.k_proj) is nn.Linear


def test_small_layers_keep_the_packed_input_of_the_large_ones_beside_them() -> None:
    plain = make_stack(num_key_value_heads=1)
    model = copy.deepcopy(plain)
    apply_precision(model, dataclasses.replace(EVERYTHING, norms=False, activations=False))
    attention = model.llm.model.layers[0].self_attn
    assert (attention.q_proj.recipe, attention.k_proj.recipe) == ("tensorwise", "none")
    assert attention.q_proj.packer is attention.k_proj.packer
    wanted, found = (gradients(one, run_decoder(one)) for one in (plain, model))
    assert cosine(found["0.self_attn.k_proj.weight"], wanted["0.self_attn.k_proj.weight"]) > 0.95


def test_the_output_projection_keeps_what_the_attention_keeps_anyway() -> None:
    report = apply_precision(make_stack(), EVERYTHING_KEPT)
    assert "kept by the attention anyway" in report.left[f"{LAYER}.self_attn.o_proj"]
    model = make_stack()
    model.set_attn_implementation("eager")
    assert f"{LAYER}.self_attn.o_proj" in apply_precision(model, EVERYTHING_KEPT).swapped


def test_nothing_is_swapped_by_default() -> None:
    model = make_stack()
    modules = list(model.modules())
    report = apply_precision(model, PrecisionOptions())
    assert report.swapped == {}
    assert list(model.modules()) == modules


def test_a_second_application_is_refused() -> None:
    model = make_stack()
    apply_precision(model, PrecisionOptions(norms=True))
    with pytest.raises(ConfigError, match=r"FP8 parts already \(llm\.model\.layers\.0\.input_layernorm\)"):
        apply_precision(model, PrecisionOptions(inputs=True))


def test_a_decoder_of_another_family_is_refused() -> None:
    model = make_stack()
    model.config.text_config.model_type = "mistral"
    with pytest.raises(ConfigError, match="qwen2, llama; this one is 'mistral'"):
        apply_precision(model, EVERYTHING)


def test_a_llama_decoder_is_swapped_too() -> None:
    model = make_stack(model_type="llama")
    wanted = run_decoder(model)
    report = apply_precision(model, EVERYTHING_KEPT)
    assert f"{LAYER}.mlp" in report.swapped
    assert torch.equal(run_decoder(model), wanted)


def test_generation_after_the_swap_gives_the_plain_answer() -> None:
    model = make_stack().eval()
    prompt = torch.tensor([[1, 2, 3, 4]])
    wanted = model.generate(input_ids=prompt, max_new_tokens=8, do_sample=False)
    apply_precision(model, EVERYTHING_KEPT)
    assert torch.equal(model.generate(input_ids=prompt, max_new_tokens=8, do_sample=False), wanted)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "torchao"}, "linears is 'none'"),
        ({"backend": "torchao", "linears": "rowwise", "inputs": True}, "inputs = false or backend = 'own'"),
        ({"min_features": 0}, "min_features is 0"),
    ],
)
def test_contradicting_options_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrecisionOptions(**settings)  # type: ignore[arg-type]


def test_torchao_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    model = make_stack()
    with pytest.raises(ConfigError, match="torchao, or use 'own'"):
        apply_precision(model, PrecisionOptions(linears="tensorwise", backend="torchao"))
    apply_precision(model, EVERYTHING)


@pytest.mark.parametrize("recipe", ["tensorwise", "rowwise"])
def test_torchao_takes_the_linear_layers_beside_our_norms(recipe: str) -> None:
    pytest.importorskip("torchao.float8", reason="torchao is not installed")
    plain = make_stack(dtype=torch.bfloat16)
    own, peer = copy.deepcopy(plain), copy.deepcopy(plain)
    options = PrecisionOptions(linears=recipe, norms=True, min_features=32)  # type: ignore[arg-type]
    apply_precision(own, options)
    report = apply_precision(peer, dataclasses.replace(options, backend="torchao"))
    assert report.swapped[f"{LAYER}.mlp.down_proj"] == f"linear layer, {recipe} products by torchao"
    assert list(peer.state_dict()) == list(plain.state_dict())
    assert type(peer.llm.lm_head) is nn.Linear
    states = [run_decoder(one) for one in (own, peer, plain)]
    assert cosine(states[0], states[1]) > max(0.999, cosine(states[0], states[2]))
    with pytest.raises(ConfigError, match="FP8 parts already"):
        apply_precision(peer, options)
