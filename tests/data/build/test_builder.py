"""The builder: the same bytes whatever the workers and kills, shards that our formats read, a manifest that adds up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.build.reading import records
from tests.data.build.stand_in import FPS, StandIn

from nvila.data.build.builder import build_corpus, shard_tasks
from nvila.data.build.family import one_in_ten
from nvila.data.build.fetch import BuildFolder
from nvila.data.build.plan import Plan, Share, load_plan, plan_names
from nvila.data.formats import open_source
from nvila.errors import ConfigError, DataError
from nvila.processing.media import load_clip, load_image
from nvila.types import ImagePart, TextPart, VideoPart

PLAN = Plan(families={"stand_in": Share(train=23, heldout=5, skip_units=("*-03",))}, shard_size=4)


def build(out: Path, folder: BuildFolder, workers: int = 0, family: StandIn | None = None, **options: Any) -> Any:
    return build_corpus(PLAN, {"stand_in": family or StandIn()}, out, workers=workers, folder=folder, **options)


def files(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and ".build" not in path.parts
    }


def test_workers_and_a_kill_in_the_middle_change_no_byte(tmp_path: Path, folder: BuildFolder) -> None:
    build(tmp_path / "one", folder, workers=1)
    build(tmp_path / "three", folder, workers=3)
    mortal = StandIn(dies_beside=tmp_path / "died")
    with pytest.raises(DataError, match=r"worker process that made it died \(exit code -9.*same command again"):
        build(tmp_path / "killed", folder, workers=1, family=mortal)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").rglob("*.tar")}
    assert 0 < len(before) < len(shard_tasks(PLAN)), "the kill has to come in the middle"
    assert not (tmp_path / "killed/manifest.json").exists()
    build(tmp_path / "killed", folder, workers=2, family=mortal)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "finished shards are made again"
    one, three, killed = (files(tmp_path / name) for name in ("one", "three", "killed"))
    assert set(one) == {"manifest.json", *(task.path for task in shard_tasks(PLAN))}
    assert one == three
    assert one == killed


def test_a_damaged_shard_is_made_again(tmp_path: Path, folder: BuildFolder) -> None:
    build(tmp_path / "out", folder)
    whole = files(tmp_path / "out")
    shard = tmp_path / "out" / "train/stand_in-000002.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    build(tmp_path / "out", folder)
    assert files(tmp_path / "out") == whole


def test_our_formats_read_what_was_made(tmp_path: Path, folder: BuildFolder) -> None:
    build(tmp_path / "out", folder)
    source = open_source(str(tmp_path / "out/train/*.tar"))
    assert len(source) == 23
    written = records(tmp_path / "out")
    assert [source[index].id for index in range(23)] == [record["id"] for record in written]
    media = set()
    for index, record in enumerate(written):
        sample, level = source[index], record["meta"]["level"]
        assert [message.role for message in sample.messages] == ["user", "assistant"] * 2
        part, question = sample.messages[0].content
        assert question == TextPart(text="How bright?")
        assert sample.messages[1].content == (TextPart(text=str(level)),)
        assert sample.messages[2].content == (TextPart(text="Which <b>unit</b>?"),)
        assert sample.messages[3].content == (TextPart(text=record["unit"]),)
        assert record["answers"] == [[str(level), f"{level} of 255"], [record["unit"]]]
        assert record["boxes"] == [{"label": "all", "box": [0, 0, 32, 24]}]
        assert sample.meta["source"] == "stand_in"
        if isinstance(part, VideoPart):
            clip = load_clip(part.url or "")
            assert [frame.size for frame in clip.frames] == [(32, 24)] * 5
            assert clip.times_s == pytest.approx([number / FPS for number in range(5)])
            pixels, tolerance = np.stack([np.asarray(frame) for frame in clip.frames]), 3
        else:
            assert isinstance(part, ImagePart)
            assert part.image is not None
            pixels, tolerance = np.asarray(load_image(part.image)), 0
        if record["task"] == "bright":
            assert np.abs(pixels.astype(int) - level).max() <= tolerance
        media.add((type(part).__name__, record["task"]))
    assert media == {("VideoPart", "bright"), ("ImagePart", "bright"), ("ImagePart", "noise")}


def test_units_are_shared_evenly_and_never_between_the_sides(tmp_path: Path, folder: BuildFolder) -> None:
    build(tmp_path / "out", folder)
    sides = {split: [record["unit"] for record in records(tmp_path / "out", split)] for split in ("train", "heldout")}
    assert len(set(sides["train"])) == 23, "no unit comes again before all had their turn"
    assert not set(sides["train"]) & set(sides["heldout"])
    assert all(one_in_ten("stand_in", unit) == split for split, units in sides.items() for unit in units)
    assert "unit-03" not in sides["train"] + sides["heldout"]
    build(tmp_path / "other", folder, seed=1)
    assert [record["unit"] for record in records(tmp_path / "other")] != sides["train"]


def test_the_manifest_counts_what_is_in_the_shards(tmp_path: Path, folder: BuildFolder) -> None:
    manifest = build(tmp_path / "out", folder)
    assert manifest == json.loads((tmp_path / "out/manifest.json").read_text())
    every = [*records(tmp_path / "out"), *records(tmp_path / "out", "heldout")]
    total = manifest["total"]
    assert total["samples"] == 28
    assert total["questions"] == 56 == sum(len(record["answers"]) for record in every)
    assert total["clips"] == sum("videos" in record for record in every)
    assert total["images"] == 28 - total["clips"]
    flat = {record["meta"]["level"] for record in every if record["task"] == "bright" and "images" in record}
    noisy = sum(record["task"] == "noise" for record in every)
    assert total["distinct_images"] == len(flat) + noisy
    assert total["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").rglob("*.tar"))
    family = manifest["families"]["stand_in"]
    held_out = sum(one_in_ten("stand_in", f"unit-{index:02d}") == "heldout" for index in range(40) if index != 3)
    assert family["units"] == {"train": 39 - held_out, "heldout": held_out}
    assert family["heldout"]["samples"] == 5


def test_a_folder_of_another_request_is_refused(tmp_path: Path, folder: BuildFolder) -> None:
    build(tmp_path / "out", folder)
    with pytest.raises(ConfigError, match="begun with another seed"):
        build(tmp_path / "out", folder, seed=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="holds no corpus"):
        build(tmp_path / "mine", folder)
    assert (tmp_path / "mine/letter.txt").read_text() == "dear"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_unit_that_cannot_be_drawn_is_named(tmp_path: Path, folder: BuildFolder, workers: int) -> None:
    plan = Plan(families={"stand_in": Share(train=40)})
    with pytest.raises(DataError, match=r"family 'stand_in', unit 'unit-03', train sample \d+: this unit is broken"):
        build_corpus(plan, {"stand_in": StandIn()}, tmp_path / "out", workers=workers, folder=folder)


def test_missing_material_and_empty_sides_are_errors(tmp_path: Path, folder: BuildFolder) -> None:
    with pytest.raises(DataError, match="nvila data fetch --families stand_in"):
        build(tmp_path / "out", BuildFolder(tmp_path / "nowhere"))
    plan = Plan(families={"stand_in": Share(train=1, skip_units=("*",))})
    with pytest.raises(DataError, match="0 of its 40 units on the side train"):
        build_corpus(plan, {"stand_in": StandIn()}, tmp_path / "out", workers=0, folder=folder)


def test_plans_of_the_package_and_their_options() -> None:
    assert plan_names() == ("full", "small")
    full = load_plan("full")
    assert sum(share.train + share.heldout for share in full.families.values()) >= 70_000
    assert full.only(["maps"]).scaled(0.0001, ["train"]).families == {"maps": Share(train=1, heldout=0)}
    with pytest.raises(ConfigError, match="did you mean 'maps'"):
        full.only(["map"])
    with pytest.raises(ConfigError, match="unknown corpus 'ful'"):
        load_plan("ful")
    with pytest.raises(ConfigError, match="scale is 0"):
        full.scaled(0)
