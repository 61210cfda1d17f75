"""A short training run in FP8 ends where the same run in bf16 ends; the script of the published curves runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fp8_curves import PRECISIONS, Run, main, train

SHORT = Run(steps=60, batch=8, tokens=64, hidden=64, layers=2, learning_rate=2e-3)


@pytest.fixture(scope="module")
def plain() -> dict[str, float]:
    return train(SHORT, PRECISIONS["bf16"])


@pytest.mark.parametrize("name", list(PRECISIONS)[1:])
def test_fp8_ends_within_two_percent_of_bf16(name: str, plain: dict[str, float]) -> None:
    found = train(SHORT, PRECISIONS[name])
    assert plain["last_loss"] < 0.5 * found["losses"][0]
    assert found["losses"] != plain["losses"]
    for key in ("last_loss", "held_out_loss"):
        assert found[key] == pytest.approx(plain[key], rel=0.02), key


def test_what_is_kept_of_a_whole_step_is_about_half(plain: dict[str, float]) -> None:
    found = train(Run(steps=1, batch=8, tokens=64, hidden=64, layers=2), list(PRECISIONS.values())[-1])
    assert found["kept_bytes"] < 0.55 * plain["kept_bytes"]


def test_the_script_writes_curves_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    arguments = ["--quick", "--steps", "3", "--out", str(tmp_path / "curves.json")]
    main(arguments)
    result = json.loads((tmp_path / "curves.json").read_text(encoding="utf-8"))
    assert [len(curves[0]["losses"]) for curves in result["curves"].values()] == [3, 3, 3, 3, 3]
    assert result["gap_to_bf16_percent"]["bf16"] == {"last_loss": 0.0, "held_out_loss": 0.0}
    assert {path.name for path in tmp_path.iterdir()} == {"curves", "curves.json", "curves.png"}
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["gap_to_bf16_percent"] == result["gap_to_bf16_percent"]
    folder = tmp_path / "curves"
    kept = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(kept) == 5
    folder.joinpath("bf16-seed0.json").unlink()
    main(arguments)
    again = json.loads((tmp_path / "curves.json").read_text(encoding="utf-8"))
    assert again["curves"]["bf16"][0]["losses"] == result["curves"]["bf16"][0]["losses"]
    changed = [path.name for path, before in kept.items() if path.stat().st_mtime_ns != before]
    assert changed == ["bf16-seed0.json"]
