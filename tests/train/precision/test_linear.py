"""FP8 linear layers: exact against products of the quantised operands, close to the plain layer, input kept once."""

from __future__ import annotations

import copy
import dataclasses
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
from tests.train.precision.stack import cosine, slope
from torch import nn

from nvila.train.precision.fp8_format import (
    E5M2,
    dequantise,
    quantise_groups,
    quantise_rows,
    quantise_tensor,
)
from nvila.train.precision.linear import Fp8Linear, InputPacker
from nvila.train.precision.matmul import reference_scaled_matmul, scaled_matmul
from nvila.train.precision.options import Recipe
from nvila.train.precision.saved import saved_bytes

RECIPES: tuple[Recipe, ...] = ("none", "tensorwise", "rowwise")


def make_layers(
    recipe: Recipe, *, keep_packed: bool = True, dtype: torch.dtype = torch.float32, bias: bool = True
) -> tuple[nn.Linear, Fp8Linear, torch.Tensor, torch.Tensor]:
    """A plain layer (96 to 160), the FP8 layer on a copy of its weights, an input and an upstream gradient."""
    torch.manual_seed(0)
    plain = nn.Linear(96, 160, bias=bias).to(dtype)
    layer = Fp8Linear.from_linear(copy.deepcopy(plain), recipe=recipe, keep_packed=keep_packed)
    return plain, layer, torch.randn(2, 25, 96).to(dtype), torch.randn(2, 25, 160).to(dtype)


def step(layer: nn.Module, x: torch.Tensor, grad: torch.Tensor) -> dict[str, torch.Tensor]:
    """The output and all gradients of one forward and backward pass."""
    x = x.clone().requires_grad_()
    output = layer(x)
    output.backward(grad.to(output.dtype))
    assert x.grad is not None
    grads = {name: weight.grad for name, weight in layer.named_parameters() if weight.grad is not None}
    return {"output": output.detach(), "x": x.grad, **grads}


def exact(pack: Any, matrix: torch.Tensor, **options: Any) -> torch.Tensor:
    return dequantise(pack(matrix, **options), torch.float64)


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Equal but for the order of float32 sums."""
    return bool((found.double() - wanted).abs().max() <= 1e-5 * wanted.abs().max())


@pytest.mark.parametrize("rowwise", [False, True])
def test_the_product_equals_that_of_the_operands_read_back(rowwise: bool) -> None:
    torch.manual_seed(0)
    pack = quantise_rows if rowwise else quantise_tensor
    a, b = torch.randn(24, 48) * 30, torch.randn(32, 48)
    product = scaled_matmul(pack(a), pack(b), torch.float32)
    assert close(product, exact(pack, a) @ exact(pack, b).t())
    assert torch.equal(product, reference_scaled_matmul(pack(a), pack(b), torch.float32))
    # A change of one code moves the product: the comparison above can fail.
    assert not close(product, a.double() @ b.double().t())


def test_tensorwise_rounds_values_and_weights_to_e4m3_and_gradients_to_e5m2() -> None:
    _, layer, x, grad = make_layers("tensorwise")
    found = step(layer, x, grad)
    x_MI, grad_MO = x.flatten(0, 1), grad.flatten(0, 1)
    x8, w8 = exact(quantise_tensor, x_MI), exact(quantise_tensor, layer.weight.detach())
    g8 = exact(quantise_tensor, grad_MO, format=E5M2)
    assert layer.bias is not None
    assert close(found["output"].flatten(0, 1), x8 @ w8.t() + layer.bias.detach().double())
    assert close(found["x"].flatten(0, 1), g8 @ w8)
    assert close(found["weight"], g8.t() @ x8)
    assert close(found["bias"], grad_MO.double().sum(0))


@pytest.mark.parametrize("keep_packed", [False, True])
def test_rowwise_packs_along_what_is_summed_over(keep_packed: bool) -> None:
    _, layer, x, grad = make_layers("rowwise", keep_packed=keep_packed, bias=False)
    found = step(layer, x, grad)
    x_MI, grad_MO, weight = x.flatten(0, 1), grad.flatten(0, 1), layer.weight.detach()
    assert close(found["output"].flatten(0, 1), exact(quantise_rows, x_MI) @ exact(quantise_rows, weight).t())
    assert close(found["x"].flatten(0, 1), exact(quantise_rows, grad_MO) @ exact(quantise_rows, weight.t()).t())
    kept = dequantise(quantise_rows(x_MI), torch.float32) if keep_packed else x_MI
    assert close(found["weight"], exact(quantise_rows, grad_MO.t()) @ exact(quantise_rows, kept.t()).t())


def test_tensorwise_gradients_do_not_depend_on_how_the_input_is_kept() -> None:
    _, packed, x, grad = make_layers("tensorwise", keep_packed=True)
    _, unpacked, _, _ = make_layers("tensorwise", keep_packed=False)
    found, wanted = step(packed, x, grad), step(unpacked, x, grad)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeping_the_input_in_fp8_moves_only_the_gradient_of_the_weight(dtype: torch.dtype) -> None:
    plain, layer, x, grad = make_layers("none", dtype=dtype)
    found, wanted = step(layer, x, grad), step(plain, x, grad)
    assert torch.equal(found["output"], wanted["output"])
    assert torch.allclose(found["x"].float(), wanted["x"].float(), rtol=1e-5, atol=1e-5)
    assert torch.allclose(found["bias"].float(), wanted["bias"].float(), rtol=1e-2, atol=1e-1)
    kept = exact(quantise_groups, x.flatten(0, 1))
    expected = grad.flatten(0, 1).double().t() @ kept
    assert (found["weight"].double() - expected).norm() <= (5e-3 if dtype == torch.bfloat16 else 1e-6) * expected.norm()
    assert not torch.equal(found["weight"], wanted["weight"])


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_and_gradients_follow_the_plain_layer_without_bias(recipe: Recipe, dtype: torch.dtype) -> None:
    plain, layer, x, grad = make_layers(recipe, dtype=dtype)
    found, wanted = step(layer, x, grad), step(plain, x, grad)
    for name in wanted:
        assert found[name].dtype == wanted[name].dtype
        assert found[name].shape == wanted[name].shape
        assert cosine(found[name], wanted[name]) > (0.99 if recipe == "tensorwise" else 0.998), name
        assert slope(found[name], wanted[name]) == pytest.approx(1, abs=0.01), name


@pytest.mark.parametrize("recipe", RECIPES)
def test_layers_that_read_one_tensor_keep_it_once(recipe: Recipe) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 32, 256).bfloat16().requires_grad_()
    packer = InputPacker(recipe)
    plain = [nn.Linear(256, 128, bias=False).bfloat16() for _ in range(3)]
    layers = [Fp8Linear.from_linear(one, recipe=recipe, keep_packed=True, packer=packer) for one in plain]
    weights = [one.weight for one in plain]
    counted = saved_bytes(lambda: [layer(x) for layer in layers], weights)
    scales = {"none": 2 * 4 * 32 * 2, "tensorwise": 4, "rowwise": 4 * 4 * 32}[recipe]
    assert counted == x.numel() + scales
    assert saved_bytes(lambda: [layer(x) for layer in plain], weights) == 2 * x.numel()


def test_a_packer_sees_another_tensor_and_a_changed_one() -> None:
    packer = InputPacker("tensorwise")
    x = torch.ones(2, 16)
    first = packer.pack(x, torch.float32)
    assert packer.pack(x, torch.float32).values is first.values
    x.mul_(3)
    assert dequantise(packer.pack(x, torch.float32), torch.float32)[0, 0] == pytest.approx(3)
    other = torch.full((2, 16), 5.0)
    assert dequantise(packer.pack(other, torch.float32), torch.float32)[0, 0] == pytest.approx(5)


def test_a_packer_keeps_nothing_longer_than_the_tensor_lives() -> None:
    packer = InputPacker("none")
    x = torch.ones(2, 16)
    values = weakref.ref(packer.pack(x, torch.float32).values)
    assert values() is not None
    del x
    gc.collect()
    assert values() is None


def test_layers_can_be_copied_and_pickled_and_go_on_sharing() -> None:
    packer = InputPacker("none")
    pair = nn.ModuleList(
        Fp8Linear.from_linear(nn.Linear(16, 16), recipe="none", keep_packed=True, packer=packer) for _ in range(2)
    )
    pair[0](torch.ones(1, 16)).sum().backward()
    for twin in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        assert twin[0].packer is twin[1].packer
        assert twin[0].packer is not packer
        assert torch.equal(twin[0](torch.ones(1, 16)), pair[0](torch.ones(1, 16)))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_frozen_weight_keeps_no_input_and_passes_the_gradient_on(recipe: Recipe) -> None:
    plain, layer, x, grad = make_layers(recipe, dtype=torch.bfloat16)
    wanted = step(plain, x, grad)
    layer.requires_grad_(False)
    found = step(layer, x, grad)
    assert set(found) == {"output", "x"}
    assert cosine(found["x"], wanted["x"]) > 0.99
    inputs = x.clone().requires_grad_()
    assert saved_bytes(lambda: layer(inputs), layer.parameters()) == 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_autocast_computes_in_bf16_and_gives_float32_gradients(recipe: Recipe) -> None:
    plain, layer, x, grad = make_layers(recipe)

    def under_autocast(module: nn.Module) -> dict[str, torch.Tensor]:
        inputs = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = module(inputs)
        output.backward(grad.to(output.dtype))
        grads = [inputs.grad, *(weight.grad for weight in module.parameters())]
        assert all(one is not None and one.dtype == torch.float32 for one in grads)
        return dict(zip(("output", "x", "weight", "bias"), [output.detach(), *grads], strict=True))  # type: ignore[arg-type]

    found, wanted = under_autocast(layer), under_autocast(plain)
    assert found["output"].dtype == torch.bfloat16
    assert torch.equal(found["output"], wanted["output"]) == (recipe == "none")
    for name in wanted:
        assert cosine(found[name], wanted[name]) > 0.99, name


@pytest.mark.parametrize("recipe", RECIPES)
def test_without_gradients_nothing_is_kept(recipe: Recipe) -> None:
    plain, layer, x, _ = make_layers(recipe)
    with torch.no_grad():
        assert cosine(layer(x), plain(x)) > 0.99
        assert saved_bytes(lambda: layer(x)) == 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_rows_give_zero_gradients(recipe: Recipe) -> None:
    _, layer, _, _ = make_layers(recipe)
    found = step(layer, torch.zeros(0, 96), torch.zeros(0, 160))
    assert found["output"].shape == (0, 160)
    assert torch.equal(found["weight"], torch.zeros(160, 96))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_weight_changed_before_the_backward_pass_is_noticed(recipe: Recipe) -> None:
    _, layer, x, _ = make_layers(recipe)
    output = layer(x.requires_grad_())
    with torch.no_grad():
        layer.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_second_derivatives_are_refused() -> None:
    _, layer, x, _ = make_layers("none")
    inputs = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(layer(inputs).square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_compiled_layer_gives_the_same_numbers(recipe: Recipe) -> None:
    _, layer, x, grad = make_layers(recipe)
    wanted = step(layer, x, grad)
    layer.zero_grad()
    compiled = copy.deepcopy(layer)
    compiled.compile(backend="aot_eager", fullgraph=True)
    found = step(compiled, x, grad)
    for name in wanted:
        assert torch.allclose(found[name], wanted[name], atol=1e-5), name


@pytest.mark.parametrize("recipe", RECIPES[1:])
def test_torchao_in_its_emulation_rounds_as_ours(recipe: Recipe) -> None:
    float8 = pytest.importorskip("torchao.float8", reason="torchao is not installed")
    plain, layer, x, grad = make_layers(recipe, keep_packed=False)
    config = dataclasses.replace(float8.Float8LinearConfig.from_recipe_name(recipe), emulate=True)
    peer = float8.convert_to_float8_training(nn.Sequential(copy.deepcopy(plain)), config=config)[0]
    found, wanted = step(layer, x, grad), step(peer, x, grad)
    for name in wanted:
        assert (found[name] - wanted[name]).norm() < 5e-3 * wanted[name].norm(), name
