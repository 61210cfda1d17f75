"""The small corpus that ships with the package: small, whole, readable, sound, free to pass on, and split by unit."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path

import pytest
from tests.data.build.reading import records

from nvila.data.build.plan import load_plan
from nvila.data.check import check_data
from nvila.data.formats import open_source

CORPUS = Path(str(files("nvila") / "assets" / "corpus"))
MANIFEST = json.loads((CORPUS / "manifest.json").read_text(encoding="utf-8"))
LIMIT_BYTES = 30_000_000
FREE = re.compile(
    r"MIT|BSD|Apache|CC0|CC-BY-[34]\.0|OFL|Bitstream|Public domain|free licence of Debian main", re.IGNORECASE
)


def test_it_is_small_and_every_shard_is_the_one_of_the_manifest() -> None:
    shards = {str(path.relative_to(CORPUS)): path for path in CORPUS.rglob("*.tar")}
    assert sum(path.stat().st_size for path in shards.values()) <= LIMIT_BYTES
    assert {shard["path"]: shard["sha256"] for shard in MANIFEST["shards"]} == {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in shards.items()
    }


def test_it_holds_what_its_plan_and_its_manifest_say() -> None:
    plan = load_plan("small")
    assert set(MANIFEST["families"]) == set(plan.families)
    every = [*records(CORPUS, "train"), *records(CORPUS, "heldout")]
    assert len(every) == MANIFEST["total"]["samples"] == sum(s.train + s.heldout for s in plan.families.values())
    assert sum(len(record["answers"]) for record in every) == MANIFEST["total"]["questions"]


def test_no_sample_has_a_problem() -> None:
    for split in ("train", "heldout"):
        report = check_data(str(CORPUS / split / "*.tar"), workers=0)
        assert report.problems == []
        assert report.num_images + report.num_videos == report.num_samples


def test_no_unit_is_on_both_sides() -> None:
    sides = [
        {(record["source"], record["unit"]) for record in records(CORPUS, split)} for split in ("train", "heldout")
    ]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]


def test_all_of_it_may_be_passed_on() -> None:
    text = (CORPUS / "README.md").read_text(encoding="utf-8")
    for name, family in MANIFEST["families"].items():
        assert f"`{name}`" in text
        # Pictures of named things, the only ones under a licence that wants the same of what is made from them.
        unused = {"openmoji"} if "*/naming/*" in family["skip_units"] else set()
        for package in family["packages"]:
            assert package["name"] in unused or FREE.search(package["licence"]), (name, package)
    for record in records(CORPUS, "train"):
        if record["source"] == "furniture":
            assert record["meta"]["makers"], "CC-BY wants the makers named"


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_it_opens_as_one_data_set(split: str) -> None:
    source = open_source(str(CORPUS / split))
    assert len(source) == sum(family[split]["samples"] for family in MANIFEST["families"].values())
