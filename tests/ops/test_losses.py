"""Per-token cross entropy in pieces: equal to plain cross entropy in losses and all gradients, without all logits.

Letters: N tokens, V vocabulary, H width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.ops.loss_inputs import TIMES, VOCABULARY, WIDTH, Inputs, make_inputs, results, upstream_of
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from nvila.errors import ConfigError, DataError
from nvila.ops.chunked import BYTES_PER_LOGIT, CPU_BYTES
from nvila.ops.losses import (
    SoftTargets,
    TokenLosses,
    chunked_token_losses,
    linear_cross_entropy,
    reference_token_losses,
    token_losses,
)


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("chunk", [1, 2, 5, 64, None])
@pytest.mark.parametrize("soft", [None, TIMES])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_reference(chunk: int | None, soft: SoftTargets | None, with_bias: bool, seed: int) -> None:
    inputs = make_inputs(67, seed=seed)
    if not with_bias:
        del inputs["bias"]
    upstream = upstream_of(inputs)
    expected = results(reference_token_losses, inputs, upstream, soft_targets=soft)
    found = results(chunked_token_losses, inputs, upstream, chunk=chunk, soft_targets=soft)
    assert_equal(found, expected)
    assert found["losses"].dtype == torch.float32
    assert (found["losses"][inputs["targets"] == -100] == 0).all()


@pytest.mark.parametrize("wanted", [("hidden",), ("weight",), ("bias",), ("hidden", "bias"), ("weight", "bias")])
def test_gradients_are_made_only_where_they_are_asked_for(wanted: tuple[str, ...]) -> None:
    inputs = make_inputs(41)
    inputs = {name: value.detach().requires_grad_(name in wanted) for name, value in inputs.items()}
    upstream = upstream_of(inputs)
    expected = results(reference_token_losses, inputs, upstream, soft_targets=TIMES)
    found = results(chunked_token_losses, inputs, upstream, chunk=4, soft_targets=TIMES)
    assert set(wanted) == set(found) - {"losses", "correct"}
    assert_equal(found, expected)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("soft", [None, TIMES])
def test_under_autocast_products_are_bf16_and_gradients_keep_the_dtype_of_the_leaves(
    frozen: bool, soft: SoftTargets | None
) -> None:
    inputs = make_inputs(83)
    if frozen:
        inputs = {name: value.detach().requires_grad_(name == "hidden") for name, value in inputs.items()}
    upstream = upstream_of(inputs)
    exact = results(reference_token_losses, inputs, upstream, soft_targets=soft)
    with torch.autocast("cpu", torch.bfloat16):
        plain = results(reference_token_losses, inputs, upstream, soft_targets=soft)
        found = results(chunked_token_losses, inputs, upstream, chunk=7, soft_targets=soft)
    torch.testing.assert_close(found["losses"], plain["losses"], rtol=1e-5, atol=1e-5)
    assert torch.equal(found["correct"], plain["correct"])
    for name in set(found) - {"losses", "correct"}:
        assert found[name].dtype == torch.float32
        distance, plain_distance = ((got[name] - exact[name]).norm() / exact[name].norm() for got in (found, plain))
        assert distance < 0.02
        assert distance < 1.5 * plain_distance, "no worse than plain cross entropy under autocast"


def test_bf16_leaves_get_bf16_gradients() -> None:
    inputs = make_inputs(83, dtype=torch.bfloat16)
    upstream = upstream_of(inputs)
    exact = results(
        reference_token_losses,
        {name: value.detach().float().requires_grad_() for name, value in inputs.items() if name != "targets"}
        | {"targets": inputs["targets"]},
        upstream,
    )
    found = results(chunked_token_losses, inputs, upstream, chunk=7)
    for name in ("hidden", "weight", "bias"):
        assert found[name].dtype == torch.bfloat16
        assert (found[name].float() - exact[name]).norm() / exact[name].norm() < 0.02
    torch.testing.assert_close(found["losses"], exact["losses"], rtol=0.02, atol=0.05)


def test_small_gradients_of_many_pieces_are_not_lost_in_bf16() -> None:
    """A thousand equal tokens push one row; a sum in bf16 would stand still once it is 256 times a piece's part."""
    hidden = torch.full((1000, 4), 0.5, dtype=torch.bfloat16)
    weight = torch.zeros(3, 4, dtype=torch.bfloat16, requires_grad=True)
    found = chunked_token_losses(hidden, weight, torch.zeros(1000, dtype=torch.long), chunk=1)
    found.losses.sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad[1].float(), torch.full((4,), 1000 / 6), rtol=0.01, atol=0.0)


@pytest.mark.parametrize("function", [reference_token_losses, chunked_token_losses])
@pytest.mark.parametrize("num_tokens", [0, 5])
@pytest.mark.parametrize("soft", [None, TIMES])
def test_no_learned_tokens_give_zero_losses_and_zero_gradients(
    function: Callable[..., TokenLosses], num_tokens: int, soft: SoftTargets | None
) -> None:
    inputs = make_inputs(num_tokens)
    inputs["targets"] = torch.full((num_tokens,), -100)
    found = results(function, inputs, upstream_of(inputs), soft_targets=soft)
    for name in ("hidden", "weight", "bias"):
        assert found[name].shape == inputs[name].shape
    assert all(not value.any() for value in found.values())


def test_tied_weights_and_two_uses_add_up() -> None:
    """The head is the embedding, used by two calls of one step, and backward runs twice over the same graph."""
    ids, targets = torch.arange(20) % 7, make_inputs(20)["targets"]

    def gradient(function: Callable[..., TokenLosses]) -> torch.Tensor:
        table = make_inputs(1)["weight"].detach().requires_grad_()
        hidden = F.embedding(ids, table).tanh()
        loss = function(hidden, table, targets, chunk=3).losses.sum()
        loss = loss + 2 * function(hidden.flip(0), table, targets, chunk=3).losses.mean()
        loss.backward(retain_graph=True)
        loss.backward()
        assert table.grad is not None
        return table.grad

    torch.testing.assert_close(gradient(chunked_token_losses), gradient(reference_token_losses), rtol=1e-5, atol=1e-5)


def test_without_gradients_nothing_is_kept() -> None:
    inputs = make_inputs(9)
    with torch.no_grad():
        found = chunked_token_losses(**inputs)
    assert not found.losses.requires_grad
    assert torch.equal(found.losses, chunked_token_losses(**inputs).losses.detach())


def test_correct_is_the_likeliest_token() -> None:
    head = torch.eye(4)
    found = token_losses(head[[0, 1, 2, 3]], head, torch.tensor([0, 2, -100, 3]))
    assert found.correct.tolist() == [True, False, False, True]


def test_extreme_logits_stay_finite() -> None:
    inputs = make_inputs(30)
    inputs["weight"] = (inputs["weight"].detach() * 1e4).requires_grad_()
    upstream = upstream_of(inputs)
    found = results(chunked_token_losses, inputs, upstream, chunk=4)
    assert all(value.isfinite().all() for value in found.values())
    assert_equal(found, results(reference_token_losses, inputs, upstream), tolerance=1e-3)


def test_soft_targets_are_a_bell_over_the_time_tokens() -> None:
    """Against the definition written out, one token at a time."""
    inputs = make_inputs(40)
    logits = (inputs["hidden"] @ inputs["weight"].T + inputs["bias"]).detach().double()
    expected = []
    for row, target in zip(logits, inputs["targets"].tolist(), strict=True):
        logp = row - row.exp().sum().log()
        if target in range(13, 30):
            bell = {other: math.exp(-((other - target) ** 2) / (2 * 1.5**2)) for other in range(13, 30)}
            expected.append(-sum(part * logp[other].item() for other, part in bell.items()) / sum(bell.values()))
        else:
            expected.append(-logp[target].item() if target >= 0 else 0.0)
    found = token_losses(**inputs, soft_targets=TIMES).losses
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_a_very_narrow_bell_is_the_hard_target() -> None:
    inputs = make_inputs(40)
    narrow = SoftTargets(first_id=0, num_tokens=VOCABULARY, std=1e-3)
    found = token_losses(**inputs, soft_targets=narrow).losses
    torch.testing.assert_close(found, token_losses(**inputs).losses, rtol=1e-6, atol=1e-6)


class LargestTensor(TorchDispatchMode):
    """Numbers in the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.numel())
        return result


def largest(function: Callable[..., TokenLosses], inputs: Inputs, **options: Any) -> int:
    with LargestTensor() as seen:
        results(function, inputs, upstream_of(inputs), **options)
    return seen.numel


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("soft", [None, TIMES])
def test_the_logits_of_all_tokens_never_exist(frozen: bool, soft: SoftTargets | None) -> None:
    num_tokens, vocabulary = 2048, 20_000
    inputs = make_inputs(num_tokens, vocabulary=vocabulary, width=4)
    inputs["targets"] = inputs["targets"].clamp(min=0)
    if frozen:
        inputs = {name: value.detach().requires_grad_(name == "hidden") for name, value in inputs.items()}
    assert largest(chunked_token_losses, inputs, soft_targets=soft) <= CPU_BYTES // BYTES_PER_LOGIT
    assert largest(chunked_token_losses, inputs, soft_targets=soft, chunk=16) <= 16 * vocabulary


def test_the_reference_is_seen_to_make_all_logits() -> None:
    """So the count above sees both passes of what it counts."""
    inputs = make_inputs(64, vocabulary=500)
    assert largest(reference_token_losses, inputs) >= 64 * 500


def count_products(inputs: Inputs) -> float:
    """Multiplications of both passes, in products of learned tokens x vocabulary x width."""
    in_place = {torch.ops.aten.addmm_: lambda total, left, right, **_: 2 * math.prod(left) * right[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        results(chunked_token_losses, inputs, upstream_of(inputs), chunk=8)
    learned = int((inputs["targets"] >= 0).sum())
    return counter.get_total_flops() / (2 * learned * VOCABULARY * WIDTH)


def test_ignored_tokens_cost_nothing_and_a_frozen_head_computes_nothing_twice() -> None:
    inputs = make_inputs(100)
    del inputs["bias"]
    assert count_products(inputs) == 4
    inputs["weight"] = inputs["weight"].detach()
    assert count_products(inputs) == 2
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        chunked_token_losses(**inputs)
    assert counter.get_total_flops() == 2 * int((inputs["targets"] >= 0).sum()) * VOCABULARY * WIDTH


def test_mean_and_sum_over_items() -> None:
    inputs = make_inputs(33)
    logits = F.linear(inputs["hidden"], inputs["weight"], inputs["bias"])
    leaves = [inputs["hidden"], inputs["weight"], inputs["bias"]]
    mean = linear_cross_entropy(**inputs)
    expected = F.cross_entropy(logits, inputs["targets"])
    torch.testing.assert_close(mean, expected)
    for found, wanted in zip(torch.autograd.grad(mean, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    total = F.cross_entropy(logits.detach(), inputs["targets"], reduction="sum")
    torch.testing.assert_close(linear_cross_entropy(**inputs, num_items=70), total / 70)
    torch.testing.assert_close(linear_cross_entropy(**inputs, num_items=torch.tensor(70)), total / 70)


def test_the_mean_of_nothing_is_zero() -> None:
    inputs = make_inputs(6)
    inputs["targets"] = torch.full((6,), -100)
    loss = linear_cross_entropy(**inputs)
    loss.backward()
    assert loss.item() == 0
    assert inputs["weight"].grad is not None
    assert not inputs["weight"].grad.any()


def test_a_compiled_caller_gets_the_same_losses_and_gradients() -> None:
    inputs = make_inputs(25)

    def step(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        found = token_losses(hidden.tanh(), weight, targets, bias=bias, chunk=4)
        return (found.losses * 2).sum() + linear_cross_entropy(hidden.sin(), weight, targets)

    leaves = [inputs["hidden"], inputs["weight"], inputs["bias"]]
    expected = step(**inputs)
    found = torch.compile(step, backend="aot_eager")(**inputs)
    torch.testing.assert_close(found, expected)
    for got, wanted in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"hidden": torch.zeros(4, 7)}, ConfigError, r"\(4, 7\).*\(50, 8\)"),
        ({"weight": torch.zeros(0)}, ConfigError, r"weight \(0,\).*gather the head first"),
        ({"targets": torch.zeros(5, dtype=torch.long)}, ConfigError, r"targets are \(5,\).*4 tokens"),
        ({"bias": torch.zeros(49)}, ConfigError, r"bias \(49,\).*vocabulary of 50"),
        ({"weight": torch.zeros(50, 8, dtype=torch.bfloat16)}, ConfigError, "float32.*bfloat16"),
        ({"targets": torch.tensor([1, 50, -100, 2])}, DataError, "id 50.*ends at 49"),
        ({"targets": torch.tensor([1, -7, -100, 2])}, DataError, "id -7.*ends at 49"),
        ({"soft_targets": SoftTargets(first_id=40, num_tokens=11)}, ConfigError, "id 50.*ends at 49"),
    ],
)
@pytest.mark.parametrize("function", [reference_token_losses, chunked_token_losses])
def test_what_disagrees_is_named(
    function: Callable[..., TokenLosses], change: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        function(**{**make_inputs(4), **change})


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"first_id": -1, "num_tokens": 5}, "id -1"),
        ({"first_id": 3, "num_tokens": 0}, "are 0"),
        ({"first_id": 3, "num_tokens": 5, "std": 0.0}, "is 0.0"),
        ({"first_id": 3, "num_tokens": 5, "std": math.nan}, "is nan"),
    ],
)
def test_time_tokens_that_cannot_be(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        SoftTargets(**settings)
