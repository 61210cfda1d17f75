"""Packed rows: the model gives every token of a packed sample the loss that it has in a row of its own."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from tests.tiny import IMAGE_ID, NEWLINE_ID, VIDEO_ID, make_model
from torch.nn import functional as F

from nvila.data.collate import collate_packed, collate_padded
from nvila.data.encode import Encoded
from nvila.errors import ConfigError
from nvila.model import NVILAForConditionalGeneration

TOKENS = 4  # a 56-pixel tile is 2 x 2 tokens
PAD_ID = 260


def make_sample(
    seed: int, *, text: int, blocks: tuple[tuple[int, int], ...] = (), clips: tuple[int, ...] = ()
) -> Encoded:
    """Random text with the pictures and clips in between, all of the text learned from its first token on."""
    generator = torch.Generator().manual_seed(seed)

    def words() -> list[int]:
        return torch.randint(6, 250, (text,), generator=generator).tolist()

    tiles = [rows * cols + (rows * cols > 1) for rows, cols in blocks]
    ids = words()
    for count in tiles:
        ids += ([IMAGE_ID] * TOKENS + [NEWLINE_ID]) * count + words()
    for length in clips:
        ids += ([VIDEO_ID] * TOKENS + [NEWLINE_ID]) * -(-length // 2) + words()
    input_ids = torch.tensor(ids)
    return Encoded(
        id=str(seed),
        input_ids=input_ids,
        labels=input_ids.masked_fill((input_ids == IMAGE_ID) | (input_ids == VIDEO_ID), -100),
        pixel_values=torch.randn(sum(tiles), 3, 56, 56, generator=generator) if blocks else None,
        block_sizes=blocks,
        pixel_values_videos=torch.randn(sum(clips), 3, 56, 56, generator=generator) if clips else None,
        video_lengths=clips,
    )


def make_rows() -> list[list[Encoded]]:
    """Two rows of unlike length: pictures tiled and not, several in one sample, clips of odd length, a single token."""
    return [
        [
            make_sample(1, text=9, blocks=((1, 1),)),
            make_sample(2, text=1),
            make_sample(3, text=5, blocks=((1, 2), (1, 1)), clips=(3,)),
            make_sample(4, text=30),
        ],
        [make_sample(5, text=7, clips=(2, 5)), make_sample(6, text=12), make_sample(7, text=3, blocks=((2, 1),))],
    ]


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss of every predicted token of a batch, row by row; nothing for tokens that are not learned."""
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
    return losses[labels[:, 1:].flatten() != -100]


def losses_alone(model: NVILAForConditionalGeneration, rows: list[list[Encoded]]) -> torch.Tensor:
    losses = []
    for sample in (sample for row in rows for sample in row):
        batch = collate_padded([sample], pad_id=PAD_ID)
        losses.append(token_losses(model(**batch).logits, batch["labels"]))
    return torch.cat(losses)


def packed_model(attention: str = "sdpa") -> NVILAForConditionalGeneration:
    model = make_model(temporal_pool=2)
    model.set_attn_implementation(attention)
    return model


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("length", [None, 150])
def test_every_token_has_its_own_loss(attention: str, length: int | None) -> None:
    model, rows = packed_model(attention), make_rows()
    batch = collate_packed(rows, pad_id=PAD_ID, length=length)
    output = model(**batch)
    packed = token_losses(output.logits, batch["labels"])
    alone = losses_alone(model, rows)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.loss, alone.mean(), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_padded_batch_has_the_same_losses(attention: str) -> None:
    model, rows = packed_model(attention), make_rows()
    batch = collate_padded([sample for row in rows for sample in row], pad_id=PAD_ID)
    losses = token_losses(model(**batch).logits, batch["labels"])
    torch.testing.assert_close(losses, losses_alone(model, rows), atol=1e-5, rtol=0)


def test_gradients_are_those_of_the_samples_alone() -> None:
    model, rows = packed_model().train(), make_rows()
    losses_alone(model, rows).mean().backward()
    wanted = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    model(**collate_packed(rows, pad_id=PAD_ID)).loss.backward()
    for name, weight in model.named_parameters():
        if name in wanted:
            assert weight.grad is not None
            torch.testing.assert_close(weight.grad, wanted[name], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    """What is not a leak must be exact: other neighbours in the same places change nothing at all."""
    model, middle = packed_model(), make_sample(3, text=5, blocks=((1, 1),))
    start, size = 9, middle.num_tokens
    seen = []
    for seed in (1, 2):
        row = [make_sample(seed, text=9), middle, make_sample(seed + 10, text=8)]
        batch = collate_packed([row], pad_id=PAD_ID)
        seen.append(model(**batch).logits[0, start : start + size])
    assert torch.equal(*seen)


@torch.no_grad()
def test_without_restarting_positions_the_losses_would_differ() -> None:
    """The tolerance above is tight enough to see a leak."""
    model, rows = packed_model(), make_rows()
    batch = collate_packed(rows, pad_id=PAD_ID)
    batch["position_ids"] = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])
    leaked = token_losses(model(**batch).logits, batch["labels"])
    assert (leaked - losses_alone(model, rows)).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("hiding", [{"use_cache": True}, {"attention_mask": torch.ones(2, 120, dtype=torch.long)}])
def test_what_would_hide_the_borders_is_refused(hiding: dict[str, Any]) -> None:
    """transformers would let samples attend to each other, and say nothing."""
    batch = collate_packed(make_rows(), pad_id=PAD_ID, length=120)
    with pytest.raises(ConfigError, match=f"packed rows were given with {next(iter(hiding))}"):
        packed_model()(**batch, **hiding)


@torch.no_grad()
def test_the_borders_given_to_flash_attention_are_right() -> None:
    """An attention that knows nothing but `cu_seq_lens_*`, as flash attention does, gives the same losses."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    calls: list[int] = []

    def by_borders(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **options: Any
    ) -> tuple[torch.Tensor, None]:
        causal = type(module).__name__ != "SiglipAttention"
        borders = options["cu_seq_lens_q"].tolist() if "cu_seq_lens_q" in options else None
        assert mask is None
        if borders is None:
            out = F.scaled_dot_product_attention(
                query, key, value, scale=options["scaling"], is_causal=causal, enable_gqa=True
            )
            return out.transpose(1, 2).contiguous(), None
        calls.append(len(borders))
        assert max(end - start for start, end in pairwise(borders)) == options["max_length_q"]
        flat = [states.transpose(1, 2).flatten(0, 1).transpose(0, 1) for states in (query, key, value)]
        parts = [
            F.scaled_dot_product_attention(
                *(states[None, :, start:end] for states in flat),
                scale=options["scaling"],
                is_causal=True,
                enable_gqa=True,
            )
            for start, end in pairwise(borders)
        ]
        out = torch.cat(parts, dim=2).transpose(1, 2)
        return out.reshape(query.shape[0], query.shape[2], *out.shape[2:]), None

    ALL_ATTENTION_FUNCTIONS.register("by_borders", by_borders)
    model, rows = packed_model("by_borders"), make_rows()
    batch = collate_packed(rows, pad_id=PAD_ID)
    packed = token_losses(model(**batch).logits, batch["labels"])
    torch.testing.assert_close(packed, losses_alone(model, rows), atol=1e-5, rtol=0)
    assert calls == [len(batch["cu_seq_lens_q"])] * 2


@torch.no_grad()
def test_flash_attention_where_it_is_installed() -> None:
    from transformers.utils import is_flash_attn_2_available

    if not (torch.cuda.is_available() and is_flash_attn_2_available()):
        pytest.skip("FLASH ATTENTION NOT CHECKED: it needs a GPU and the package flash-attn")
    model, rows = make_model(temporal_pool=2).to("cuda", torch.bfloat16), make_rows()
    model.set_attn_implementation("flash_attention_2")
    batch = {
        key: value.cuda() if torch.is_tensor(value) else value
        for key, value in collate_packed(rows, pad_id=PAD_ID).items()
    }
    packed = token_losses(model(**batch).logits.float(), batch["labels"])
    model = model.cpu().float()
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(packed.cpu(), losses_alone(model, rows), atol=5e-2, rtol=5e-2)
