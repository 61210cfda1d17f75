"""The sigmoid loss against its definition, on one process and on two; the head's embeddings, and that it learns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing
from transformers import SiglipVisionConfig

from nvila.errors import DataError
from nvila.train.contrast import ContrastHead, caption_hashes, sigmoid_loss

WIDTH, PATCHES, VOCABULARY = 32, 6, 40
NUM_PATTERNS = 8


def by_definition(images: Any, texts: Any, log_scale: float, bias: float, text_ids: list[int]) -> float:
    """The loss pair by pair in float64."""
    images = images.detach().double() / images.detach().double().norm(dim=1, keepdim=True)
    texts = texts.detach().double() / texts.detach().double().norm(dim=1, keepdim=True)
    total = 0.0
    for i, image in enumerate(images):
        for j, text in enumerate(texts):
            if i != j and text_ids[i] == text_ids[j]:
                continue
            logit = math.exp(log_scale) * (image @ text).item() + bias
            total += math.log1p(math.exp(-logit if i == j else logit))
    return total / len(images)


def embeddings(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images, texts = torch.randn(2, count, 5, generator=generator)
    return images.requires_grad_(), texts.requires_grad_()


def scalars(log_scale: float = 1.2, bias: float = -0.7) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([log_scale], requires_grad=True), torch.tensor([bias], requires_grad=True)


@pytest.mark.parametrize("text_ids", [[0, 1, 2, 3, 4, 5], [7, 1, 7, 3, 7, 1]])
def test_the_loss_is_the_papers_sum(text_ids: list[int]) -> None:
    images, texts = embeddings(6)
    log_scale, bias = scalars()
    loss = sigmoid_loss(images, texts, log_scale=log_scale, bias=bias, text_ids_B=torch.tensor(text_ids))
    assert loss.item() == pytest.approx(by_definition(images, texts, 1.2, -0.7, text_ids), rel=1e-6)


def test_without_ids_all_captions_are_different() -> None:
    images, texts = embeddings(4)
    log_scale, bias = scalars()
    loss = sigmoid_loss(images, texts, log_scale=log_scale, bias=bias)
    assert loss.item() == pytest.approx(by_definition(images, texts, 1.2, -0.7, [0, 1, 2, 3]), rel=1e-6)


def test_equal_captions_do_not_push_each_other_away() -> None:
    images, texts = embeddings(2)
    log_scale, bias = scalars()
    sigmoid_loss(images, texts, log_scale=log_scale, bias=bias, text_ids_B=torch.tensor([3, 3])).backward()
    alone, caption = (values.detach()[:1].requires_grad_() for values in (images, texts))
    sigmoid_loss(alone, caption, log_scale=log_scale, bias=bias).backward()
    assert images.grad is not None
    assert alone.grad is not None
    torch.testing.assert_close(images.grad[0], alone.grad[0] / 2)


def test_only_directions_count_and_autocast_does_not_round_them() -> None:
    images, texts = embeddings(6)
    log_scale, bias = scalars(math.log(100.0))
    plain = sigmoid_loss(images, texts, log_scale=log_scale, bias=bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = sigmoid_loss(3.0 * images, 0.1 * texts, log_scale=log_scale, bias=bias)
    assert cast.dtype == torch.float32
    torch.testing.assert_close(cast, plain, rtol=1e-5, atol=0.0)


# Pictures of each rank, and ids of the captions: one caption stands on both ranks.
RANK_SIZES = ((3, 3), (2, 5), (0, 4))
CAPTIONS = (0, 1, 2, 3, 1, 4, 2)


def on_a_rank(rank: int, folder: str) -> None:
    """Writes the loss and the gradients of this rank's part of the joined batch, for each split of `RANK_SIZES`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for number, sizes in enumerate(RANK_SIZES):
        part = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        images, texts = (values.detach()[part].requires_grad_() for values in embeddings(sum(sizes)))
        log_scale, bias = scalars()
        text_ids = torch.tensor(CAPTIONS[: sum(sizes)])[part]
        loss = sigmoid_loss(images, texts, log_scale=log_scale, bias=bias, text_ids_B=text_ids, group=dist.group.WORLD)
        loss.backward()
        values = {"images": images.grad, "texts": texts.grad, "log_scale": log_scale.grad, "bias": bias.grad}
        values["loss"] = loss.detach()
        arrays = {name: value.numpy() for name, value in values.items() if value is not None}
        np.savez(f"{folder}/{number}-{rank}.npz", **arrays)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_average_to_one_process(tmp_path: Path) -> None:
    multiprocessing.spawn(on_a_rank, args=(str(tmp_path),), nprocs=2)
    for number, sizes in enumerate(RANK_SIZES):
        first, second = (np.load(tmp_path / f"{number}-{rank}.npz") for rank in range(2))
        images, texts = embeddings(sum(sizes))
        log_scale, bias = scalars()
        text_ids = torch.tensor(CAPTIONS[: sum(sizes)])
        loss = sigmoid_loss(images, texts, log_scale=log_scale, bias=bias, text_ids_B=text_ids)
        loss.backward()
        joined = {"loss": loss.detach(), "log_scale": log_scale.grad, "bias": bias.grad}
        for name, value in joined.items():
            np.testing.assert_allclose((first[name] + second[name]) / 2, value, rtol=0, atol=1e-6, err_msg=name)
        # A row is on one rank only, and averaging halves what that rank says of it.
        for name, value in {"images": images.grad, "texts": texts.grad}.items():
            rows = np.concatenate([first[name], second[name]]) / 2
            np.testing.assert_allclose(rows, value, rtol=0, atol=1e-6, err_msg=name)


def make_head(**options: Any) -> ContrastHead:
    torch.manual_seed(0)
    vision = SiglipVisionConfig(
        hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_attention_heads=4, num_hidden_layers=1
    )
    return ContrastHead(vision, vocab_size=VOCABULARY, **{"text_layers": 1, "max_tokens": 8, **options})


def captions(*rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """ids (B, L) padded with a token that is also a word, and the mask."""
    length = max(len(row) for row in rows)
    ids = torch.tensor([row + [9] * (length - len(row)) for row in rows])
    return ids, torch.arange(length) < torch.tensor([[len(row)] for row in rows])


def test_padding_changes_neither_embedding_nor_hash() -> None:
    head = make_head()
    short, long = captions([3, 9, 4]), captions([3, 9, 4], [1, 2, 3, 4, 5, 6])
    torch.testing.assert_close(head.embed_captions(*long)[:1], head.embed_captions(*short))
    assert caption_hashes(*long)[0] == caption_hashes(*short)[0]


def test_hashes_tell_captions_apart() -> None:
    rows = [[3, 9, 4], [9, 3, 4], [3, 9], [3, 9, 4, 9], [3, 9, 4, 0], [4, 9, 3]]
    assert len(set(caption_hashes(*captions(*rows)).tolist())) == len(rows)


def test_tiles_of_a_picture_are_pooled_together() -> None:
    """In whatever order they come, and apart from other pictures' tiles."""
    head = make_head()
    tiles = torch.randn(4, PATCHES, WIDTH)
    both = head.embed_images(tiles, torch.tensor([0, 1, 1, 0]), 2)
    turned = head.embed_images(tiles[[3, 2, 1, 0]], torch.tensor([0, 1, 1, 0]), 2)
    alone = head.embed_images(tiles[1:3], torch.tensor([0, 0]), 1)
    torch.testing.assert_close(turned, both)
    torch.testing.assert_close(alone[0], both[1])
    assert not torch.allclose(both[0], both[1])


def test_every_weight_of_the_head_has_a_gradient() -> None:
    """Or training on several ranks would wait for what never comes."""
    head = make_head()
    head(torch.randn(3, PATCHES, WIDTH), torch.arange(3), *captions([1], [2, 3], [4]))["contrast_loss"].backward()
    assert [name for name, weight in head.named_parameters() if weight.grad is None] == []


def test_an_equal_caption_is_as_good_as_the_own() -> None:
    """Three equal pictures find the same caption best, which is the own one of each only if all captions are equal."""
    head = make_head()
    tiles = torch.randn(1, PATCHES, WIDTH).expand(3, -1, -1)
    for rows, accuracy in (([[1, 2], [1, 2], [1, 2]], 1.0), ([[1, 2], [2, 1], [3]], 1 / 3)):
        results = head(tiles, torch.arange(3), *captions(*rows))
        assert results["accuracy_contrast"].item() == pytest.approx(accuracy)


def test_captions_that_cannot_be_embedded() -> None:
    head = make_head()
    with pytest.raises(DataError, match="a caption has 9 tokens, over the limit of 8"):
        head.embed_captions(*captions([1] * 9))
    with pytest.raises(DataError, match="0 pictures with a caption"):
        head.embed_captions(torch.zeros(0, 3, dtype=torch.long), torch.zeros(0, 3, dtype=torch.bool))


def accuracy_after(shuffled: bool, num_steps: int = 60) -> float:
    """The share of unseen noisy patterns whose caption is found, by a head trained on right or on shuffled pairs."""
    head = make_head()
    generator = torch.Generator().manual_seed(1)
    patterns = torch.randn(NUM_PATTERNS, PATCHES, WIDTH, generator=generator)
    ids, mask = captions(*([10 + number, 20 + number % 3, 30] for number in range(NUM_PATTERNS)))
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        """Two noisy tiles a picture."""
        noise = torch.randn(2 * NUM_PATTERNS, PATCHES, WIDTH, generator=generator)
        return patterns.repeat(2, 1, 1) + 0.5 * noise, torch.arange(NUM_PATTERNS).repeat(2)

    for _ in range(num_steps):
        order = torch.randperm(NUM_PATTERNS, generator=generator) if shuffled else torch.arange(NUM_PATTERNS)
        loss = head(*batch(), ids[order], mask[order])["contrast_loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return float(np.mean([head(*batch(), ids, mask)["accuracy_contrast"] for _ in range(4)]))


def test_the_head_learns_which_caption_is_whose() -> None:
    assert accuracy_after(shuffled=False) == 1.0
    assert accuracy_after(shuffled=True) <= 0.5
