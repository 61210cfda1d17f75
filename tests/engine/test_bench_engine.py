"""The benchmark of Figure 5: what it asks, what it makes of the answers, and one small run of our own engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import bench_engine
from benchmarks.engine_peers.inputs import QWEN_UNIT, Job
from benchmarks.engine_peers.report import INT4_PEERS, PEERS, add_ceilings, median_of, targets


@pytest.fixture
def threads() -> Iterator[None]:
    """The benchmark sets torch's number of threads for itself."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_small_run_measures_our_engine_and_names_who_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], threads: None
) -> None:
    options = ["--quick", "--threads", "1", "--contenders", "lite/all", "openvino", "--inputs", "image"]
    options += ["--concurrency", "2", "--new-tokens", "6", "--cache", str(tmp_path / "cache")]
    bench_engine.main([*options, "--peers", str(tmp_path / "none"), "--out", str(tmp_path / "out.json")])
    printed = capsys.readouterr().out.strip().splitlines()
    report = json.loads(printed[-1])
    assert json.loads((tmp_path / "out.json").read_text()) == report
    assert printed[0].startswith("ceilings: ")
    assert any(line.startswith("openvino") and "not run: no environment" in line for line in printed)
    assert set(report["rows"]["openvino"]) == {"not_run"}
    row = report["rows"]["lite/all"]
    case = row["cases"]["image"]["natural"]
    # 112 x 112 in tiles of 56: four and the whole, four tokens each.
    assert (case["num_tiles"], case["num_media_tokens"], case["num_new_tokens"]) == (5, 20, 6)
    split = [case[key] for key in ("preprocessing_s", "vision_s", "projector_s", "prefill_s")]
    assert min(split) > 0
    assert sum(split) <= case["ttft_s"]
    assert 0 < case["overhead_share"] < 1
    assert case["decode_share"] > 0
    assert case["floor_s"] > 0
    assert row["bursts"]["2"]["requests_per_s"] == pytest.approx(2 / row["bursts"]["2"]["seconds"])
    assert row["startup_s"] > row["load_s"] > 0
    assert row["serve_peak_mb"] > 50
    states = {target["name"]: target["state"] for target in report["targets"]}
    assert states["lite: decoding, ours / transformers"] == "not run"
    assert states["lite: overhead of a decoding step"] in ("met", "not met")


@pytest.mark.parametrize(("width", "height"), [(448, 448), (1920, 1080), (300, 900)])
@pytest.mark.parametrize("wanted", [121, 256, 1089, 2048])
def test_aligned_pictures_have_about_as_many_tokens_in_about_the_same_shape(
    width: int, height: int, wanted: int
) -> None:
    job = Job(kind="image", width=width, height=height, aligned_tokens=wanted)
    cols, rows = (side // QWEN_UNIT for side in job.aligned_size())
    assert job.aligned_size() == (cols * QWEN_UNIT, rows * QWEN_UNIT)
    assert cols * rows == pytest.approx(wanted, rel=0.03)
    assert cols / rows == pytest.approx(width / height, rel=0.2)
    assert job.aligned_pictures(job.pictures())[0].size == job.aligned_size()


def test_aligned_frames_share_the_tokens_between_pairs() -> None:
    job = Job(kind="video", width=640, height=360, num_frames=9, aligned_tokens=500)
    width, height = job.aligned_size()
    assert 5 * width * height / QWEN_UNIT**2 == pytest.approx(500, rel=0.1)


def test_pixels_are_the_seeds_and_no_two_frames_alike() -> None:
    job = Job(kind="video", width=80, height=60, num_frames=3, seed=1)
    first, again, other = (np.stack(j.pictures()) for j in (job, job, Job(**{**vars(job), "seed": 2})))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert all((first[0] != frame).any() for frame in first[1:])


def test_medians_leave_failed_rounds_out_and_keep_the_reason_where_all_failed() -> None:
    rounds = [{"ttft_s": 3.0, "how": "a"}, {"failed": "x"}, {"ttft_s": 1.0, "how": "a"}, {"ttft_s": 1.5, "how": "a"}]
    assert median_of(rounds) == {"ttft_s": 1.5, "how": "a"}
    assert median_of([{"failed": "x"}, {"failed": "y"}]) == {"failed": "y"}
    assert median_of([{"decode_tokens_per_s": None}]) == {"decode_tokens_per_s": None}


def measured(*, ttft: float, speed: float, startup: float, **more: float) -> dict[str, Any]:
    case = {"ttft_s": ttft, "decode_tokens_per_s": speed, "preprocessing_s": 0.05 * ttft, **more}
    by_protocol = {"natural": case, "aligned-lite": {**case, "ttft_s": ttft / 2}}
    return {"cases": dict.fromkeys(("image", "page"), by_protocol), "startup_s": startup}


def test_targets_compare_ours_with_the_best_peer_that_ran() -> None:
    work = {"vision_flop": 4e9, "prefill_flop": 1e9, "decode_bytes": 1e9, "overhead_share": 0.04}
    rows = {
        "lite/compressed": measured(ttft=2.0, speed=5.0, startup=1.0, vision_s=1.4),
        "lite/w8a8": measured(ttft=2.0, speed=5.0, startup=1.0, vision_s=1.0),
        "lite/all": measured(ttft=1.0, speed=16.0, startup=3.0, **work),
        "transformers": measured(ttft=4.0, speed=5.0, startup=9.0),
        "vllm": {"not_run": "no environment"},
        "openvino": measured(ttft=2.0, speed=14.0, startup=2.0),
    }
    add_ceilings(rows, {"read_bytes_per_s": 20e9, "int8_op_per_s": 8e9, "bf16_flop_per_s": 4e9})
    found = {target.name: (target.found, target.state) for target in targets(rows, on_gpu=False)}
    assert found["lite: TTFT on page, natural, best peer / ours"] == (2.0, "not met")
    assert found["lite: TTFT on image, natural, best peer / ours"] == (2.0, "met")
    assert found["lite: TTFT on image, aligned-lite, best peer / ours"] == (1.0, "not met")
    assert found["lite: TTFT on frames64, natural, best peer / ours"] == (None, "not run")
    assert found["lite: decoding, ours / transformers"] == (3.2, "met")
    assert found["lite: decoding, ours / best INT4 peer"] == (pytest.approx(16 / 14), "not met")
    assert found["lite: decoding, share of the roof"] == (0.8, "met")
    assert found["lite: tower on page, bf16 / W8A8"] == (1.4, "met")
    assert found["lite: preprocessing / TTFT, largest"] == (0.05, "met")
    assert found["lite: overhead of a decoding step"] == (0.04, "not met")
    assert found["lite: start to first token, ours / best peer"] == (1.5, "not met")
    assert not any(name.startswith("base") for name in found)
    assert set(INT4_PEERS) < set(PEERS)
    on_gpu = {target.name: target.found for target in targets(rows, on_gpu=True)}
    assert on_gpu["lite: TTFT on page / floor"] == pytest.approx(1.0 / (4e9 / 8e9 + 1e9 / 4e9))
