"""`nvila prune score`: what it prints, what it refuses, and its place among the processes of torchrun."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.pruning.score.little import mixed_records, write_pair, write_records

from nvila.cli.prune import app
from nvila.errors import ConfigError, DataError
from nvila.pruning.scores import finished_parts, read_manifest


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NVILA_INDEX", str(tmp_path / "index"))
    return write_records(tmp_path / "shop.jsonl", mixed_records(10))


def run(*arguments: Any) -> None:
    app(["score", *map(str, arguments)], standalone_mode=False)


def test_two_models_to_a_folder_of_scores(
    data: Path, pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (data, "--large", pair[0], "--small", pair[1], "--out", tmp_path / "scores", "--dtype", "float32")
    run(*arguments, "--device", "cpu", "--batch-tokens", 300)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" in ")[0] for line in lines[:2]] == ["large: 10 samples", "small: 10 samples"]
    assert all(line.endswith("samples/s") for line in lines[:2])
    folder = tmp_path / "scores" / "deltaloss"
    assert lines[2:] == [f"{folder}: 10 of 10 samples: 10 ok"]
    assert read_manifest(folder).complete
    run(*arguments, "--device", "cpu")
    assert capsys.readouterr().out.splitlines() == lines[2:], "another budget goes on, and nothing is left to score"


def test_torchrun_gives_each_process_its_chunks(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (data, "--criterion", "random", "--out", tmp_path / "s", "--chunk-samples", 3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    run(*arguments)
    assert set(finished_parts(tmp_path / "s" / "random")) == {1, 3}
    assert capsys.readouterr().out.splitlines()[-1] == "not complete: other shards are still to come"
    monkeypatch.setenv("RANK", "0")
    run(*arguments)
    assert read_manifest(tmp_path / "s" / "random").complete


def test_a_shard_by_hand(data: Path, tmp_path: Path) -> None:
    run(data, "--criterion", "random", "--out", tmp_path / "s", "--chunk-samples", 3, "--shard", "2/3")
    assert [path.name for path in finished_parts(tmp_path / "s" / "random").values()] == ["part-00002-00002.parquet"]


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".jsonl", '{"image": "0.png", "caption": "A cat."}\n'),
        (".json", '[{"images": ["0.png"], "messages": [{"role": "user", "content": "<image>q"}, '
                  '{"role": "assistant", "content": "a"}]}]'),
        (".jsonl", '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'),
        (".jsonl", '{"text_list": ["A.", "B."], "image_info": [{"image_name": "0.png", "matched_text_index": 1}]}\n'),
    ],
    ids=["caption", "swift", "openai", "interleaved"],
)  # fmt: skip
def test_data_of_other_formats(suffix: str, text: str, data: Path, pair: tuple[str, str], tmp_path: Path) -> None:
    other = tmp_path / f"other{suffix}"
    other.write_text(text)
    (tmp_path / "0.png").write_bytes((tmp_path / "1.png").read_bytes())
    run(other, "--large", pair[0], "--small", pair[1], "--out", tmp_path / "s", "--device", "cpu", "--max-broken", 0)
    manifest = json.loads((tmp_path / "s" / "deltaloss" / "manifest.json").read_text())
    assert manifest["complete"]
    assert manifest["sources"] == [
        {"name": "other", "path": str(other), "num_samples": 1, "format": None, "media_root": None}
    ]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--large", "x"], ConfigError, "the criterion deltaloss needs --small"),
        (["--criterion", "randon"], ConfigError, "criterion is 'randon'; known are deltaloss"),
        (["--criterion", "random", "--clusters", "3"], ConfigError, "the criterion random takes no --clusters"),
        (["--criterion", "cluster", "--small", "x"], ConfigError, "the criterion cluster takes no --small"),
        (["--criterion", "random", "--shard", "3/2"], ConfigError, "shard 3/2 is none"),
        (["--criterion", "random", "--max-broken", "2"], ConfigError, "max_broken is 2.0"),
    ],
)
def test_what_does_not_go_together(
    arguments: list[str], error: type[Exception], message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        run(data, "--out", tmp_path / "s", *arguments)
    assert not (tmp_path / "s").exists()


def test_data_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl"):
        run(tmp_path / "none.jsonl", "--criterion", "random", "--out", tmp_path / "s")
