"""Table 3 at small scale: what the corpus holds, what rows train on, when scoring pays, and a small run of it all."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pruning_models
import pytest
import table3_pruning as table3
import torch
from PIL import Image
from pruning_models import Preparation, write_start
from pruning_report import claims, costs_of_scoring, pays_from
from pruning_rows import ALL, KEEPS, ROWS, START
from redundant_corpus import FRESH, WEAK, Asked, Portions, altered, answered_wrongly, count_kinds, drawn, read_kinds
from redundant_corpus import write_corpus as write
from safetensors.torch import load_file
from small_scale import model_recipe, read_held_out, start_config
from tests.data.corpus.tiny_corpus import write_tiny_assets

from nvila.data.corpus import Assets
from nvila.data.formats import open_source
from nvila.types import TextPart

PORTIONS = Portions(duplicates=0.5, wrong=0.2, copies=4)


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assets")
    write_tiny_assets(folder)
    return folder


@pytest.fixture(scope="module")
def data(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "data"
    weak = Portions(duplicates=0.2, wrong=0.5, copies=4)
    write(folder, samples=20, portions=PORTIONS, weak_samples=10, weak=weak, held_out=3, assets=Assets.load(assets))
    return folder


def test_a_corpus_has_the_portions_that_were_asked_for(data: Path) -> None:
    kinds = read_kinds(data)
    assert Portions().counts(1500) == {"fresh": 525, "easy": 25, "duplicate": 725, "wrong": 225}
    assert [count_kinds(kinds, [name]) for name in FRESH] == [{"fresh": 6, "easy": 2, "duplicate": 8, "wrong": 4}] * 3
    assert count_kinds(kinds, [WEAK]) == {"fresh": 3, "easy": 1, "duplicate": 1, "wrong": 5}
    assert sum(count_kinds(kinds, list(kinds)).values()) == len({key for found in kinds.values() for key in found})
    for name in (*FRESH, WEAK):
        samples = [
            source[index] for source in [open_source(str(data / f"{name}.jsonl"))] for index in range(len(source))
        ]
        assert [sample.id for sample in samples] == list(kinds[name])
        assert not any(kind in repr(sample) for sample in samples for kind in ("fresh", "duplicate", "wrong"))
    assert [one.column for one in read_held_out(data)] == [name for name in FRESH for _ in range(3)]


def test_duplicates_have_an_easy_samples_question_and_nearly_its_picture(data: Path) -> None:
    kinds = read_kinds(data)
    for name in FRESH:
        source = open_source(str(data / f"{name}.jsonl"))
        texts: dict[str, list[str]] = {}
        for index in range(len(source)):
            said = [part.text for one in source[index].messages for part in one.content if isinstance(part, TextPart)]
            texts.setdefault(kinds[name][source[index].id], []).append(" | ".join(said))
        assert set(texts["duplicate"]) == set(texts["easy"])
    pixels = np.random.default_rng(0).integers(40, 200, (16, 16, 3))
    image = Image.fromarray(np.kron(pixels, np.ones((7, 7, 1))).astype(np.uint8))
    made = [np.asarray(altered(image, np.random.default_rng(seed)), float) for seed in range(8)]
    assert len({one.tobytes() for one in made}) == 8
    assert all(one.shape == (112, 112, 3) for one in made)
    assert max(abs(one.mean() - np.asarray(image).mean()) for one in made) < 0.08 * 255
    assert min(np.corrcoef(one.ravel(), np.asarray(image, float).ravel())[0, 1] for one in made) > 0.3


def test_wrong_answers_are_wrong_and_of_the_same_sort() -> None:
    image = Image.new("RGB", (2, 2))
    given = [
        ("t", "3", "three"),
        ("t", "red"),
        ("t", "3", "three"),
        ("u", "4"),
        ("t", "5", "five"),
        ("t", "RED", "red"),
    ]
    stream = [Asked(task=task, image=image, question="?", accepted=tuple(accepted)) for task, *accepted in given]
    found = list(answered_wrongly(iter(stream)))
    assert [(one.task, one.accepted, one.kind) for one in found] == [("t", ("3",), "wrong")]


def test_held_out_questions_are_not_those_of_training(assets: Path) -> None:
    sides = {}
    for split in ("train", "heldout"):
        stream = drawn(FRESH["text"], Assets.load(assets), split=split, seed=0)  # type: ignore[arg-type]
        sides[split] = {one.accepted[0] for one in islice(stream, 40) if one.accepted[0].isalpha()}
    assert sides["train"]
    assert sides["heldout"]
    assert not any(answer.lower() in ("yes", "no") for side in sides.values() for answer in side)


def test_rows_are_the_papers_and_ours_in_both_budgets() -> None:
    assert len(ROWS) == 2 + 2 * 3 * 5 + 3
    assert ROWS["epochs-deltaloss-50"].paper == (48.1, 89.7, 78.4, 75.5)
    assert ROWS["epochs-random-10"].paper == (47.0, 77.3, 72.6, 72.0)
    assert sum(row.paper is not None for row in ROWS.values()) == 10
    assert {name for name, row in ROWS.items() if row.is_chance and row.keep == 0.5} == {
        "epochs-random-50", "steps-random-50", "weak-random-50",
    }  # fmt: skip


def test_when_scoring_pays() -> None:
    """100 s once and 1 s a sample against 3 s a sample saved: 50 samples cost as much as they save."""
    assert pays_from(100.0, 1.0, 3.0) == 51
    assert pays_from(0.0, 1.0, 3.0) == 1
    assert pays_from(100.0, 3.0, 3.0) is None
    scoring = {name: {"seconds": 20.0, "samples": 100} for name in ("deltaloss", "cluster", "image_gain", "coverage")}
    costs = costs_of_scoring(scoring, {"tuning": 0.4}, 2.0, preparing=40.0, samples=100)
    half = costs["deltaloss"]["tuning, 50% kept"]
    assert half == {"share_of_saved": 0.5, "share_with_preparing": 1.5, "pays_from_samples": 201}
    assert costs["cluster"]["tuning, 50% kept"]["share_with_preparing"] == 0.5
    assert [costs[name]["seconds"] for name in ("image_gain", "coverage")] == [20.0, 40.0]
    assert costs["cluster"]["tuning, 10% kept"]["share_of_saved"] == pytest.approx(0.2 / 0.72, abs=1e-4)


def test_what_held_follows_from_the_averages() -> None:
    averages = {ALL: 50.0, "epochs-deltaloss-50": 49.5, "epochs-random-50": 49.9, "weak-raw": 51.0}
    rows: dict[str, Any] = {name: {"scores": {"average": {"mean": value}}} for name, value in averages.items()}
    assert claims(rows) == {
        "equal epochs: half by DeltaLoss is as good as all (within 1)": True,
        "equal epochs, 50%: DeltaLoss is above Random": False,
    }


def test_a_small_model_has_the_tower_some_layers_and_a_new_projector(nano: Path, tmp_path: Path) -> None:
    sizes = model_recipe(start_config(str(nano)), "")
    pictures = [tmp_path / f"{number}.png" for number in range(2)]
    for number, path in enumerate(pictures):
        Image.effect_noise((56, 56), 90.0 + number).convert("RGB").save(path)
    source = load_file(nano / "model.safetensors")
    for count, last in ((1, "0"), (2, "1")):
        folder = write_start(
            pruning_models.replace(sizes, text_layers=count), str(nano), tmp_path / last, pictures, seed=0
        )
        made = load_file(folder / "model.safetensors")
        kept = [name for name in made if "mm_projector" not in name]
        assert all(torch.equal(made[name], source[name]) for name in kept)
        assert len(source) - len(made) == (2 - count) * sum(".layers.1." in name for name in source if "llm." in name)
        assert not any(
            torch.equal(made[name], source[name]) for name in made if name.endswith("projector.layers.2.weight")
        )


def test_the_smallest_run_and_its_resumption(
    nano: Path, assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = Preparation(depth=0.5, train=("projector", "llm"), samples=32, rate=1e-3)
    settings = table3.replace(table3.quick_settings(), small=tiny, student=table3.replace(tiny, depth=1.0), samples=12)
    monkeypatch.setattr(table3, "quick_settings", lambda: settings)
    monkeypatch.setattr(table3, "PACE_STEPS", 2)
    out = tmp_path / "results" / "table3.json"
    places = ["--out", str(out), "--work", str(tmp_path / "work"), "--workers", "0", "--threads", "1"]
    arguments = ["--quick", *places, "--start", str(nano), "--assets", str(assets)]
    names = [START, ALL, "epochs-deltaloss-50", "steps-coverage-30", "weak-random-50"]
    table3.main([*arguments, "--rows", *names])
    first = json.loads(out.read_text(encoding="utf-8"))
    printed = capsys.readouterr().out
    assert json.loads(printed.splitlines()[-1])["rows"][ALL]["scores"] == first["rows"][ALL]["scores"]
    assert "50% DeltaLoss" in printed
    assert "75.5" in printed
    costs = {name: row["costs"] for name, row in first["rows"].items()}
    assert {name: (cost["samples"]["mean"], cost["steps"]["mean"]) for name, cost in costs.items()} == {
        START: (0, 0), ALL: (36, 9), "epochs-deltaloss-50": (18, 4), "steps-coverage-30": (12, 9),
        "weak-random-50": (48, 12),
    }  # fmt: skip
    assert costs[ALL]["wrong_removed"]["mean"] == 0
    assert costs["weak-random-50"]["wrong_removed"]["mean"] < 100
    assert set(first["costs_of_scoring"]) >= {"deltaloss", "coverage", "image_gain"}
    assert set(first["rows"][ALL]["scores"]) == {*FRESH, "average"}
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "results" / "table3").iterdir()}
    table3.main([*arguments, "--rows", *names, "epochs-random-30"])
    second = json.loads(out.read_text(encoding="utf-8"))
    assert all(path.stat().st_mtime_ns == changed for path, changed in done.items())
    assert second["rows"][ALL] == first["rows"][ALL]
    assert second["corpus"]["natural"]["wrong"] == first["corpus"]["natural"]["wrong"] == 2
    with pytest.raises(SystemExit, match="samples 12 and not 14"):
        table3.main([*arguments, "--samples", "14"])
    assert KEEPS == (0.5, 0.3, 0.1)
