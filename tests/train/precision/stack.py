"""A small Qwen2 decoder inside an NVILA model; what the tests of FP8 training share."""

from __future__ import annotations

from typing import Any

import torch
from tests.tiny import make_model

from nvila.model import NVILAForConditionalGeneration
from nvila.train.precision.options import PrecisionOptions

EVERYTHING_KEPT = PrecisionOptions(inputs=True, norms=True, activations=True)
EVERYTHING = PrecisionOptions(linears="tensorwise", inputs=True, norms=True, activations=True, min_features=32)


def make_stack(*, dtype: torch.dtype = torch.float32, **text: Any) -> NVILAForConditionalGeneration:
    """An NVILA model in training mode; `text` overrides its decoder's sizes (hidden 64, two layers)."""
    sizes = {"hidden_size": 64, "intermediate_size": 160, "attn_implementation": "sdpa", **text}
    return make_model(text=sizes).to(dtype).train()


def run_decoder(model: NVILAForConditionalGeneration, *, tokens: int = 24, batch: int = 2) -> torch.Tensor:
    """The decoder's last hidden states (batch, tokens, hidden) for ids from a fixed seed."""
    ids = torch.randint(0, 256, (batch, tokens), generator=torch.Generator().manual_seed(3))
    states: torch.Tensor = model.language_model(inputs_embeds=embed(model, ids), use_cache=False).last_hidden_state
    return states


def embed(model: NVILAForConditionalGeneration, ids: torch.Tensor) -> torch.Tensor:
    embeds: torch.Tensor = model.get_input_embeddings()(ids)
    return embeds


def gradients(model: NVILAForConditionalGeneration, states: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of the decoder's layers for a random weighting of `states`, by name."""
    upstream = torch.randn(states.shape, generator=torch.Generator().manual_seed(4)).to(states.dtype)
    model.zero_grad()
    states.backward(upstream)
    layers = model.language_model.layers.named_parameters()
    return {name: weight.grad.clone() for name, weight in layers if weight.grad is not None}


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """Between two tensors as vectors, in float64."""
    return float(
        torch.nn.functional.cosine_similarity(a.detach().double().flatten(), b.detach().double().flatten(), dim=0)
    )


def slope(a: torch.Tensor, b: torch.Tensor) -> float:
    """The factor of `b` that fits `a` best: 1 where `a` is `b` with noise, and less or more where it is biased."""
    a64, b64 = a.double().flatten(), b.double().flatten()
    return float(a64 @ b64 / (b64 @ b64))
