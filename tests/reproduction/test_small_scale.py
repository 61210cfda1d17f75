"""What both tables share: metrics, which pictures and questions are used, how a pace is read from a log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from answer_metrics import anls, relaxed
from corpus_columns import COLUMNS, count_columns, in_turns, is_asked, pick, write_columns
from PIL import Image
from small_scale import read_held_out, seconds_per_sample
from table1_spatial import ROWS, Settings, make_recipe
from tables import mean_and_spread, summary

from nvila.errors import DataError
from nvila.train.recipe import Run


def test_anls_forgives_half_of_the_letters() -> None:
    assert anls("Invoice", ["invoice"]) == 1.0
    assert anls("invoixe", ["invoice", "other"]) == pytest.approx(6 / 7)
    assert anls("abcdefg", ["invoice"]) == 0.0
    assert anls("", ["invoice"]) == 0.0


def test_relaxed_allows_five_percent_of_a_number() -> None:
    assert relaxed("104", ["100"]) == 1.0
    assert relaxed("106", ["100"]) == 0.0
    assert relaxed("$1,250", ["1250"]) == 1.0
    assert relaxed("12.5%", ["12.5"]) == 1.0
    assert relaxed("the apples", ["apples"]) == 1.0
    assert relaxed("nan", ["5"]) == 0.0
    assert relaxed("1", ["0"]) == 0.0


def test_which_questions_are_asked() -> None:
    assert is_asked(["63.02", "$63.02"])
    assert not is_asked(["Yes"])
    assert not is_asked(["[1, 2, 3, 4]"])
    assert not is_asked(["two\nlines"])
    assert not is_asked(["a" * 49])


def test_columns_hold_large_pictures_of_their_families(packaged: Path, tmp_path: Path) -> None:
    write_columns(packaged, tmp_path / "data", train=18, held_out=4, larger_than=112)
    assert count_columns(tmp_path / "data" / "train.jsonl") == dict.fromkeys(COLUMNS, 6)
    assert count_columns(tmp_path / "data" / "heldout.jsonl") == dict.fromkeys(COLUMNS, 4)
    for split in ("train", "heldout"):
        for line in (tmp_path / "data" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            with Image.open(tmp_path / "data" / record["images"][0]) as image:
                assert max(image.size) > 112
            assert f"/{split}/" in record["id"]
            assert record["id"].split("/")[0] in COLUMNS[record["column"]]
            assert [turn["role"] for turn in record["messages"]] == ["user", "assistant"] * len(record["answers"])
    assert all(Path(item.messages[0]["content"][0]["path"]).is_file() for item in read_held_out(tmp_path / "data"))


def test_half_is_drawn_and_the_other_families_take_turns(packaged: Path) -> None:
    found = [picked.id.split("/")[0] for picked in pick(packaged, "heldout", "natural", 6, larger_than=112)]
    assert found == ["furniture", "photos"] * 3  # the package has no drawings of named things
    found = [picked.id.split("/")[0] for picked in pick(packaged, "train", "charts", 4, larger_than=112)]
    assert found == ["drawn"] * 4  # nor tables


def test_families_may_be_left_out(packaged: Path) -> None:
    found = pick(packaged, "heldout", "natural", 3, larger_than=112, families=["photos"])
    assert [picked.id.split("/")[0] for picked in found] == ["photos"] * 3
    with pytest.raises(DataError, match="'text'"):
        pick(packaged, "heldout", "text", 3, larger_than=112, families=["photos"])


def test_streams_end_apart() -> None:
    assert list(in_turns([iter("abc"), in_turns([iter("xy"), iter("z")])])) == ["a", "x", "b", "z", "c", "y"]


def test_a_corpus_without_a_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no train picture for the column 'natural'"):
        write_columns(tmp_path, tmp_path / "data", train=3, held_out=1, larger_than=112)
    assert not (tmp_path / "data").exists()


def test_the_pace_leaves_out_starts_and_interruptions(tmp_path: Path) -> None:
    recipe = make_recipe(ROWS["baseline"], Settings(samples=80, batch=2), tmp_path, tmp_path, seed=0, run=Run())
    assert [stage.steps for stage in recipe.stage] == [10, 10, 20]
    marks = [("projector", 4, 30.0), ("projector", 8, 34.0), ("projector", 10, 36.0), ("encoder", 6, 12.0),
             ("tuning", 5, 9.0), ("tuning", 10, 14.0), ("tuning", 15, 118.0), ("tuning", 20, 123.0)]  # fmt: skip
    lines = [json.dumps({"stage": stage, "step": step, "seconds": seconds}) for stage, step, seconds in marks]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert seconds_per_sample(recipe, tmp_path) == pytest.approx((10 * 1.0 + 10 * 2.0 + 20 * 1.0) / 80)


def test_seconds_are_taken_once_for_a_row() -> None:
    rest = {"seed": 0, "scores": {"average": 1.0}, "load": {}, "losses": {}, "date": "2026-11-22", "wrong": []}
    runs = [{**rest, "costs": {"a": 1.0}}, {**rest, "costs": {"a": 3.0}}]
    found = summary(runs, {"b": 2.0})["costs"]
    assert {name: value["values"] for name, value in found.items()} == {"a": [1.0, 3.0], "b": [2.0]}


def test_spread_is_half_the_range() -> None:
    assert mean_and_spread([1.0, 2.0, 4.5]) == {"mean": 2.5, "spread": 1.75, "values": [1.0, 2.0, 4.5]}
