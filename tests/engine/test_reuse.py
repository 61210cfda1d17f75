"""What is kept from earlier requests saves work and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.engine.tiny_engines import ask, clip, conversations, open_engine
from tests.media_files import noise

from nvila.engine import Engine, runner


def turns(engine: Engine, **sampling: int) -> list[tuple[list[int], int]]:
    """Three turns about a picture: tokens, and how many of the prompt's came from before."""
    messages = ask(noise(112, 56), "What is it?")
    found = []
    for question in ("And the left?", "And the right?", "Why?"):
        completion = engine.generate(messages, **sampling)
        found.append((completion.token_ids, completion.num_cached_tokens))
        messages = [*messages, {"role": "assistant", "content": completion.text}, *ask(question)]
    return found


def count_tiles(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of tiles of each call of the vision tower from now on."""
    seen: list[int] = []
    encode = runner.encode_tiles

    def counting(model: object, pixels: object) -> object:
        seen.append(len(pixels))  # type: ignore[arg-type]
        return encode(model, pixels)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "encode_tiles", counting)
    return seen


def test_turns_with_reuse_equal_turns_without(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = count_tiles(monkeypatch)
    kept = turns(open_engine(checkpoint), max_new_tokens=8)
    with_reuse = sum(seen)
    fresh = turns(open_engine(checkpoint, prefix_reuse=False, feature_cache_bytes=0), max_new_tokens=8)
    assert [tokens for tokens, _ in kept] == [tokens for tokens, _ in fresh]
    assert [count for _, count in fresh] == [0, 0, 0]
    assert kept[0][1] == 0
    assert 0 < kept[1][1] < kept[2][1]
    assert sum(seen) - with_reuse == 3 * with_reuse


def test_turns_go_on_in_place_where_they_can(checkpoint: Path) -> None:
    engine = open_engine(checkpoint)
    starts = []
    make = engine._scheduler._make_table
    engine._scheduler._make_table = lambda blocks: starts.append(make(blocks)) or starts[-1]  # type: ignore[func-returns-value]
    turns(engine, max_new_tokens=1)  # no whole block of an answer that the next turn spells otherwise
    assert len(starts) == 3
    assert all(table.start is not None for table in starts)


@pytest.mark.parametrize("kind", ["picture", "clip"])
def test_the_same_words_about_another_picture_are_another_prompt(kind: str, checkpoint: Path) -> None:
    engine = open_engine(checkpoint)
    media = [noise(56, 56, seed) if kind == "picture" else clip(seed) for seed in (1, 2, 1)]
    found = [engine.generate(ask(medium, "What?" * 8), max_new_tokens=8) for medium in media]
    fresh = [open_engine(checkpoint).generate(ask(medium, "What?" * 8), max_new_tokens=8) for medium in media]
    assert [one.token_ids for one in found] == [one.token_ids for one in fresh]
    assert found[0].token_ids != found[1].token_ids
    assert found[2].num_cached_tokens > found[1].num_cached_tokens


def test_a_prompt_of_whole_blocks_that_is_known_still_computes_its_last_token(checkpoint: Path) -> None:
    engine = open_engine(checkpoint, block_size=1)
    first, again = (engine.generate(ask(noise(40, 40), "What?"), max_new_tokens=6) for _ in range(2))
    assert again.token_ids == first.token_ids
    assert again.num_cached_tokens == again.num_prompt_tokens - 1


def test_a_picture_is_encoded_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = count_tiles(monkeypatch)
    engine = open_engine(checkpoint, prefix_reuse=False)
    picture = noise(40, 40, 5)
    together = engine.generate_all([ask(picture, f"{index}?") for index in range(3)], max_new_tokens=2)
    engine.generate(ask("First:", picture, "?"), max_new_tokens=2)
    assert len(together) == 3
    assert len(seen) == 1
    engine.clear_kept()
    engine.generate(ask(picture, "?"), max_new_tokens=2)
    assert len(seen) == 2


def test_a_picture_whose_tokens_are_known_is_not_encoded(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(checkpoint, feature_cache_bytes=0, block_size=4)
    engine.generate(ask(noise(40, 40), "What is it?"), max_new_tokens=2)
    seen = count_tiles(monkeypatch)
    again = engine.generate(ask(noise(40, 40), "What was it?"), max_new_tokens=2)
    assert seen == []
    assert again.num_cached_tokens > 4


def test_features_keep_their_bound(checkpoint: Path) -> None:
    one = 4 * 48 * 4
    engine = open_engine(checkpoint, feature_cache_bytes=3 * one)
    for seed in range(6):
        engine.generate(ask(noise(40, 40, seed), noise(30, 30, seed), "?"), max_new_tokens=1)
        assert engine.stats().feature_bytes_kept <= 3 * one
    assert engine.stats().num_media_kept == 3
    engine.generate(ask(clip(1, 9), "?"), max_new_tokens=1, template_options={"num_frames": 9})
    assert engine.stats().num_media_kept == 3, "what is larger than the whole bound is not kept"


def test_sampled_answers_do_not_depend_on_what_is_kept(checkpoint: Path) -> None:
    engine = open_engine(checkpoint)
    draws = [
        engine.generate(conversations()[5], max_new_tokens=12, temperature=0.8, seed=3).token_ids for _ in range(2)
    ]
    assert draws[0] == draws[1]


def test_pictures_of_several_requests_go_through_the_tower_together(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = count_tiles(monkeypatch)
    engine = open_engine(checkpoint, tiles_per_step=2)
    handles = [engine.submit(ask(noise(40, 40, seed % 3), "What?")) for seed in range(4)]  # the last as the first
    engine.step()
    assert seen == [2]
    together = [handle.result().token_ids for handle in handles]
    assert seen == [2, 1]
    alone = [open_engine(checkpoint).generate(ask(noise(40, 40, seed % 3), "What?")).token_ids for seed in range(4)]
    assert together == alone
