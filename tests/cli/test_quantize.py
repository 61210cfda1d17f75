"""`nvila quantize` as users call it: what it writes, and what it says where it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from tests.tiny import write_checkpoint

from nvila.cli.main import main
from nvila.model import NVILAForConditionalGeneration
from nvila.ops.int4_linear import Int4Linear
from nvila.ops.int8_linear import Int8Linear


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four pictures with a question each, beside a checkpoint `a`."""
    write_checkpoint(tmp_path / "a", "folders", text={"hidden_size": 64, "intermediate_size": 128})
    records = []
    for number in range(4):
        Image.linear_gradient("L").rotate(90 * number).convert("RGB").save(tmp_path / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a gradient"}]
        records.append(json.dumps({"id": str(number), "image": f"{number}.png", "conversations": turns}))
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(records) + "\n")
    return path


def quantize(data: Path, *more: str) -> int:
    folder = data.parent
    return main(["quantize", str(folder / "a"), "--calib", str(data), "--out", str(folder / "q"), *more])


def test_it_writes_a_checkpoint_that_loads(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quantize(data, "--vision", "w8a8", "--language", "w4a16", "--head", "int8", "--samples", "3") == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "on 3 samples" in printed.err
    model = NVILAForConditionalGeneration.from_pretrained(data.parent / "q")
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(Int8Linear) == 3 * 6 + 1
    assert kinds.count(Int4Linear) == 2 * 7
    config = json.loads((data.parent / "q" / "config.json").read_text())["quantization_config"]
    assert config["format"] == "mixed-precision"
    assert {group["format"] for group in config["config_groups"].values()} == {"int-quantized", "pack-quantized"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to quantise"),
        (("--vision", "w8a8", "--samples", "0"), "samples is 0"),
        (("--language", "w8a8"), "w8a8"),
        (("--vision", "w8a8", "--max-tokens", "3"), "no sample can be calibrated on"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(
    data: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert quantize(data, *arguments) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1
    assert message in printed[0]
    assert not (data.parent / "q").exists()


def test_what_is_there_is_not_overwritten(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data.parent / "q").mkdir()
    assert quantize(data, "--vision", "w8a8") == 2
    assert "is already there" in capsys.readouterr().err


def test_data_without_pictures_cannot_calibrate_the_tower(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "nothing"}]
    data.write_text(json.dumps({"id": "0", "conversations": turns}) + "\n")
    assert quantize(data, "--vision", "w8a8") == 2
    assert "has a picture or a clip" in capsys.readouterr().err
    assert quantize(data, "--language", "w4a16") == 2
    assert "belongs to a run with another" in capsys.readouterr().err
