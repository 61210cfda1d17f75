"""Score, look and choose on a data set in each format, in the words of its documentation, and in each container."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.clip_files import write_stream
from tests.media_files import noise
from tests.pruning.score.little import write_pair

from nvila import config
from nvila.cli.prune import app
from nvila.data.formats import FORMATS
from nvila.data.mixture import Mixture, MixtureConfig

DOCUMENT = Path(__file__).parents[2] / "docs" / "data-formats.md"
RECORDS = dict(re.findall(r"^### `(\w+)`\n```json\n(.*?)\n```", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S))
NUM_RECORDS = 4

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the documentation's records name."""
    folder = tmp_path_factory.mktemp("media")
    for number, name in enumerate(("a.png", "b.png")):
        noise(60, 40, seed=number).save(folder / name)
    write_stream(folder / "v.mp4", num_frames=20)
    return folder


def score_look_choose(data: Path, out: Path, pair: tuple[str, str], *options: str) -> Mixture:
    """The three commands in a row; the mixture that they end with."""
    scores, keep = str(out / "scores"), out / "keep"
    models = ["--large", pair[0], "--small", pair[1], "--device", "cpu", "--max-broken", "0"]
    app(["score", str(data), *models, *options, "--out", scores], standalone_mode=False)
    app(["report", scores, "--examples", "1", "--out", str(out / "report.html")], standalone_mode=False)
    app(["select", scores, "--keep", "0.5", "--out", str(keep)], standalone_mode=False)
    return Mixture.open(config.load(MixtureConfig, keep / "mixture.toml"))


def write_lines(path: Path, records: Rows) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_list(path: Path, records: Rows) -> None:
    path.write_text(json.dumps(records), encoding="utf-8")


def write_parquet(path: Path, records: Rows) -> None:
    pq.write_table(pa.Table.from_pylist(records), path)


def write_arrow(path: Path, records: Rows) -> None:
    table = pa.Table.from_pylist(records)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)


def write_tar(path: Path, records: Rows) -> None:
    """WebDataset: a record and its picture under one key."""
    picture = (path.parent / "a.png").read_bytes()
    with tarfile.open(path, "w") as archive:
        for record in records:
            for suffix, content in (("json", json.dumps({**record, "image": "png"}).encode()), ("png", picture)):
                entry = tarfile.TarInfo(f"{record['id']}.{suffix}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))


def test_the_documentation_has_a_record_of_every_format() -> None:
    assert set(RECORDS) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_each_format(
    name: str, media: Path, pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVILA_INDEX", str(tmp_path / "index"))
    data = tmp_path / f"{name}.jsonl"
    write_lines(data, [{**json.loads(RECORDS[name]), "id": f"{name}-{number}"} for number in range(NUM_RECORDS)])
    mixture = score_look_choose(data, tmp_path, pair, "--format", name, "--media-root", str(media))
    assert mixture.sizes == (NUM_RECORDS // 2,)
    assert name in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        (".jsonl", write_lines),
        (".json", write_list),
        (".parquet", write_parquet),
        (".arrow", write_arrow),
        (".tar", write_tar),
    ],
)
def test_each_container(
    suffix: str,
    write: Callable[[Path, Rows], None],
    pair: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NVILA_INDEX", str(tmp_path / "index"))
    noise(60, 40).save(tmp_path / "a.png")
    data = tmp_path / f"shop{suffix}"
    write(data, [{**json.loads(RECORDS["caption"]), "id": str(number)} for number in range(NUM_RECORDS)])
    mixture = score_look_choose(data, tmp_path, pair)
    assert mixture.sizes == (NUM_RECORDS // 2,)
    assert "data:image/jpeg" in (tmp_path / "report.html").read_text(encoding="utf-8")
