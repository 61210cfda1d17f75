"""The commands of README.md are run as they stand there.

The word after a block's language says how: `run`, `model` (needs the embedded model) or `shown` (not run, and only
for the few commands below, which are tested in other ways or need a network).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "src" / "nvila" / "assets" / "nvila-mini"
MAY_STAND_UNTESTED = ("git clone", "make demo", "make test", "pip install -e .", "nvila ask --model path/to/")


@dataclass(frozen=True, kw_only=True)
class Block:
    language: str
    mode: str
    text: str

    @property
    def title(self) -> str:
        return f"{self.language}-{self.mode}: {self.text.strip().splitlines()[0][:60]}"


def blocks() -> list[Block]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^```(bash|python)[ ]?(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [Block(language=language, mode=mode, text=body) for language, mode, body in found]


def test_every_block_says_how_it_is_tested() -> None:
    assert len(blocks()) >= 5
    assert {block.mode for block in blocks()} <= {"run", "model", "shown"}
    assert {block.language for block in blocks() if block.mode == "model"} == {"bash", "python"}


def test_only_known_commands_stand_untested() -> None:
    lines = [line for block in blocks() if block.mode == "shown" for line in block.text.splitlines()]
    assert [line for line in lines if not line.startswith(MAY_STAND_UNTESTED)] == []


@pytest.mark.parametrize("block", [block for block in blocks() if block.mode != "shown"], ids=lambda block: block.title)
def test_block_runs(block: Block) -> None:
    if block.mode == "model" and not (MODEL / "config.json").is_file():
        pytest.skip(f"README NOT CHECKED: the embedded model is missing at {MODEL.relative_to(ROOT)}")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    command = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
    result = subprocess.run(
        [*command, block.text], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=180
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() or "convert" in block.text
    assert "Traceback" not in result.stderr


def test_files_that_the_readme_names_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:src|docs|tests)/[\w./-]*\w", text)) | {"LICENSE", "CONTRIBUTING.md"}
    if not MODEL.is_dir():
        named = {name for name in named if "nvila-mini" not in name}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
