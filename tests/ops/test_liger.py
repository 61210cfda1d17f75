"""Liger's kernel gives the losses and gradients of plain cross entropy, and is used only where it does."""

from __future__ import annotations

import pytest
import torch
from tests.ops.loss_inputs import TIMES, make_inputs, results, upstream_of
from torch.nn import functional as F

from nvila.errors import ConfigError
from nvila.ops import losses as module
from nvila.ops.losses import liger_installed, liger_token_losses, linear_cross_entropy, reference_token_losses


@pytest.mark.parametrize(
    ("installed", "used"), [("0.6.2", False), ("0.8.4", False), ("0.8.5", True), ("0.10.0", True), ("1.0", True)]
)
def test_liger_with_wrong_gradients_is_never_used(monkeypatch: pytest.MonkeyPatch, installed: str, used: bool) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    monkeypatch.setattr(module, "version", lambda name: installed)
    assert liger_installed.__wrapped__() is used


def test_liger_has_no_soft_targets() -> None:
    with pytest.raises(ConfigError, match="no soft targets"):
        liger_token_losses(**make_inputs(4), soft_targets=TIMES)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="Liger's kernels run on a CUDA GPU only; none is here")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("trained", [("hidden", "weight", "bias"), ("hidden",), ("weight",)])
def test_liger_equals_the_reference(dtype: torch.dtype, tolerance: float, trained: tuple[str, ...]) -> None:
    pytest.importorskip("liger_kernel", reason="liger-kernel is not installed")
    inputs = make_inputs(300, vocabulary=1000, width=64, dtype=dtype, device="cuda")
    inputs = {name: value.detach().requires_grad_(name in trained) for name, value in inputs.items()}
    upstream = upstream_of(inputs)
    expected = results(reference_token_losses, inputs, upstream)
    found = results(liger_token_losses, inputs, upstream)
    for name in set(expected) - {"correct"}:
        distance = (found[name].float() - expected[name].float()).norm() / expected[name].float().norm()
        assert distance < tolerance, name
    assert torch.equal(found["correct"], expected["correct"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="Liger's kernels run on a CUDA GPU only; none is here")
def test_the_mean_by_liger_equals_plain_cross_entropy() -> None:
    pytest.importorskip("liger_kernel", reason="liger-kernel is not installed")
    inputs = make_inputs(300, vocabulary=1000, width=64, device="cuda")
    leaves = [inputs["hidden"], inputs["weight"], inputs["bias"]]
    expected = F.cross_entropy(F.linear(*leaves), inputs["targets"])
    found = linear_cross_entropy(**inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for got, wanted in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True):
        assert (got - wanted).norm() < 1e-3 * wanted.norm()
