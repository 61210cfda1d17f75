"""What a question names is found in its tokens, its place in the picture's cells, and a head learns to tell it."""

from __future__ import annotations

import torch
from tests.train.test_encode import WORDS, make_encoder

from nvila.data.corpus import Assets, generate
from nvila.train.encode import collate
from nvila.train.grounding import NUM_CELLS, SIDE, GroundingHead, shown_cells
from nvila.train.tokenizer import build_tokenizer


def test_points_fall_into_cells_row_by_row() -> None:
    cells = shown_cells([(0.0, 0.0), (223.9, 111.9), (224.0, 60.0)], (224, 112))
    assert cells.nonzero()[0].tolist() == [0, 4 * SIDE + SIDE - 1, NUM_CELLS - 1]


def test_the_last_token_of_every_named_thing_is_marked(assets: Assets) -> None:
    encoder, tokenizer = make_encoder(assets), build_tokenizer(WORDS)
    for task in ("count", "position", "place", "scene", "compare", "color", "shape", "tally"):
        for index in range(20):
            sample = generate(task, assets, split="train", seed=5, index=index, size=(112, 112))
            encoded = encoder(sample)
            words = [words for turn in sample.meta["named"] for words, _ in turn]
            assert len(encoded.named) == len(encoded.cells) == len(words)
            for token, name in zip(encoded.named, words, strict=True):
                assert tokenizer.decode(encoded.input_ids[: token + 1]).endswith(name)
                assert encoded.labels[token] == -100


def test_as_many_cells_as_things_where_none_share_one(assets: Assets) -> None:
    sample = generate("count", assets, split="train", seed=5, index=3, size=(112, 112))
    ((_, points),) = sample.meta["named"][0]
    cells = make_encoder(assets)(sample).cells
    assert cells.sum() == len({(int(x) // 14, int(y) // 14) for x, y in points})


def test_a_batch_says_whose_token_it_is(assets: Assets) -> None:
    encoder = make_encoder(assets)
    word = encoder(generate("word", assets, split="train", seed=3, index=1, size=(112, 112)))
    scene = encoder(generate("scene", assets, split="train", seed=3, index=1, size=(112, 112)))
    batch = collate([word, scene], encoder.pad_id)
    assert batch["named"].tolist() == [[1, token] for token in scene.named]
    assert batch["cells"].shape == (len(scene.named), NUM_CELLS)
    assert collate([word], encoder.pad_id)["named"].shape == (0, 2)


def test_the_head_learns_where_a_token_points() -> None:
    torch.manual_seed(0)
    hidden_BLH = torch.randn(4, 6, 32)
    named = torch.tensor([[0, 1], [1, 5], [2, 2], [3, 0]])
    cells = torch.zeros(4, NUM_CELLS, dtype=torch.bool)
    cells[torch.arange(4), torch.tensor([3, 17, 40, 63])] = True
    cells[3, 10] = True
    head = GroundingHead(32)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(150):
        results = head(hidden_BLH, named, cells)
        optimizer.zero_grad()
        results["grounding_loss"].backward()
        optimizer.step()
    assert results["accuracy_grounding"] == 1.0
    assert results["grounding_loss"] < 0.3
