"""Table 6: what the targets compare, and what is calibrated on."""

from __future__ import annotations

from pathlib import Path

import pytest
import table6_quantization as table6

from nvila.eval.tasks import choose_tasks


def row(**scores: float) -> dict[str, object]:
    return {"scores": scores, "ttft_s": 0.1, "megabytes": 1.0}


def test_targets_look_at_the_worst_task_and_compare_averages() -> None:
    found = table6.judged(
        {
            "16+16": row(a=50.0, b=80.0),
            "w8+16": row(a=50.4, b=79.8),
            "16+w4": row(a=48.0, b=80.0),
            "16+w4 nearest": row(a=45.0, b=79.0),
        }
    )
    assert found["w8a8"]["worst_cost"] == pytest.approx(0.2)
    assert found["w8a8"]["met"]
    assert found["w4a16"]["worst_cost"] == pytest.approx(2.0)
    assert not found["w4a16"]["met"]
    assert found["16+w4 against nearest"] == {"averages": [64.0, 62.0]}


def test_calibration_has_every_generator_once_and_no_held_out_side() -> None:
    tasks = choose_tasks(["words", "naming", "naming_tiled", "events"])
    config = table6.calibration_mixture(tasks, Path("corpus"))
    assert [source.path for source in config.source] == ["word", "naming", "corpus/train"]
    generated = sum(source.weight or 0 for source in config.source if source.format == "generator")
    assert generated == pytest.approx(1.0)


def test_the_table_has_the_papers_columns_left_of_the_bar() -> None:
    lines = table6.table({"16+16": row(a=50.0), "16+w4 nearest": row(a=40.0)}).splitlines()
    assert lines[0].split()[:2] == ["tower+decoder", "AI2D"]
    assert lines[2].split("|")[0].split() == ["16+16", "91", "50.7", "63.9", "0.9"]
    assert lines[3].split("|")[0].split() == ["16+w4", "nearest"]
