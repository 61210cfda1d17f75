"""`nvila prune select` and `nvila prune report`: what they print and write, and how options reach the selection."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.pruning.score.little import write_pair
from tests.pruning.select_helpers import ids_of, row, write_scores

pytest.importorskip("duckdb", reason="selecting needs duckdb")

from nvila import config
from nvila.cli import data
from nvila.cli.prune import app
from nvila.data.mixture import Mixture, MixtureConfig
from nvila.errors import ConfigError, DataError

GUIDE = Path(__file__).parents[2] / "docs" / "pruning.md"


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    rows = [row(f"a{number}", "a", float(number)) for number in range(4)]
    rows += [row(f"b{number}", "b", 10.0 + number, num_tokens=3) for number in range(4)]
    rows.append(row("b-lost", "b", None, status="broken_media"))
    return write_scores(tmp_path / "scores", rows)


def run(*arguments: Any) -> None:
    app([str(argument) for argument in arguments], standalone_mode=False)


def test_a_table_says_what_was_kept_and_where_the_mixture_is(
    scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("select", scores, "--keep", 0.5, "--source", "b=0.25", "--out", tmp_path / "keep")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["a", "4", "2", "50.0%", "0", "50.0%", "2"]
    assert lines[2] == ["b", "5", "2", "40.0%", "1", "30.8%", "13"]
    assert lines[3] == ["all", "9", "4", "44.4%"]
    assert lines[4][-1] == str(tmp_path / "keep" / "mixture.toml")
    assert ids_of(tmp_path / "keep" / "b.parquet") == ["b-lost", "b3"]


def test_global_ranking_and_dropping_what_has_no_score(scores: Path, tmp_path: Path) -> None:
    run("select", scores, "--global", "--unscored", "drop", "--out", tmp_path / "keep")
    assert ids_of(tmp_path / "keep" / "all.parquet") == ["b0", "b1", "b2", "b3"]


def test_a_folder_that_is_there_is_replaced_only_when_asked(scores: Path, tmp_path: Path) -> None:
    run("select", scores, "--out", tmp_path / "keep")
    with pytest.raises(ConfigError, match="--overwrite"):
        run("select", scores, "--keep", 1, "--out", tmp_path / "keep")
    run("select", scores, "--keep", 1, "--per-source", "--overwrite", "--out", tmp_path / "keep")
    assert len(ids_of(tmp_path / "keep" / "all.parquet")) == 9


def test_a_method_that_was_not_scored_is_an_error(scores: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"by 'coverage'.*there are: deltaloss"):
        run("select", scores, "--method", "coverage", "--out", tmp_path / "keep")


def test_control_characters_of_names_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = write_scores(tmp_path / "scores", [row("x", "\x1b[2Jodd"), row("y", "\x1b[2Jodd")])
    run("select", scores, "--out", tmp_path / "keep")
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "?[2Jodd" in printed


def test_the_report_prints_the_files_it_wrote(scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="reports need matplotlib")
    run("report", scores, "--examples", 0, "--out", tmp_path / "report.html")
    files = [tmp_path / "report.html", tmp_path / "report.png"]
    assert capsys.readouterr().out.split() == [str(file) for file in files]
    assert all(file.stat().st_size > 1000 for file in files)


def test_the_guide_leads_from_a_json_to_a_mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="reports need matplotlib")
    monkeypatch.setenv("NVILA_INDEX", str(tmp_path / "index"))
    monkeypatch.chdir(tmp_path)
    write_pair(tmp_path)
    (tmp_path / "pictures").mkdir()
    records = []
    for number in range(6):
        Image.new("RGB", (30, 30), (40 * number, 90, 90)).save(tmp_path / "pictures" / f"{number}.jpg")
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": f"It is {number}."}]
        records.append({"id": str(number), "image": f"{number}.jpg", "conversations": turns})
    (tmp_path / "my.json").write_text(json.dumps(records))
    blocks = re.findall(r"```bash\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    commands = [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]
    assert [command[:2] for command in commands] == [
        ["data", "check"],
        ["prune", "score"],
        ["prune", "score"],
        ["prune", "report"],
        ["prune", "select"],
    ]
    for verb, *arguments in commands:
        (app if verb == "prune" else data.app)(arguments, standalone_mode=False)
    mixture = Mixture.open(config.load(MixtureConfig, tmp_path / "keep" / "mixture.toml"))
    assert mixture.sizes == (3,)
    assert "data:image/jpeg" in (tmp_path / "report.html").read_text(encoding="utf-8")
