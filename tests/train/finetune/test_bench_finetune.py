"""The benchmark of fine-tuning: samples that the model takes, counts that follow what learns, and judged targets."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))
import bench_finetune as bench

CPU = torch.device("cpu")


@pytest.mark.parametrize(("row", "projector"), [("ln-lora", "frozen"), ("ln-qlora", "full"), ("ln-lora-s2", "full")])
def test_a_row_runs_its_steps(row: str, projector: str) -> None:
    options = Namespace(device="cpu", architecture="nano", projector=projector, tokens=40, steps=1)
    found = bench.run_row(bench.make_config("nano"), row, options)
    assert found["state"] == "measured"
    assert found["seconds"] > 0


def test_a_sample_has_the_tokens_that_were_asked_for() -> None:
    config = bench.make_config("nano")
    learner = bench.make_learner(config, "ln-lora", "full", CPU)
    sample = bench.make_sample(learner.model, "ln-lora", 40, CPU)
    assert sample["input_ids"].shape == (1, 40)
    assert len(sample["pixel_values"]) == 1
    placeholders = sample["input_ids"] == learner.model.config.image_token_id
    assert int(placeholders.sum()) == learner.model.visual.tokens_per_tile
    assert bench.make_sample(learner.model, "ln-lora-s2", 40, CPU)["input_ids"].shape == (1, bench.S2_TOKENS)


def test_counts_follow_what_learns() -> None:
    config = bench.make_config("nano")
    found = {row: bench.counted(config, row, "full", 40)["memory"] for row in ("ln-lora", "ln-qlora", "full-full")}
    assert found["ln-qlora"]["weights"] < found["ln-lora"]["weights"] < found["full-full"]["weights"]
    assert found["ln-lora"]["gradients"] < found["full-full"]["gradients"]
    assert found["ln-lora"]["optimizer"] == 2 * found["ln-lora"]["gradients"]
    assert sum(bench.counted(config, "ln-lora", "frozen", 40)["memory"].values()) < sum(found["ln-lora"].values())


def test_an_8b_sample_of_dynamic_s2_has_2304_visual_tokens() -> None:
    """Nine tiles of the last scale, of 256 tokens each; 14 tiles go through the tower."""
    model = bench.make_learner(bench.make_config("8b"), "ln-lora", "full", torch.device("meta")).model
    grids = bench.usual_grids(model, bench.S2_TILES)
    assert grids == [(3, 3)]
    assert model.num_image_tiles((3, 3)) == 14
    assert bench.num_visual_tokens(model, grids) == 2304


def test_targets_are_met_not_met_or_not_run() -> None:
    rows = {
        "ln-lora": {"peak_gb": 19.0, "iterations_per_s": 5.0},
        "lora-lora": {"peak_gb": 20.0, "iterations_per_s": 4.1},
        "ln-qlora": {"peak_gb": 10.9},
        "ln-lora-s2": {"failed": "out of memory"},
    }
    assert bench.judged(rows, is_8b=True) == {
        "8B ln-lora within 19.2 GB": "met",
        "8B ln-qlora within 10.2 GB": "not met",
        "8B ln-lora-s2 within 24 GB": "not met",
        "8B ln-qlora-s2 within 24 GB": "not run on this device",
        "8B ln-lora at 1.25 times lora-lora": "not met",
    }
    assert set(bench.judged(rows, is_8b=False).values()) == {"not run on this device"}
