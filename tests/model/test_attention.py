"""attn_implementation="segments" gives what eager attention gives, packed, padded, with a cache, and in the tower."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2Model,
    SiglipVisionConfig,
    SiglipVisionModel,
)

import nvila.model.attention as attention

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def borders(sizes: list[int]) -> dict[str, torch.Tensor]:
    return {"cu_seq_lens_q": torch.tensor([0, *sizes]).cumsum(0)}


def pair(kind: type[PreTrainedModel], config: PreTrainedConfig) -> tuple[Any, Any]:
    """Two models of the same weights: by segments and eager."""
    torch.manual_seed(0)
    eager = kind._from_config(deepcopy(config), attn_implementation="eager").eval()
    ours = kind._from_config(deepcopy(config), attn_implementation=attention.SEGMENTS).eval()
    ours.load_state_dict(eager.state_dict())
    return ours, eager


def decoders(num_key_value_heads: int = 2) -> tuple[Any, Any]:
    return pair(Qwen2Model, Qwen2Config(**SIZES, num_key_value_heads=num_key_value_heads, vocab_size=50))


def token_ids(rows: int, length: int) -> torch.Tensor:
    return torch.randint(0, 50, (rows, length), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("num_key_value_heads", [4, 2])
def test_packed_rows(num_key_value_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, eager = decoders(num_key_value_heads)
    sizes = [5, 20, 7, 32]
    positions = torch.cat([torch.arange(size) for size in sizes]).view(2, 32)
    packed = {"input_ids": token_ids(2, 32), "position_ids": positions, "use_cache": False}
    with_borders = attention.without_unread_mask(ours, packed | borders(sizes))
    monkeypatch.setattr(attention, "sdpa_attention_forward", None)  # not taken
    torch.testing.assert_close(ours(**with_borders)[0], eager(**packed)[0])


def test_padded_rows_and_caches() -> None:
    ours, eager = decoders()
    inputs = {"input_ids": token_ids(2, 9), "attention_mask": torch.tensor([[0] * 4 + [1] * 5, [1] * 9])}
    found, expected = ours(**inputs, use_cache=True), eager(**inputs, use_cache=True)
    torch.testing.assert_close(found[0][1], expected[0][1])
    torch.testing.assert_close(found[0][0, 4:], expected[0][0, 4:])
    mask = torch.cat((inputs["attention_mask"], torch.ones(2, 1, dtype=torch.long)), dim=1)
    step = {"input_ids": token_ids(2, 1), "attention_mask": mask}
    torch.testing.assert_close(
        ours(**step, past_key_values=found.past_key_values)[0],
        eager(**step, past_key_values=expected.past_key_values)[0],
    )


def test_the_tower() -> None:
    config = SiglipVisionConfig(**SIZES, image_size=28, patch_size=14, vision_use_head=False)
    ours, eager = pair(SiglipVisionModel, config)
    pixels = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(pixels)[0], eager(pixels)[0])


def test_other_attentions_keep_their_masks() -> None:
    _, eager = decoders()
    inputs = borders([3, 4])
    assert attention.without_unread_mask(eager, inputs) is inputs


def test_sliding_windows_are_kept() -> None:
    config = Qwen2Config(
        **SIZES, num_key_value_heads=4, vocab_size=50, use_sliding_window=True, sliding_window=4, max_window_layers=0
    )
    ours, eager = pair(Qwen2Model, config)
    ids = token_ids(1, 16)
    torch.testing.assert_close(ours(ids, use_cache=False)[0], eager(ids, use_cache=False)[0])
