"""From data and models to scores: what each criterion computes, what gets no score, and going on after a stop."""

from __future__ import annotations

import dataclasses
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from tests.pruning.score.little import mixed_records, record, write_llava, write_records

from nvila.errors import ConfigError, DataError
from nvila.pruning.score.criteria import ScoreReport, joined, random_score, score
from nvila.pruning.score.data import Corpus, without_media
from nvila.pruning.score.models import load_scorer
from nvila.pruning.score.options import DataOptions, RunOptions, ScoreOptions, Shard
from nvila.pruning.scores import find_criterion, finished_parts, read_manifest

RUN = RunOptions(dtype="float32", device="cpu")


def options(data: Path, pair: tuple[str, str], **changes: Any) -> ScoreOptions:
    kept = DataOptions(data=str(data), chunk_samples=changes.pop("chunk_samples", 4))
    return ScoreOptions(data=kept, **{"large": pair[0], "small": pair[1], "run": RUN, **changes})


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of all parts by id, none of which may come twice."""
    rows = [row for path in finished_parts(folder).values() for row in pq.read_table(path).to_pylist()]
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.fixture(scope="module")
def whole(pair: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The rows of the twenty records, scored in one go."""
    folder = tmp_path_factory.mktemp("whole")
    data = write_records(folder / "shop.jsonl", mixed_records())
    return rows_of(score(folder / "scores", options(data, pair)).folder)


def log_p_of(model: str, data: Path, *, sees_media: bool = True) -> dict[str, float]:
    """Each sample alone."""
    scorer, corpus = load_scorer(model, RUN), Corpus(DataOptions(data=str(data)))
    found = {}
    for number in range(len(corpus)):
        sample = corpus.read(number).sample
        assert sample is not None
        (batch,) = scorer.encoder.prepare([(0, sample if sees_media else without_media(sample))]).ready
        found[sample.id] = scorer.log_p(batch)[0].log_p
    return found


def test_delta_loss_is_the_difference_of_both_models(data: Path, pair: tuple[str, str], tmp_path: Path) -> None:
    report = score(tmp_path / "scores", options(data, pair))
    rows = rows_of(report.folder)
    large, small = log_p_of(pair[0], data), log_p_of(pair[1], data)
    assert set(rows) == set(large) == {f"r{number}" for number in range(20)}
    for identifier, row in rows.items():
        assert row["status"] == "ok"
        assert row["source"] == "shop"
        assert row["log_p_large"] == pytest.approx(large[identifier], abs=1e-4)
        assert row["log_p_small"] == pytest.approx(small[identifier], abs=1e-4)
        assert row["score"] == row["delta"] == row["log_p_large"] - row["log_p_small"]
        assert row["delta_mean"] == row["delta"] / row["num_tokens"]
    assert rows["r7"]["num_tokens"] == len("It is very very 7.") + 1
    manifest = read_manifest(report.folder)
    assert manifest.complete
    assert report.is_complete
    assert manifest.options["mean_per"] == "token"
    assert [(model.role, model.name) for model in manifest.models] == [("large", pair[0]), ("small", pair[1])]
    assert manifest.models[0].fingerprint != manifest.models[1].fingerprint


def test_image_gain_is_what_the_picture_adds(data: Path, pair: tuple[str, str], tmp_path: Path) -> None:
    wanted = options(data, pair, criterion="image_gain", large=None, small=None, model=pair[0])
    rows = rows_of(score(tmp_path / "scores", wanted).folder)
    seen, blind = log_p_of(pair[0], data), log_p_of(pair[0], data, sees_media=False)
    for number in range(20):
        row = rows[f"r{number}"]
        if number % 3 == 0:
            assert (row["status"], row["score"]) == ("no_media", None)
            continue
        assert row["log_p_with"] == pytest.approx(seen[f"r{number}"], abs=1e-4)
        assert row["log_p_without"] == pytest.approx(blind[f"r{number}"], abs=1e-4)
        assert row["score"] == row["gain"] == row["log_p_with"] - row["log_p_without"]
        assert abs(row["gain"]) > 1e-3


def test_random_follows_from_the_id_and_the_seed(data: Path, tmp_path: Path) -> None:
    def scored(out: str, seed: int) -> dict[str, float]:
        chosen = ScoreOptions(data=DataOptions(data=str(data), chunk_samples=3), criterion="random", seed=seed)
        return {name: row["score"] for name, row in rows_of(score(tmp_path / out, chosen).folder).items()}

    first = scored("a", 0)
    assert first == {f"r{number}": random_score(f"r{number}", 0) for number in range(20)}
    assert first != scored("b", 1)
    many = [random_score(str(number), 3) for number in range(4000)]
    assert 0.0 <= min(many) < 0.01
    assert 0.99 < max(many) < 1.0
    assert sum(many) / 4000 == pytest.approx(0.5, abs=0.02)


def test_the_sign_and_the_unit_of_the_mean() -> None:
    """A sample that only the large model finds likely scores above one that both do, and that above a distraction."""

    def row(log_p: float) -> dict[str, Any]:
        return {"id": "a", "source": "s", "status": "ok", "num_tokens": 4, "num_bytes": 10, "log_p": log_p}

    helpful, easy, distracting = (
        joined(row(large), row(small), "deltaloss", "token")["score"]
        for large, small in ((-1.0, -9.0), (-1.0, -1.0), (-9.0, -1.0))
    )
    assert helpful == 8.0 > easy == 0.0 > distracting == -8.0
    assert joined(row(-1.0), row(-9.0), "deltaloss", "token")["delta_mean"] == 2.0
    assert joined(row(-1.0), row(-9.0), "deltaloss", "byte")["delta_mean"] == 0.8
    no_answer = {**row(0.0), "status": "too_long", "log_p": None}
    assert joined(row(-1.0), no_answer, "deltaloss", "token")["status"] == "too_long"
    assert "score" not in joined(no_answer, row(-1.0), "deltaloss", "token")


def test_models_of_different_tokenizers_have_means_by_the_byte(tmp_path: Path, pair: tuple[str, str]) -> None:
    """Sums are of the same text; a token of one model is another length than one of the other."""
    data = write_records(tmp_path / "d.jsonl", [record("a", "It is, it is."), record("b", "Été.", image="b.png")])
    other = write_llava(tmp_path / "llava", merges=(("I", "t"), ("i", "s")))
    report = score(tmp_path / "scores", options(data, (pair[0], str(other))))
    rows, manifest = rows_of(report.folder), read_manifest(report.folder)
    assert manifest.options["mean_per"] == "byte"
    assert rows["a"]["num_tokens"] == len("It is, it is.") + 1, "of the large model"
    assert rows["a"]["delta_mean"] == rows["a"]["delta"] / len("It is, it is.")
    assert rows["b"]["delta_mean"] == rows["b"]["delta"] / len("Été.".encode())
    alone = log_p_of(str(other), data)
    assert rows["a"]["log_p_small"] == pytest.approx(alone["a"], abs=1e-4)
    assert rows["b"]["log_p_small"] == pytest.approx(alone["b"], abs=1e-4)


def test_every_sample_gets_its_row_and_a_reason(tmp_path: Path, pair: tuple[str, str]) -> None:
    unlearned = {
        "id": "quiet",
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "loss": False}],
    }
    records = [
        record("good"), record("gone", image="missing.png"), record("empty", ""), unlearned,
        record("long", "x" * 600), {"id": "odd", "what": 1}, record("cut", image="cut.png"), record("last"),
    ]  # fmt: skip
    data = write_records(tmp_path / "d.jsonl", records)
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:300])
    run = dataclasses.replace(RUN, max_broken=1.0)
    told: dict[str, int] = {}
    report = score(
        tmp_path / "scores",
        options(data, pair, run=run),
        on_progress=lambda name, done, total: told.update({name: done}),
    )
    assert told == {"large": 8, "small": 8, "scores": 8}
    rows = list(rows_of(report.folder).values())
    wanted = ["ok", "broken_media", "no_answer", "no_answer", "too_long", "unreadable", "broken_media", "ok"]
    assert [row["status"] for row in rows] == wanted
    assert [row["score"] is None for row in rows] == [status != "ok" for status in wanted]
    assert [row["id"] for row in rows] == [
        "good", "gone", "empty", "quiet", "long", "odd", "cut", "last",
    ]  # fmt: skip
    assert report.by_status == {"ok": 2, "broken_media": 2, "no_answer": 2, "too_long": 1, "unreadable": 1}
    path = finished_parts(report.folder / "large")[0]
    reasons = pq.read_table(path)["reason"].to_pylist()
    assert reasons[0] is None
    assert "missing.png: no such file" in reasons[1]


def test_too_many_broken_samples_stop_the_run_each_time(tmp_path: Path, pair: tuple[str, str]) -> None:
    """At the end of the small set; raising the limit goes on with what is scored."""
    records = [record(f"r{number}", image="missing.png" if number == 2 else None) for number in range(10)]
    wanted = options(write_records(tmp_path / "d.jsonl", records), pair)
    for _ in range(2):
        with pytest.raises(DataError, match=r"1 of 10 samples are broken, over the share of 0.05; .*missing\.png"):
            score(tmp_path / "scores", wanted)
    assert finished_parts(tmp_path / "scores" / "deltaloss") == {}
    report = score(tmp_path / "scores", dataclasses.replace(wanted, run=dataclasses.replace(RUN, max_broken=0.1)))
    assert report.is_complete
    assert [one.name for one in report.passes] == ["small"]


def test_a_large_set_is_stopped_before_its_end(tmp_path: Path, pair: tuple[str, str]) -> None:
    records = [record(f"r{number}", image="missing.png" if number % 2 else None) for number in range(300)]
    wanted = options(write_records(tmp_path / "d.jsonl", records), pair, chunk_samples=30)
    with pytest.raises(DataError, match="60 of 120 samples are broken"):
        score(tmp_path / "scores", wanted)


def test_re_ordering_the_data_changes_no_row(data: Path, pair: tuple[str, str], tmp_path: Path) -> None:
    """Also of records without an id of their own, which get one from their content."""
    records = mixed_records()
    for one in records[::2]:
        del one["id"]
    write_records(data, records)
    first = rows_of(score(tmp_path / "a", options(data, pair)).folder)
    random.Random(0).shuffle(records)
    write_records(data, records)
    second = rows_of(score(tmp_path / "b", options(data, pair, chunk_samples=7)).folder)
    assert set(first) == set(second)
    for identifier, row in first.items():
        assert second[identifier]["score"] == pytest.approx(row["score"], abs=1e-4)


def test_shards_share_out_the_chunks_whatever_their_number(
    data: Path, pair: tuple[str, str], whole: dict[str, Any], tmp_path: Path
) -> None:
    first = score(tmp_path / "parts", options(data, pair, shard=Shard(index=0, count=3)))
    assert not first.is_complete
    assert set(finished_parts(first.folder)) == {0, 3}
    assert sum(first.by_status.values()) == 8
    score(tmp_path / "parts", options(data, pair, shard=Shard(index=2, count=3)))
    last = score(tmp_path / "parts", options(data, pair))
    assert [one.num_samples for one in last.passes] == [8, 8], "only what no shard had done"
    assert last.is_complete
    assert rows_of(last.folder) == whole


class Stop(Exception):
    """A stop at some moment."""


@pytest.mark.parametrize("calls", [2, 7, 9, 14])
def test_going_on_after_a_stop_scores_nothing_twice(
    calls: int, data: Path, pair: tuple[str, str], whole: dict[str, Any], tmp_path: Path
) -> None:
    told = 0

    def stop(name: str, done: int, total: int) -> None:
        nonlocal told
        told += 1
        if told > calls:
            raise Stop

    with pytest.raises(Stop):
        score(tmp_path / "cut", options(data, pair), on_progress=stop)
    folder = tmp_path / "cut" / "deltaloss"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("part-*")}
    left = {name: 5 - len(finished_parts(folder / name)) for name in ("large", "small")}
    report = score(tmp_path / "cut", options(data, pair))
    assert {one.name: one.num_samples for one in report.passes} == {
        name: 4 * count for name, count in left.items() if count
    }
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert rows_of(folder) == whole
    assert score(tmp_path / "cut", options(data, pair)).passes == (), "all is done"


def test_going_on_after_a_kill(data: Path, pair: tuple[str, str], whole: dict[str, Any], tmp_path: Path) -> None:
    program = f"""
import time
from pathlib import Path
from nvila.pruning.score.criteria import score
from nvila.pruning.score.options import *
score(
    Path({str(tmp_path / "cut")!r}),
    ScoreOptions(
        data=DataOptions(data={str(data)!r}, chunk_samples=2), large={pair[0]!r}, small={pair[1]!r},
        run=RunOptions(dtype="float32", device="cpu"),
    ),
    on_progress=lambda name, done, total: time.sleep(0.2),
)
"""
    child = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    large = tmp_path / "cut" / "deltaloss" / "large"
    while len(finished_parts(large)) < 3:
        assert child.poll() is None, "the child ended before it could be killed"
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = {path: path.stat().st_mtime_ns for path in finished_parts(large).values()}
    assert 3 <= len(done) < 10
    report = score(tmp_path / "cut", options(data, pair, chunk_samples=2))
    assert [one.num_samples for one in report.passes] == [20 - 2 * len(done), 20]
    assert {path: path.stat().st_mtime_ns for path in done} == done
    found = rows_of(report.folder)
    assert {name: row["score"] for name, row in found.items()} == pytest.approx(
        {name: row["score"] for name, row in whole.items()}, abs=1e-4
    )


def test_other_models_or_data_do_not_go_on_with_scores(data: Path, pair: tuple[str, str], tmp_path: Path) -> None:
    score(tmp_path / "s", options(data, pair))
    with pytest.raises(ConfigError, match=r"holds scores with models\[0\].fingerprint = .* give another --out"):
        score(tmp_path / "s", options(data, (pair[1], pair[1])))
    with pytest.raises(ConfigError, match=r"options.dtype = 'float32', but 'bfloat16' is asked for"):
        score(tmp_path / "s", options(data, pair, run=RunOptions(dtype="bfloat16", device="cpu")))
    write_records(data, mixed_records(24))
    with pytest.raises(ConfigError, match=r"sources\[0\].num_samples = 20, but 24 is asked for"):
        score(tmp_path / "s", options(data, pair))


def test_data_that_changed_between_the_passes(data: Path, pair: tuple[str, str], tmp_path: Path) -> None:
    def stop(name: str, done: int, total: int) -> None:
        if name == "small":
            raise Stop

    with pytest.raises(Stop):
        score(tmp_path / "s", options(data, pair), on_progress=stop)
    write_records(data, mixed_records()[::-1])
    with pytest.raises(DataError, match="hold other samples; the data changed between the passes"):
        score(tmp_path / "s", options(data, pair))


def test_a_mixtures_sources_and_lists_hold(pair: tuple[str, str], tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", [record(f"a{number}") for number in range(4)])
    write_records(tmp_path / "b" / "b.jsonl", [record(f"b{number}", image=f"{number}.png") for number in range(5)])
    (tmp_path / "drop.txt").write_text("b1\nb3\n")
    (tmp_path / "m.toml").write_text(
        f'name = "m"\nroot = {json.dumps(str(tmp_path))}\n'
        '[[source]]\nname = "first"\npath = "a.jsonl"\nrepeat = 3.0\n'
        '[[source]]\nname = "second"\npath = "b/b.jsonl"\ndrop = "drop.txt"\n'
    )
    report = score(tmp_path / "s", options(tmp_path / "m.toml", pair))
    rows = rows_of(report.folder)
    assert {name: row["source"] for name, row in rows.items()} == {
        "a0": "first", "a1": "first", "a2": "first", "a3": "first", "b0": "second", "b2": "second", "b4": "second",
    }  # fmt: skip
    assert all(row["status"] == "ok" for row in rows.values())
    sources = read_manifest(report.folder).sources
    assert [(one.name, one.num_samples, one.path) for one in sources] == [
        ("first", 4, str(tmp_path / "a.jsonl")),
        ("second", 3, str(tmp_path / "b/b.jsonl")),
    ]


def test_reading_processes_change_nothing(
    data: Path, pair: tuple[str, str], whole: dict[str, Any], tmp_path: Path
) -> None:
    run = dataclasses.replace(RUN, workers=2)
    assert rows_of(score(tmp_path / "b", options(data, pair, run=run)).folder) == whole


def test_small_batches_give_the_same_scores(
    data: Path, pair: tuple[str, str], whole: dict[str, Any], tmp_path: Path
) -> None:
    run = dataclasses.replace(RUN, batch_tokens=1)
    for identifier, row in rows_of(score(tmp_path / "b", options(data, pair, run=run)).folder).items():
        assert row["score"] == pytest.approx(whole[identifier]["score"], abs=1e-4)


def test_scores_are_found_by_criterion(data: Path, tmp_path: Path) -> None:
    report: ScoreReport = score(tmp_path / "scores", ScoreOptions(data=DataOptions(data=str(data)), criterion="random"))
    assert find_criterion(tmp_path / "scores", "random") == find_criterion(report.folder, "random") == report.folder
    with pytest.raises(DataError, match=r"holds no scores by 'randon' .did you mean 'random'"):
        find_criterion(tmp_path / "scores", "randon")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"small": None}, "the criterion deltaloss needs --small"),
        ({"model": "x"}, "the criterion deltaloss takes no --model"),
        ({"criterion": "delta"}, "criterion is 'delta'; known are deltaloss, image_gain, random, cluster"),
        ({"ray": -1}, "ray is -1"),
        ({"ray": 2, "shard": Shard(index=0, count=2)}, "leave out --shard"),
    ],
)
def test_options_that_do_not_go_together(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        options(tmp_path, ("l", "s"), **changes)


@pytest.mark.parametrize("text", ["3", "a/b", "2/2", "-1/2", "1/0"])
def test_shards_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"give I/N|of the form I/N"):
        Shard.parse(text)


@pytest.mark.parametrize(("device", "given", "tokens"), [("cpu", None, 2048), ("cuda", None, 8192), ("cpu", 300, 300)])
def test_the_size_of_a_batch_goes_by_the_device(device: str, given: int | None, tokens: int) -> None:
    assert RunOptions(batch_tokens=given).tokens_of_batch(torch.device(device)) == tokens
