"""Cancellation frees everything, bounds are kept, and one request's fault is its own."""

from __future__ import annotations

import gc
import random
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.tiny_engines import ask, clip, conversations, open_engine
from tests.media_files import noise

from nvila import PromptError
from nvila.engine import Engine, EngineBusyError, EngineStats, SamplingParams, runner


def held(engine: Engine) -> tuple[int, int, int, int]:
    """What requests hold: nothing of it may be left when there are none."""
    stats: EngineStats = engine.stats()
    return stats.num_waiting, stats.num_running, stats.num_blocks_used, stats.num_media_begun


def half_encoded(engine: Engine) -> bool:
    return engine.stats().num_media_begun == 1


def half_prefilled(engine: Engine) -> bool:
    running = engine._scheduler.running
    return bool(running) and 0 < running[0].num_computed < running[0].num_prompt


def decoding(engine: Engine) -> bool:
    return any(request.num_generated > 2 for request in engine._scheduler.running)


@pytest.mark.parametrize("phase", [None, half_encoded, half_prefilled, decoding])
def test_cancellation_in_any_phase_frees_everything(phase: Any, checkpoint: Path) -> None:
    engine = open_engine(checkpoint, tiles_per_step=1, prefill_chunk=8, max_prefill=8)
    handle = engine.submit(ask(clip(1), "What?"), SamplingParams(max_new_tokens=20, ignore_eos=True))
    while phase is not None and not phase(engine):
        assert engine.step()
    pixels = [weakref.ref(medium.pixels) for medium in handle.request._media]
    assert phase in (None, half_encoded, half_prefilled) or not pixels
    handle.cancel()
    assert held(engine) == (0, 0, 0, 0)
    assert handle.result().finish_reason == "cancelled"
    assert not engine.step()
    gc.collect()
    assert [reference() for reference in pixels] == [None] * len(pixels)


def test_leaving_a_stream_cancels_it(checkpoint: Path) -> None:
    engine = open_engine(checkpoint)
    for _ in engine.stream(conversations()[1], max_new_tokens=50, ignore_eos=True):
        break
    gc.collect()
    assert held(engine) == (0, 0, 0, 0)


def test_an_interrupt_cancels_the_answer(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(checkpoint)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "decode_one_token", interrupt)
    with pytest.raises(KeyboardInterrupt):
        engine.generate(ask("Hello"), max_new_tokens=5, ignore_eos=True)
    assert held(engine) == (0, 0, 0, 0)


def test_a_full_queue_refuses_or_waits(checkpoint: Path) -> None:
    engine = open_engine(checkpoint, max_running=1, max_waiting=2)
    handles = [engine.submit(ask(str(index)), SamplingParams(max_new_tokens=3)) for index in range(2)]
    with pytest.raises(EngineBusyError, match="2 requests are waiting, and the limit is 2"):
        engine.submit(ask("one more"), wait=False)
    handles.append(engine.submit(ask("one more"), SamplingParams(max_new_tokens=3)))
    assert engine.stats().num_waiting <= 2
    assert all(handle.result().token_ids for handle in handles)


def test_waiting_pixels_are_bounded(checkpoint: Path) -> None:
    one_tile = 3 * 56 * 56 * 4
    engine = open_engine(checkpoint, max_waiting_bytes=2 * one_tile)
    engine.submit(ask(clip(1), "a clip may wait alone"))
    with pytest.raises(EngineBusyError, match=f"hold {4 * one_tile} bytes of pixels, {one_tile} more"):
        engine.submit(ask(noise(9, 9), "?"), wait=False)
    assert engine.submit(ask(noise(9, 9), "?")).result().token_ids


def test_pixels_are_let_go_once_they_are_encoded(checkpoint: Path) -> None:
    engine = open_engine(checkpoint, feature_cache_bytes=0)
    handle = engine.submit(ask(clip(1), "What?"), SamplingParams(max_new_tokens=20, ignore_eos=True))
    pixels = weakref.ref(handle.request._media[0].pixels)
    while not handle.num_generated:
        engine.step()
    gc.collect()
    assert pixels() is None
    assert handle.request.features == {}


def test_prompts_that_never_fit_are_refused_with_both_numbers(checkpoint: Path) -> None:
    engine = open_engine(checkpoint)
    with pytest.raises(PromptError, match=r"tokens .*and the model takes 512"):
        engine.submit(ask("word " * 200))
    per_block = 16 * engine.weights.kv_bytes_per_token
    small = open_engine(checkpoint, kv_cache_bytes=6 * per_block)
    with pytest.raises(PromptError, match=r"take up to 1.. tokens of KV cache, and the engine has 96"):
        small.submit(ask("Hello"), SamplingParams(max_new_tokens=60))
    assert small.generate(ask("Hello"), max_new_tokens=8).token_ids


def test_an_answer_ends_where_the_model_s_length_does(checkpoint: Path) -> None:
    engine = open_engine(checkpoint)
    completion = engine.generate(ask("w" * 420), max_new_tokens=500, ignore_eos=True)
    assert completion.finish_reason == "length"
    assert completion.num_prompt_tokens + len(completion.token_ids) == 512


def test_one_request_s_fault_is_its_own(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(checkpoint)
    expected = engine.generate(ask("Hello"), max_new_tokens=9).token_ids
    encode = runner.encode_tiles

    def fail_on_bright(model: Any, pixels: torch.Tensor) -> torch.Tensor:
        if bool((pixels == 1).all()):
            raise torch.OutOfMemoryError("out of memory")
        return encode(model, pixels)

    monkeypatch.setattr(runner, "encode_tiles", fail_on_bright)
    good = engine.submit(ask("Hello"), SamplingParams(max_new_tokens=9))
    bright = noise(9, 9)
    bright.paste((255, 255, 255), (0, 0, 9, 9))
    bad = engine.submit(ask(bright, "What?"))
    with pytest.raises(torch.OutOfMemoryError):
        bad.result()
    assert good.result().token_ids == expected
    assert held(engine) == (0, 0, 0, 0)


def test_soak(checkpoint: Path) -> None:
    """Requests of all kinds come, are cancelled at any moment and end: answers are those alone, nothing is left."""
    rng = random.Random(0)
    kinds = [*conversations(0), *conversations(9)]
    lone = open_engine(checkpoint)
    expected = [lone.generate(messages, max_new_tokens=12).token_ids for messages in kinds]
    engine = open_engine(
        checkpoint, prefill_chunk=16, tiles_per_step=1, max_running=5, max_waiting=8,
        kv_cache_bytes=40 * 16 * lone.weights.kv_bytes_per_token,
    )  # fmt: skip
    open_handles: list[tuple[int, Any]] = []
    ended = 0
    for _ in range(150):
        kind = rng.randrange(len(kinds))
        open_handles.append((kind, engine.submit(kinds[kind], SamplingParams(max_new_tokens=rng.choice([1, 5, 12])))))
        for _ in range(rng.randrange(4)):
            engine.step()
        if rng.random() < 0.3:
            open_handles.pop(rng.randrange(len(open_handles)))[1].cancel()
        for kind, handle in [pair for pair in open_handles if pair[1].is_done]:
            tokens = handle.result().token_ids
            assert tokens == expected[kind][: len(tokens)]
            ended += 1
            open_handles.remove((kind, handle))
    for kind, handle in open_handles:
        tokens = handle.result().token_ids
        assert tokens == expected[kind][: len(tokens)]
    assert ended > 60
    assert held(engine) == (0, 0, 0, 0)
    engine.clear_kept()
    stats = engine.stats()
    assert (stats.num_blocks_kept, stats.num_media_kept, stats.feature_bytes_kept) == (0, 0, 0)
