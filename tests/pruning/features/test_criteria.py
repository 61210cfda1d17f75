"""Scores by features from end to end on tiny models: clusters found, draws, statuses, stopping and going on, shards."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

pytest.importorskip("sklearn", reason="clustering needs scikit-learn")

from tests import tiny
from tests.pruning.score.little import write_llava

from nvila.errors import CheckpointError, ConfigError, DataError
from nvila.pruning.features import FeatureOptions, score_by_features
from nvila.pruning.score.criteria import score
from nvila.pruning.score.options import DataOptions, RunOptions, ScoreOptions, Shard
from nvila.pruning.scores import finished_parts, read_manifest

RUN = RunOptions(dtype="float32", device="cpu", max_broken=0.9)
COLOURS = ((250, 0, 0), (0, 0, 250), (0, 250, 0))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny.write_checkpoint(folder, "hf", image_mode="resize")
    return str(folder)


def write_data(folder: Path, *, order: Sequence[int] | None = None) -> str:
    """12 samples: 4 of each colour, one without a picture, one whose picture is missing, at random in `order`."""
    folder.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    for number in range(12):
        red, green, blue = COLOURS[number % 3]
        name = f"{number}.png"
        Image.new("RGB", (20, 20), (max(0, red - number), green, blue)).save(folder / name)
        records.append(
            talk(f"s{number}", f"<image>\nWhat colour is {number}?", ("red", "blue", "green")[number % 3], name)
        )
    records += [talk("text", "Say yes.", "yes", None), talk("lost", "<image>\nWhat?", "x", "none.png")]
    path = folder / "data.json"
    path.write_text(json.dumps([records[index] for index in order or range(len(records))]))
    return str(path)


def talk(id: str, question: str, answer: str, image: str | None) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": id, "conversations": turns, **({"image": image} if image else {})}


def options(data: str, model: str, **others: Any) -> FeatureOptions:
    return FeatureOptions(data=DataOptions(data=data, chunk_samples=5), model=model, run=RUN, **others)


def rows(root: Path, criterion: str = "cluster") -> dict[str, dict[str, Any]]:
    """The rows of finished scores by id."""
    tables = [pq.read_table(path) for path in finished_parts(root / criterion).values()]
    return {row["id"]: row for table in tables for row in table.to_pylist()}


def test_pictures_of_a_kind_share_a_cluster_and_the_draw_is_even(tmp_path: Path, model: str) -> None:
    report = score_by_features(tmp_path / "s", options(write_data(tmp_path), model, clusters=3))
    found = rows(tmp_path / "s")
    groups = [{found[f"s{number}"]["cluster"] for number in range(colour, 12, 3)} for colour in range(3)]
    assert sorted(len(group) for group in groups) == [1, 1, 1]
    assert len(set.union(*groups)) == 3
    ranked = sorted((row for row in found.values() if row["score"] is not None), key=lambda row: -row["score"])
    assert {row["cluster"] for row in ranked[:3]} == {0, 1, 2}
    assert {row["cluster"] for row in ranked[3:6]} == {0, 1, 2}
    assert report.is_complete
    assert report.by_status == {"ok": 12, "no_media": 1, "broken_media": 1}
    assert (found["text"]["score"], found["lost"]["status"]) == (None, "broken_media")
    assert read_manifest(tmp_path / "s" / "cluster").complete


def test_scores_do_not_depend_on_the_order_of_the_data(tmp_path: Path, model: str) -> None:
    shuffled = random.Random(4).sample(range(14), 14)
    score_by_features(tmp_path / "one", options(write_data(tmp_path / "a"), model, clusters=3))
    score_by_features(tmp_path / "two", options(write_data(tmp_path / "b", order=shuffled), model, clusters=3))
    one, two = ({id: row["score"] for id, row in rows(tmp_path / name).items()} for name in ("one", "two"))
    assert one == pytest.approx(two)


def test_a_stopped_run_goes_on_and_computes_no_features_twice(tmp_path: Path, model: str) -> None:
    data = write_data(tmp_path)

    def stop(name: str, done: int, total: int) -> None:
        if name == "features" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_by_features(tmp_path / "s", options(data, model), on_progress=stop)
    parts = finished_parts(tmp_path / "s" / "cluster" / "features")
    before = {chunk: path.stat().st_mtime_ns for chunk, path in parts.items()}
    assert list(before) == [0]
    assert finished_parts(tmp_path / "s" / "cluster") == {}
    score_by_features(tmp_path / "s", options(data, model))
    assert parts[0].stat().st_mtime_ns == before[0]
    score_by_features(tmp_path / "whole", options(data, model))
    assert rows(tmp_path / "s") == rows(tmp_path / "whole")


def test_shards_give_what_one_process_gives(tmp_path: Path, model: str) -> None:
    data = write_data(tmp_path)
    first = score_by_features(tmp_path / "s", options(data, model, shard=Shard(index=1, count=2)))
    assert not first.is_complete
    assert finished_parts(tmp_path / "s" / "cluster") == {}
    score_by_features(tmp_path / "s", options(data, model, shard=Shard(index=0, count=2)))
    score_by_features(tmp_path / "whole", options(data, model))
    assert rows(tmp_path / "s") == rows(tmp_path / "whole")


def test_coverage_ranks_by_gain_within_clusters_of_the_decoders_states(tmp_path: Path, model: str) -> None:
    data = write_data(tmp_path)
    told = DataOptions(data=data, chunk_samples=7)
    score(tmp_path / "s", ScoreOptions(data=told, criterion="image_gain", model=model, run=RUN))
    report = score_by_features(tmp_path / "s", options(data, model, criterion="coverage", clusters=2))
    found, gains = rows(tmp_path / "s", "coverage"), rows(tmp_path / "s", "image_gain")
    assert report.by_status == {"ok": 13, "broken_media": 1}
    assert found["text"]["score"] is not None
    assert found["text"]["gain_mean"] is None
    assert found["s1"]["gain_mean"] == gains["s1"]["gain_mean"]
    assert found["s1"]["num_tokens"] == gains["s1"]["num_tokens"]
    helped = [row["score"] for row in found.values() if (row["gain_mean"] or 0) > 0]
    useless = [row["score"] for row in found.values() if row["gain_mean"] is not None and row["gain_mean"] <= 0]
    assert not helped or not useless or max(useless) < min(helped)
    for cluster in (0, 1):
        own = sorted((row for row in found.values() if row["cluster"] == cluster), key=lambda row: row["place"])
        known = [row["gain_mean"] for row in own if row["gain_mean"] is not None]
        assert known == sorted(known, reverse=True)


def test_coverage_reads_the_states_of_models_that_are_not_ours(tmp_path: Path) -> None:
    model = str(write_llava(tmp_path / "llava"))
    data = write_data(tmp_path / "data")
    told = DataOptions(data=data, chunk_samples=14)
    score(tmp_path / "s", ScoreOptions(data=told, criterion="image_gain", model=model, run=RUN))
    report = score_by_features(tmp_path / "s", options(data, model, criterion="coverage", clusters=2))
    assert report.by_status == {"ok": 13, "broken_media": 1}
    parts = finished_parts(tmp_path / "s" / "coverage" / "features")
    features = {row["id"]: row["feature"] for path in parts.values() for row in pq.read_table(path).to_pylist()}
    assert features["s0"] != features["s1"]
    assert sum(value**2 for value in features["s0"]) == pytest.approx(3.0, abs=0.02)


def test_coverage_needs_the_image_gain_of_the_same_data(tmp_path: Path, model: str) -> None:
    data = write_data(tmp_path)
    with pytest.raises(DataError, match="holds no scores"):
        score_by_features(tmp_path / "s", options(data, model, criterion="coverage"))
    other = write_data(tmp_path / "other")
    score(tmp_path / "s", ScoreOptions(data=DataOptions(data=other), criterion="image_gain", model=model, run=RUN))
    with pytest.raises(DataError, match="other data"):
        score_by_features(tmp_path / "s", options(data, model, criterion="coverage"))


def test_a_siglip_of_its_own_gives_features_too(tmp_path: Path) -> None:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    settings = {key: value for key, value in tiny.VISION.items() if key != "vision_use_head"}
    SiglipVisionModel(SiglipVisionConfig(**settings)).save_pretrained(tmp_path / "siglip")
    report = score_by_features(tmp_path / "s", options(write_data(tmp_path), str(tmp_path / "siglip")))
    assert report.by_status["ok"] == 12
    features = pq.read_table(next(iter(finished_parts(tmp_path / "s" / "cluster" / "features").values())))
    assert len(features["feature"][0].as_py()) == 32


def test_what_is_no_vision_tower_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model" / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    with pytest.raises(CheckpointError, match="'bert'"):
        score_by_features(tmp_path / "s", options(write_data(tmp_path), str(tmp_path / "model")))


def test_options_out_of_range_are_refused() -> None:
    data = DataOptions(data="x")
    for wrong in ({"criterion": "clusters"}, {"clusters": 0}, {"batch_images": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            FeatureOptions(data=data, **wrong)  # type: ignore[arg-type]
    assert FeatureOptions(data=data).num_clusters(640_000) == 4096
    assert FeatureOptions(data=data).num_clusters(6400) == 100
    assert FeatureOptions(data=data).num_clusters(3) == 3


def test_reading_processes_change_nothing(tmp_path: Path, model: str) -> None:
    data = write_data(tmp_path)
    wanted = dataclasses.replace(options(data, model), run=dataclasses.replace(RUN, workers=1))
    score_by_features(tmp_path / "ahead", wanted)
    score_by_features(tmp_path / "here", options(data, model))
    assert rows(tmp_path / "ahead") == rows(tmp_path / "here")
