"""The example of docs/engine.md runs as it stands, on the embedded model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.media_files import noise

from nvila.engine import Completion


def test_the_example_runs(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (root / "docs" / "engine.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert example is not None
    noise(80, 60).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(example.group(1), names)
    answers = names["answers"]
    assert isinstance(answers, list)
    assert len(answers) == 4
    assert all(isinstance(answer, Completion) and answer.text == answers[0].text for answer in answers)
    assert answers[0].text in capsys.readouterr().out
