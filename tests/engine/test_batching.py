"""Whoever shares the engine changes nobody's answer, and a long request stalls nobody."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests.engine.tiny_engines import ask, clip, conversations, open_engine
from tests.media_files import noise

from nvila.engine import SamplingParams


def alone(checkpoint: Path, messages: object, **sampling: object) -> list[int]:
    return open_engine(checkpoint).generate(messages, **sampling).token_ids


@pytest.fixture(scope="module")
def load(checkpoint: Path) -> list[tuple[list[dict[str, object]], int, list[int]]]:
    """Conversations, how long their answers may get, and the answers alone."""
    mixed = [*conversations(0), *conversations(7)]
    lengths = [3 + 5 * (index % 4) for index in range(len(mixed))]
    return [
        (messages, length, alone(checkpoint, messages, max_new_tokens=length))
        for messages, length in zip(mixed, lengths, strict=True)
    ]


LIMITS = {
    "usual": {},
    "small chunks": {"prefill_chunk": 5, "max_prefill": 7, "tiles_per_step": 1},
    "few at a time": {"max_running": 3},
    "little cache": {"kv_cache_bytes": 24 * 16 * 3 * 2 * 2 * 12 * 4},
    "no reuse": {"prefix_reuse": False, "feature_cache_bytes": 0},
    "blocks of 3": {"block_size": 3},
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS.keys())
def test_answers_of_a_mixed_load_are_the_answers_alone(
    limits: dict[str, int], checkpoint: Path, load: list[tuple[list[dict[str, object]], int, list[int]]]
) -> None:
    engine = open_engine(checkpoint, **limits)
    handles = [engine.submit(messages, SamplingParams(max_new_tokens=length)) for messages, length, _ in load]
    assert [handle.result().token_ids for handle in handles] == [expected for _, _, expected in load]
    assert engine.stats().num_blocks_used == 0


def test_requests_join_and_leave_between_steps(
    checkpoint: Path, load: list[tuple[list[dict[str, object]], int, list[int]]]
) -> None:
    engine = open_engine(checkpoint, prefill_chunk=16)
    handles = []
    together = 0
    for messages, length, _ in load:
        handles.append(engine.submit(messages, SamplingParams(max_new_tokens=length)))
        engine.step()
        engine.step()
        together = max(together, engine.stats().num_running)
    assert together > 2
    assert [handle.result().token_ids for handle in handles] == [expected for _, _, expected in load]


def test_a_prompt_in_chunks_is_the_prompt_in_one(checkpoint: Path) -> None:
    messages = ask(noise(112, 56, 3), clip(4), "word " * 30)
    whole = alone(checkpoint, messages, max_new_tokens=16)
    for chunk in (1, 4, 33):
        engine = open_engine(checkpoint, max_prefill=chunk, tiles_per_step=2)
        assert engine.generate(messages, max_new_tokens=16).token_ids == whole


def test_a_long_video_stalls_nobody(checkpoint: Path) -> None:
    """Who is decoding gets a token in every step, and a short question overtakes the long video."""
    engine = open_engine(checkpoint, prefill_chunk=8, tiles_per_step=1)
    decoding = engine.submit(ask("Hello"), SamplingParams(max_new_tokens=100, ignore_eos=True))
    while not decoding.num_generated:
        engine.step()
    video = engine.submit(
        ask(clip(1, 20), "What?"), SamplingParams(max_new_tokens=4), template_options={"num_frames": 20}
    )
    short = engine.submit(ask(noise(20, 20), "Hi"), SamplingParams(max_new_tokens=4))
    for _ in range(40):
        before = decoding.num_generated
        engine.step()
        assert decoding.num_generated == before + 1
        if short.is_done:
            break
    assert short.is_done
    assert video.num_generated == 0
    assert video.result().token_ids == alone(
        checkpoint, ask(clip(1, 20), "What?"), max_new_tokens=4, template_options={"num_frames": 20}
    )


def test_many_short_requests_do_not_starve_a_long_one(checkpoint: Path) -> None:
    engine = open_engine(checkpoint, prefill_chunk=8, max_prefill=8, max_running=4)
    long = engine.submit(ask("word " * 60), SamplingParams(max_new_tokens=2))
    for index in range(120):
        if engine.stats().num_waiting < 4:
            engine.submit(ask(f"{index}?" * 4), SamplingParams(max_new_tokens=2))
        engine.step()
        if long.is_done:
            return
    pytest.fail("the long request got nothing in 120 steps")


def test_several_threads_share_an_engine(
    checkpoint: Path, load: list[tuple[list[dict[str, object]], int, list[int]]]
) -> None:
    engine = open_engine(checkpoint)
    found: dict[int, list[int]] = {}

    def work(index: int) -> None:
        messages, length, _ = load[index]
        found[index] = engine.generate(messages, max_new_tokens=length).token_ids

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert found == {index: load[index][2] for index in range(6)}


def test_stream_is_the_answer_in_pieces(checkpoint: Path) -> None:
    engine = open_engine(checkpoint)
    messages = conversations()[1]
    whole = engine.generate(messages, max_new_tokens=20)
    pieces = list(engine.stream(messages, max_new_tokens=20))
    assert "".join(pieces) == whole.text
    assert len(pieces) > 3


def test_generate_all_keeps_the_order(
    checkpoint: Path, load: list[tuple[list[dict[str, object]], int, list[int]]]
) -> None:
    engine = open_engine(checkpoint)
    found = engine.generate_all([messages for messages, _, _ in load[:4]], max_new_tokens=3)
    assert [completion.token_ids for completion in found] == [expected[:3] for _, _, expected in load[:4]]
