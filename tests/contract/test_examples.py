"""The commands of docs/examples are run as they stand there, in order, with fewer samples and steps.

Full sizes and what they give are in the guides; here what must hold at any size is asserted: every command ends well,
held-out answers get no worse, and what is merged and quantised answers.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "src" / "nvila" / "assets" / "nvila-mini"
GUIDES = sorted((ROOT / "docs" / "examples").glob("*.md"))
SHORT = {
    "documents.md": {
        "--train 300 --heldout 60": "--train 24 --heldout 6",
        "--max-tiles 4 --lr 1e-3 --epochs 2": "--max-tiles 1 --lr 3e-3 --batch 4 --epochs 2",
        "--samples 64": "--samples 4 --rounding nearest",
    },
    "comparison.md": {
        "--train 1200 --heldout 200": "--train 32 --heldout 8",
        "--lr 1e-3 --epochs 2 --eval-every 50": "--lr 3e-3 --epochs 3 --batch 4",
    },
}
"""What is changed in a guide's commands, by documented options alone."""


def commands(guide: Path) -> list[str]:
    """The guide's command lines, each of which stands on one line."""
    blocks = re.findall(r"^```bash example\n(.*?)^```$", guide.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def shortened(guide: Path) -> list[str]:
    lines = commands(guide)
    for words, shorter in SHORT[guide.name].items():
        assert any(words in line for line in lines), f"{guide.name} has no {words!r} any more"
        lines = [line.replace(words, shorter) for line in lines]
    return lines


def test_every_block_of_commands_is_run() -> None:
    assert {guide.name for guide in GUIDES} == SHORT.keys()
    for guide in GUIDES:
        opened = re.findall(r"^```(\w.*)$", guide.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(opened) == {"bash example", "json"}


def test_the_records_that_are_shown_are_those_that_are_written(tmp_path: Path) -> None:
    for guide, script, file in zip(
        ("documents.md", "comparison.md"), ("make_forms", "make_pairs"), ("train.json", "train.jsonl"), strict=True
    ):
        command = [sys.executable, ROOT / "examples" / f"{script}.py", tmp_path, "--train", "3", "--heldout", "1"]
        subprocess.run(command, check=True)
        text = (tmp_path / file).read_text(encoding="utf-8")
        records = json.loads(text) if file.endswith(".json") else [json.loads(line) for line in text.splitlines()]
        (shown,) = re.findall(r"^```json\n(.*?)^```$", (ROOT / "docs/examples" / guide).read_text(), re.M | re.S)
        (record,) = [record for record in records if record["id"] == json.loads(shown)["id"]]
        assert record.keys() == json.loads(shown).keys()
        assert _head(record) == _head(json.loads(shown))


def _head(record: dict[str, object]) -> str:
    """A record but for turns that the guide leaves out."""
    turns = record.get("conversations", record.get("messages"))
    assert isinstance(turns, list)
    return json.dumps([record.get("image"), turns[:4]])


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_a_guide_works_from_its_first_command_to_its_last(guide: Path, tmp_path: Path) -> None:
    if not (MODEL / "config.json").is_file():
        pytest.skip(f"EXAMPLE NOT CHECKED: the embedded model is missing at {MODEL.relative_to(ROOT)}")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    told = {line: _run(line, tmp_path) for line in shortened(guide)}
    assert all(text for line, text in told.items() if "nvila ask" in line), "an answer is empty"
    assert all(text.endswith("no problems\n") for line, text in told.items() if "data check" in line)
    (run,) = tmp_path.glob("work/*-run")
    scores = json.loads((run / "finetune" / "scores.json").read_text(encoding="utf-8"))
    assert max(score["exact"] for score in scores[1:]) >= scores[0]["exact"]
    assert min(score["loss"] for score in scores[1:]) < 0.7 * scores[0]["loss"]
    kept = json.loads((run / "adapter" / "nvila_adapter.json").read_text(encoding="utf-8"))["scores"]
    assert kept["exact"] == max(score["exact"] for score in scores[1:])


def _run(line: str, folder: Path) -> str:
    """What a command says on standard output."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{line}\n{result.stderr}"
    assert "Traceback" not in result.stderr
    return result.stdout
