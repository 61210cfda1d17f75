"""The parts of the time to the first token, by a clock that stands still but for the calls that a test watches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tests.engine.tiny_engines import ask, clip, conversations, open_engine
from tests.media_files import noise

from nvila.engine import SamplingParams, runner

NOTHING = {"preprocessing": 0.0, "vision": 0.0, "projector": 0.0, "prefill": 0.0}


class Clock:
    """`time.perf_counter` that a call of a watched function advances by a second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self._patch = monkeypatch
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def watch(self, owner: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def slower(*arguments: Any, **options: Any) -> Any:
            self.now += 1.0
            return original(*arguments, **options)

        self._patch.setattr(owner, name, slower)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize(
    ("phase", "function", "num_calls"),
    [("vision", "encode_tiles", 3), ("projector", "encode_images", 1), ("prefill", "prefill", 2)],
)
def test_a_phase_counts_its_calls_and_no_others(
    phase: str, function: str, num_calls: int, checkpoint: Path, clock: Clock
) -> None:
    clock.watch(runner, function)
    engine = open_engine(checkpoint, tiles_per_step=2, max_prefill=96)
    completion = engine.generate(ask(noise(112, 112), "What is it?"), max_new_tokens=3)
    assert asdict(completion.phase_seconds) == {**NOTHING, phase: num_calls}
    assert completion.ttft_s == num_calls


def test_preprocessing_is_the_processor(checkpoint: Path, clock: Clock) -> None:
    engine = open_engine(checkpoint)
    clock.watch(engine.processor, "apply_chat_template")
    completion = engine.generate(ask("Hello"), max_new_tokens=1)
    assert asdict(completion.phase_seconds) == {**NOTHING, "preprocessing": 1.0}


def test_decoding_is_no_part_of_it(checkpoint: Path, clock: Clock) -> None:
    clock.watch(runner, "decode_one_token")
    completion = open_engine(checkpoint).generate(ask("Hello"), max_new_tokens=5)
    assert asdict(completion.phase_seconds) == NOTHING
    assert (completion.ttft_s, completion.tokens_per_s) == (0.0, 1.0)


def test_kept_features_take_no_time(checkpoint: Path, clock: Clock) -> None:
    for function in ("encode_tiles", "encode_images", "prefill"):
        clock.watch(runner, function)
    engine = open_engine(checkpoint, prefix_reuse=False)
    first, second = (engine.generate(ask(clip(1), "What moves?"), max_new_tokens=1) for _ in range(2))
    assert asdict(first.phase_seconds) == {**NOTHING, "vision": 1.0, "projector": 1.0, "prefill": 1.0}
    assert asdict(second.phase_seconds) == {**NOTHING, "prefill": 1.0}


def test_waiting_for_others_is_no_part_of_it(checkpoint: Path, clock: Clock) -> None:
    """The second request starts when the first has been prefilled and has decoded its 16 tokens."""
    for function in ("prefill", "decode_one_token"):
        clock.watch(runner, function)
    engine = open_engine(checkpoint, max_running=1)
    handles = [engine.submit(messages, SamplingParams(max_new_tokens=16)) for messages in conversations()[:2]]
    first, last = (handle.result() for handle in handles)
    assert len(first.token_ids) == 16
    assert asdict(last.phase_seconds) == {**NOTHING, "prefill": 1.0}
    assert last.ttft_s == 1 + 15 + 1


def test_a_shared_step_counts_for_each(checkpoint: Path, clock: Clock) -> None:
    clock.watch(runner, "prefill")
    engine = open_engine(checkpoint)
    handles = [engine.submit(ask(text), SamplingParams(max_new_tokens=1)) for text in ("One", "Another")]
    assert [handle.result().phase_seconds.prefill for handle in handles] == [1.0, 1.0]


def test_the_parts_are_within_the_whole(checkpoint: Path) -> None:
    """By the real clock."""
    engine = open_engine(checkpoint, tiles_per_step=1, max_prefill=16)
    for messages in conversations():
        completion = engine.generate(messages, max_new_tokens=2)
        parts = asdict(completion.phase_seconds)
        assert completion.ttft_s is not None
        assert min(parts["preprocessing"], parts["prefill"]) > 0
        assert sum(parts.values()) <= completion.ttft_s
