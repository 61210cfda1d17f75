"""A pass over a Ray cluster of two workers on this machine."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
from tests.pruning.score.little import mixed_records, record, write_records

from nvila.errors import ConfigError, DataError
from nvila.pruning.score.criteria import score
from nvila.pruning.score.options import DataOptions, RunOptions, ScoreOptions
from nvila.pruning.scores import finished_parts, read_manifest

RUN = RunOptions(dtype="float32", device="cpu")


def options(data: Path, pair: tuple[str, str], **changes: Any) -> ScoreOptions:
    kept = DataOptions(data=str(data), chunk_samples=4)
    return ScoreOptions(data=kept, **{"large": pair[0], "small": pair[1], "run": RUN, **changes})


@pytest.fixture(scope="module")
def cluster() -> Any:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield ray
    ray.shutdown()


def test_two_workers_score_what_one_process_does(
    cluster: Any, data: Path, pair: tuple[str, str], tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    def tables(folder: Path) -> list[Any]:
        return [pq.read_table(path).to_pylist() for path in finished_parts(folder).values()]

    alone = score(tmp_path / "alone", options(data, pair))
    finished_parts(alone.folder)[1].unlink()
    told: list[int] = []
    report = score(
        tmp_path / "ray", options(data, pair, ray=2), on_progress=lambda name, done, total: told.append(done)
    )
    score(tmp_path / "alone", options(data, pair))
    assert tables(report.folder) == tables(alone.folder)
    assert read_manifest(report.folder).complete
    assert [one.num_samples for one in report.passes] == [20, 20]
    assert told.count(20) >= 2, "the end of each pass is told"
    again = score(tmp_path / "ray", options(data, pair, ray=2))
    assert again.passes == (), "nothing is scored twice"


def test_what_stops_a_worker_is_told_as_it_is(cluster: Any, pair: tuple[str, str], tmp_path: Path) -> None:
    data = write_records(tmp_path / "d.jsonl", [record(f"r{n}", image="missing.png") for n in range(4)])
    with pytest.raises(DataError, match="4 of 4 samples are broken"):
        score(tmp_path / "s", options(data, pair, ray=2))
    run = dataclasses.replace(RUN, max_broken=1.0)
    assert score(tmp_path / "s", options(data, pair, ray=2, run=run)).by_status == {"broken_media": 4}


def test_without_ray_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[str, str], tmp_path: Path
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    data = write_records(tmp_path / "d.jsonl", mixed_records(4))
    with pytest.raises(ConfigError, match=r'pip install "nvila\[ray\]"'):
        score(tmp_path / "s", options(data, pair, ray=2))
