"""Rates, shares and time left, with a clock that the test winds."""

from __future__ import annotations

import io
import time
from typing import Literal

import pytest
import torch

from nvila.train.meter import (
    StepCounts,
    StepMeter,
    TimeLeft,
    gpu_peak_flops,
    measured_flops,
    peak_flops,
    peak_memory,
)

BATCH = StepCounts(tokens=900, learned_tokens=300, padding_tokens=100, tiles=12, samples=6)


class Clock:
    """Tells the time it was set to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def two_ranks(values: list[float], kind: Literal["sum", "max"]) -> list[float]:
    """As if another rank had the same numbers."""
    return [2 * value for value in values] if kind == "sum" else values


def test_rates_are_sums_over_seconds_and_start_anew() -> None:
    clock = Clock()
    meter = StepMeter(flops=5e11, peak=1e12, memory=lambda: 3e9, clock=clock)
    meter.add(BATCH)
    meter.add(BATCH)
    clock.now += 4.0
    assert meter.take() == {
        "tokens_per_s": 450.0,
        "learned_tokens_per_s": 150.0,
        "tiles_per_s": 6.0,
        "samples_per_s": 3.0,
        "padding_share": 0.1,
        "mfu": 0.25,
        "memory_gb": 3.0,
    }
    meter.add(BATCH)
    clock.now += 1.0
    assert meter.take()["tokens_per_s"] == 900.0


def test_flops_may_follow_from_the_counts() -> None:
    clock = Clock()
    meter = StepMeter(flops=lambda counts: 6e9 * counts.tokens, peak=1e13, clock=clock)
    meter.add(BATCH)
    clock.now += 2.0
    assert meter.take()["mfu"] == pytest.approx(6e9 * 900 / 2 / 1e13)


def test_ranks_add_up_and_mfu_stays() -> None:
    clock = Clock()
    meter = StepMeter(flops=5e11, peak=1e12, memory=lambda: 3e9, reduce=two_ranks, clock=clock)
    meter.add(BATCH)
    clock.now += 1.0
    values = meter.take()
    assert (values["tokens_per_s"], values["tiles_per_s"]) == (1800.0, 24.0)
    assert (values["padding_share"], values["mfu"], values["memory_gb"]) == (0.1, 0.5, 3.0)


def test_what_is_not_known_is_left_out_and_nothing_divides_by_zero() -> None:
    values = StepMeter(clock=Clock()).take()
    assert "mfu" not in values
    assert "memory_gb" not in values
    assert set(values.values()) == {0.0}


def test_pauses_do_not_count() -> None:
    clock = Clock()
    meter = StepMeter(clock=clock)
    meter.add(BATCH)
    clock.now += 3.0
    with meter.paused():
        clock.now += 50.0
    assert meter.take()["samples_per_s"] == 2.0


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA H20", 148),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_known_gpus(name: str, tflops: float) -> None:
    assert gpu_peak_flops(name) == pytest.approx(tflops * 1e12)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA A10G",
        "Tesla T4",
    ],
)
def test_other_gpus_and_parts_of_gpus_have_no_known_peak(name: str) -> None:
    assert gpu_peak_flops(name) is None


def test_a_cpu_is_measured_only_when_asked() -> None:
    cpu = torch.device("cpu")
    assert peak_flops(cpu) is None
    measured = measured_flops(cpu, dtype=torch.float32, size=64, seconds=0.01)
    assert 1e6 < measured < 1e15


def test_memory_counts_what_is_resident() -> None:
    before = peak_memory(torch.device("cpu"))
    held = torch.ones(200 << 20, dtype=torch.uint8)
    after = peak_memory(torch.device("cpu"))
    assert 1e7 < before <= after < 1e12
    assert after >= held.numel()


def test_time_left_follows_a_pace_that_changes() -> None:
    clock = Clock()
    left = TimeLeft(1000, step=100, smoothing=0.1, clock=clock)
    assert left.seconds_left() is None
    for step in range(101, 201):
        clock.now += 2.0
        left.update(step)
    assert left.seconds_left() == pytest.approx(800 * 2.0)
    for step in range(201, 301):
        clock.now += 1.0
        left.update(step)
    assert left.seconds_left() == pytest.approx(700 * 1.0, rel=0.001)
    assert left.seconds_left(60.0) == 60.0


def test_updates_may_skip_steps() -> None:
    clock = Clock()
    left = TimeLeft(100, clock=clock)
    clock.now += 30.0
    left.update(10)
    assert left.seconds_left() == pytest.approx(270.0)


def test_the_line_keeps_what_it_was_last_told() -> None:
    clock = Clock()
    left = TimeLeft(2000, name="align", clock=clock)
    assert left.text() == "align [--------------------] 0/2,000"
    clock.now += 10.0
    left.update(1, loss=2.34567, tokens_per_s=12_345.0)
    clock.now += 10.0
    left.update(2)
    assert left.text() == "align [--------------------] 2/2,000  loss 2.346  12.3k tokens/s  5 h 33 min left"
    left.update(1000)
    assert left.text().startswith("align [##########----------] 1,000/2,000")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(7.2, "7 s left"), (59.7, "1 min left"), (90.0, "2 min left"), (5000.0, "1 h 23 min left"), (2e5, "2 d 7 h left")],
)
def test_times_are_told_in_two_units_at_most(seconds: float, shown: str) -> None:
    assert TimeLeft(10, clock=Clock()).text(seconds).endswith(f"10  {shown}")


def test_the_line_is_drawn_while_the_block_runs() -> None:
    stream = io.StringIO()
    left = TimeLeft(10, name="align")
    with left.shown(stream=stream, forced=True):
        left.update(5, loss=1.5)
        deadline = time.monotonic() + 10
        while "5/10  loss 1.5" not in stream.getvalue():
            assert time.monotonic() < deadline, stream.getvalue()
            time.sleep(0.01)
    assert stream.getvalue().endswith("\x1b[K")
