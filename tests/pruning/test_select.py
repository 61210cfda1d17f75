"""Selecting: equation 1 against a plain sort, ties, sharding, unscored samples, and what mixtures make of the lists."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytest.importorskip("duckdb", reason="selecting needs duckdb")

from tests.pruning.select_helpers import Row, ids_of, row, write_scores

from nvila import config
from nvila.data.mixture import Mixture, MixtureConfig, MixtureStream, as_is
from nvila.errors import ConfigError, DataError, NVILAError
from nvila.pruning.scores import ScoredSource
from nvila.pruning.select import SelectOptions, select
from nvila.pruning.select.lists import file_names
from nvila.pruning.select.options import parse_ratios
from nvila.pruning.select.run import num_wanted

SOURCES = ("alpha", "beta", "gamma")


def random_rows(num: int, seed: int, *, levels: int | None = None) -> list[Row]:
    """Rows of three sources; `levels` limits the number of different scores, so that many are tied."""
    rng = random.Random(seed)
    scores = [rng.gauss(0, 3) if levels is None else float(rng.randrange(levels)) for _ in range(num)]
    rows = [row(f"id-{number:05d}", rng.choice(SOURCES), score) for number, score in enumerate(scores)]
    rng.shuffle(rows)
    return rows


def expected(rows: Sequence[Row], ratio: float, source: str) -> list[str]:
    """What equation 1 keeps of a source, by a plain sort."""
    own = sorted((one for one in rows if one["source"] == source), key=lambda one: (-one["score"], one["id"]))
    return sorted(one["id"] for one in own[: num_wanted(ratio, len(own))])


@pytest.mark.parametrize("levels", [None, 1, 5])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.97, 1.0])
def test_the_top_of_each_source_is_kept_and_ties_go_to_the_least_ids(
    tmp_path: Path, ratio: float, levels: int | None
) -> None:
    rows = random_rows(900, seed=3, levels=levels)
    select(write_scores(tmp_path / "s", rows), tmp_path / "keep", SelectOptions(keep=ratio))
    for source in SOURCES:
        assert ids_of(tmp_path / "keep" / f"{source}.parquet") == expected(rows, ratio, source)


def test_one_list_of_all_holds_the_lists_of_the_sources_one_after_the_other(tmp_path: Path) -> None:
    rows = random_rows(300, seed=5)
    select(write_scores(tmp_path / "s", rows), tmp_path / "keep", SelectOptions(keep=0.3))
    table = pq.read_table(tmp_path / "keep" / "all.parquet")
    assert table.column("id").to_pylist() == [one for source in SOURCES for one in expected(rows, 0.3, source)]
    assert table.column("source").to_pylist() == sorted(table.column("source").to_pylist())


def test_lists_do_not_depend_on_how_rows_are_spread_over_parts(tmp_path: Path) -> None:
    rows = random_rows(500, seed=8, levels=4)
    select(write_scores(tmp_path / "one", rows, num_parts=1), tmp_path / "first", SelectOptions(keep=0.4))
    shuffled = random.Random(1).sample(rows, len(rows))
    select(write_scores(tmp_path / "many", shuffled, num_parts=7), tmp_path / "second", SelectOptions(keep=0.4))
    for name in (*(f"{source}.parquet" for source in SOURCES), "all.parquet"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_scores_that_no_equal_steps_part_well_are_cut_exactly(tmp_path: Path) -> None:
    values = [-1e308, 1e308, 5e-324, 0.0, -5e-324, 1.0, 1.0 + 2**-52, 1e300, *(2.0**-power for power in range(300))]
    rows = [row(f"{number:03d}", "a", value) for number, value in enumerate(values)]
    root = write_scores(tmp_path / "s", rows)
    for ratio in (0.02, 0.5, 0.995):
        select(root, tmp_path / f"{ratio}", SelectOptions(keep=ratio))
        assert ids_of(tmp_path / f"{ratio}" / "a.parquet") == expected(rows, ratio, "a")


def test_ratios_per_source_take_the_place_of_the_common_one(tmp_path: Path) -> None:
    rows = random_rows(300, seed=2)
    options = SelectOptions(keep=0.5, ratios={"alpha": 0.1, "gamma": 0.0})
    chosen = select(write_scores(tmp_path / "s", rows), tmp_path / "keep", options)
    assert ids_of(tmp_path / "keep" / "alpha.parquet") == expected(rows, 0.1, "alpha")
    assert ids_of(tmp_path / "keep" / "beta.parquet") == expected(rows, 0.5, "beta")
    assert [source.file for source in chosen.sources] == ["alpha.parquet", "beta.parquet", None]
    assert not (tmp_path / "keep" / "gamma.parquet").exists()


@pytest.mark.parametrize("levels", [None, 3])
def test_one_ranking_of_all_sources(tmp_path: Path, levels: int | None) -> None:
    rows = random_rows(400, seed=6, levels=levels)
    select(write_scores(tmp_path / "s", rows), tmp_path / "keep", SelectOptions(keep=0.25, per_source=False))
    best = sorted(rows, key=lambda one: (-one["score"], one["id"], one["source"]))[:100]
    assert sorted(ids_of(tmp_path / "keep" / "all.parquet")) == sorted(one["id"] for one in best)


def test_unscored_samples_are_kept_beside_the_share_or_dropped(tmp_path: Path) -> None:
    rows = [row(f"s{number}", "a", float(number)) for number in range(4)]
    rows += [
        row("broken", "a", None, status="broken_media"),
        row("nan", "a", math.nan),
        row("text", "b", None, status="x"),
    ]
    root = write_scores(tmp_path / "s", rows)
    kept = select(root, tmp_path / "kept", SelectOptions(keep=0.5))
    assert ids_of(tmp_path / "kept" / "a.parquet") == ["broken", "nan", "s2", "s3"]
    assert ids_of(tmp_path / "kept" / "b.parquet") == ["text"]
    assert (kept.sources[0].num_kept, kept.sources[0].num_kept_unscored, kept.sources[0].num_scored) == (4, 2, 4)
    assert kept.sources[0].by_status == {"ok": 4, "broken_media": 1, "not_finite": 1}
    select(root, tmp_path / "dropped", SelectOptions(keep=0.5, unscored="drop"))
    assert ids_of(tmp_path / "dropped" / "all.parquet") == ["s2", "s3"]


def test_nothing_left_is_an_error_and_leaves_no_folder(tmp_path: Path) -> None:
    root = write_scores(tmp_path / "s", [row("a", score=None, status="no_answer")], num_parts=1)
    with pytest.raises(DataError, match="no sample is left"):
        select(root, tmp_path / "keep", SelectOptions(unscored="drop"))
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_an_id_that_occurs_twice_stands_in_the_list_once(tmp_path: Path) -> None:
    rows = [row("x", "a", 3.0), row("x", "a", 2.0), row("y", "a", 1.0), row("z", "a", 0.0)]
    chosen = select(write_scores(tmp_path / "s", rows), tmp_path / "keep", SelectOptions(keep=0.75))
    assert ids_of(tmp_path / "keep" / "a.parquet") == ["x", "y"]
    assert (chosen.sources[0].num_kept, chosen.sources[0].num_ids) == (3, 2)


def test_the_mean_ranks_by_its_own_column(tmp_path: Path) -> None:
    rows = [row("long", "a", 4.0, num_tokens=100), row("short", "a", 3.0, num_tokens=1)]
    root = write_scores(tmp_path / "s", rows)
    select(root, tmp_path / "sum", SelectOptions(method="deltaloss"))
    select(root, tmp_path / "mean", SelectOptions(method="deltaloss_mean"))
    assert ids_of(tmp_path / "sum" / "a.parquet") == ["long"]
    assert ids_of(tmp_path / "mean" / "a.parquet") == ["short"]


def test_the_summary_counts_tokens_and_says_where_each_source_was_cut(tmp_path: Path) -> None:
    rows = [row(f"s{number}", "a", float(number), num_tokens=10 + number) for number in range(4)]
    chosen = select(write_scores(tmp_path / "s", rows), tmp_path / "keep", SelectOptions(keep=0.5))
    assert chosen.sources[0].cutoff == 2.0
    assert (chosen.sources[0].num_tokens, chosen.sources[0].num_tokens_kept) == (46, 25)
    written = json.loads((tmp_path / "keep" / "summary.json").read_text())
    assert written["num_kept"] == 2
    assert written["sources"][0]["cutoff"] == 2.0


def test_a_mixture_reads_what_was_written(tmp_path: Path) -> None:
    records = [
        {"id": f"q{number}", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": str(number)}]}
        for number in range(8)
    ]
    data = tmp_path / "talk.json"
    data.write_text(json.dumps(records))
    source = ScoredSource(name="talk", path=str(data), num_samples=8)
    rows = [row(f"q{number}", "talk", -float(number)) for number in range(8)]
    select(write_scores(tmp_path / "s", rows, sources=[source]), tmp_path / "keep", SelectOptions(keep=0.5))
    mixture = Mixture.open(config.load(MixtureConfig, tmp_path / "keep" / "mixture.toml"))
    stream = MixtureStream(mixture, as_is, seed=1, rank=0, world_size=1, num_workers=0, num_epochs=1)
    assert sorted(sample.id for sample in stream) == ["q0", "q1", "q2", "q3"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0.0}, "--keep is 0.0"),
        ({"keep": 1.5}, "--keep is 1.5"),
        ({"ratios": {"a": -0.1}}, "a=-0.1"),
        ({"ratios": {"a": 0.5}, "per_source": False}, "--global"),
        ({"unscored": "maybe"}, "keep or drop"),
        ({"memory_gb": 0.1}, "at least 0.8"),
        ({"threads": 0}, "1 or more"),
    ],
)
def test_options_that_cannot_be_met_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SelectOptions(**options)  # type: ignore[arg-type]


def test_ratios_are_read_from_texts() -> None:
    assert parse_ratios(["Doc=VQA=0.7", "b=1"]) == {"Doc=VQA": 0.7, "b": 1.0}
    for wrong in (["a"], ["=0.5"], ["a=x"], ["a=0.1", "a=0.2"]):
        with pytest.raises(ConfigError, match="--source"):
            parse_ratios(wrong)


def test_errors_name_the_folder_and_the_remedy(tmp_path: Path) -> None:
    rows = [row("x"), row("y")]
    with pytest.raises(DataError, match="nvila prune score"):
        select(tmp_path / "none", tmp_path / "keep", SelectOptions())
    root = write_scores(tmp_path / "s", rows)
    with pytest.raises(DataError, match=r"no scores by 'clutser'.*there are: deltaloss"):
        select(root, tmp_path / "keep", SelectOptions(method="clutser"))
    with pytest.raises(ConfigError, match=r"names 'aa'.*did you mean 'a'"):
        select(root, tmp_path / "keep", SelectOptions(ratios={"aa": 0.5}))
    with pytest.raises(DataError, match=r"not complete.*goes on where it stopped"):
        select(write_scores(tmp_path / "half", rows, complete=False), tmp_path / "keep", SelectOptions())
    root = write_scores(tmp_path / "g", rows, criterion="image_gain")
    with pytest.raises(DataError, match="no column 'gain'"):
        select(root, tmp_path / "keep", SelectOptions(method="image_gain"))
    assert not (tmp_path / "keep").exists()


def test_rows_that_the_manifest_does_not_count_are_an_error(tmp_path: Path) -> None:
    source = ScoredSource(name="a", path="a.jsonl", num_samples=5)
    root = write_scores(tmp_path / "s", [row("x"), row("y")], sources=[source])
    with pytest.raises(DataError, match="hold 2 rows, but the manifest counts 5"):
        select(root, tmp_path / "keep", SelectOptions())


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    root = write_scores(tmp_path / "s", [row("x"), row("y")])
    part = root / "deltaloss" / "part-00000-00001.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(DataError, match="part-00000-00001"):
        select(root, tmp_path / "keep", SelectOptions())


def test_folders_may_have_any_name(tmp_path: Path) -> None:
    root = write_scores(tmp_path / "it's [a] source=x *?" / "s", [row("x", score=1.0), row("y", score=2.0)])
    select(root, root / "keep", SelectOptions())
    assert ids_of(root / "keep" / "a.parquet") == ["y"]


def test_what_is_there_is_replaced_only_when_asked(tmp_path: Path) -> None:
    root = write_scores(tmp_path / "s", [row("x", score=1.0), row("y", score=2.0)])
    select(root, tmp_path / "keep", SelectOptions(keep=1.0))
    with pytest.raises(NVILAError, match="already there"):
        select(root, tmp_path / "keep", SelectOptions())
    select(root, tmp_path / "keep", SelectOptions(), overwrite=True)
    assert ids_of(tmp_path / "keep" / "a.parquet") == ["y"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keep", "s"]


def test_names_of_sources_make_safe_and_different_file_names() -> None:
    names = ["DocVQA", "docvqa", "../../etc/passwd", "all", "", "a b", "plain-1.0"]
    files = file_names(names)
    assert len({name.lower() for name in files}) == len(names)
    assert all("/" not in name and not name.startswith(".") and name != "all.parquet" for name in files)
    assert files[-1] == "plain-1.0.parquet"
