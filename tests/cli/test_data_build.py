"""`nvila data fetch`, `build`, `show`, `stats` from the command line: output, files, errors and their exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from tests.data.build.stand_in import StandIn

from nvila.cli.data_build import add_build_commands
from nvila.data.build import families
from nvila.errors import ConfigError, DataError

PLAN = "shard_size = 3\n[families.photos]\ntrain = 6\nheldout = 2\nskip_units = ['*-03']\n"


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A plan whose only family, `photos`, is the stand-in."""
    stand_in = StandIn(name="photos")
    monkeypatch.setattr(families, "family_named", lambda name: stand_in)
    monkeypatch.setenv("NVILA_BUILD", str(tmp_path / "cache"))
    path = tmp_path / "tiny.toml"
    path.write_text(PLAN)
    return str(path)


def run(*arguments: object) -> None:
    app = typer.Typer()
    add_build_commands(app)
    app([str(argument) for argument in arguments], standalone_mode=False)


def test_from_packages_to_a_page(plan: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("fetch", plan, "--list")
    assert "0 packages, 0 MB" in capsys.readouterr().out
    assert not (tmp_path / "cache").exists(), "--list only lists"
    run("fetch", plan)
    assert "prepared photos; 0 of 1 families were there" in capsys.readouterr().out
    run("build", plan, "--out", tmp_path / "out", "--workers", 0)
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.splitlines()[-1] == str(tmp_path / "out")
    assert shown.out.splitlines()[1].split()[2:4] == ["8", "16"]
    assert sorted(path.name for path in (tmp_path / "out/train").iterdir()) == [
        "photos-000000.tar",
        "photos-000001.tar",
    ]
    run("show", tmp_path / "out/train", "--out", tmp_path / "page.html", "--num", 4)
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}\n"
    assert (tmp_path / "page.html").read_text().count("<article>") == 4
    run("stats", tmp_path / "out/train", "--json", tmp_path / "s.json", "--plot", tmp_path / "s.png")
    assert "6 samples" in capsys.readouterr().out
    assert json.loads((tmp_path / "s.json").read_text())["sources"]["photos"]["answers"] == 12
    assert (tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"


def test_scale_split_and_seed(plan: str, tmp_path: Path) -> None:
    run("fetch", plan)
    run("build", plan, "--out", tmp_path / "half", "--workers", 0, "--scale", 0.5, "--split", "heldout")
    manifest = json.loads((tmp_path / "half/manifest.json").read_text())
    assert [shard["path"] for shard in manifest["shards"]] == ["heldout/photos-000000.tar"]
    assert manifest["total"]["samples"] == 1


def test_wrong_options_are_errors(plan: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--split is 'test'; give train, heldout or both"):
        run("build", plan, "--out", tmp_path / "out", "--split", "test")
    with pytest.raises(ConfigError, match="did you mean 'photos'"):
        run("fetch", plan, "--families", "photo")
    with pytest.raises(DataError, match="nvila data fetch --families photos"):
        run("build", plan, "--out", tmp_path / "out", "--workers", 0)
    assert not (tmp_path / "out").exists()
