"""Table 1 at small scale: rows that differ in nothing else, token counts by the paper's arithmetic, and resuming."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import table1_spatial as table1
import torch
from corpus_columns import write_columns
from PIL import Image
from safetensors.torch import load_file
from small_scale import HeldOut, load_of, write_mixture

from nvila.config import load
from nvila.data.encode import SampleEncoder
from nvila.data.mixture import Mixture, MixtureConfig
from nvila.layouts import VisualSettings
from nvila.model import NVILAForConditionalGeneration
from nvila.processing import NVILAProcessor
from nvila.train.feed import MixtureFeed
from nvila.train.recipe import Run
from nvila.train.start import TOKEN_SIZE, build_processor

TOKENS = {"baseline": 256, "s2-2x2": 256, "s2-3x3": 121, "s2-3x3-vep": 121, "token-learner": 121, "perceiver": 121}


@pytest.fixture(scope="module")
def data(packaged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("columns") / "data"
    write_columns(packaged, folder, train=12, held_out=2, larger_than=112)
    return folder


def processor_of(name: str, settings: table1.Settings) -> NVILAProcessor:
    tokenizer = NVILAProcessor.from_pretrained("nvila-mini").tokenizer
    return build_processor(table1.row_config(table1.ROWS[name], settings).visual, tokenizer)


def test_tokens_of_a_tile_are_the_papers_at_its_size() -> None:
    for name, row in table1.ROWS.items():
        scales = (448, 896, 1344) if row.image_mode == "dynamic_s2" else ()
        visual = VisualSettings(image_mode=row.image_mode, projector_type=row.projector_type, s2_scales=scales)
        assert visual.tokens_per_tile == TOKENS[name] == int(row.paper_tokens), name


def test_tokens_and_tiles_of_a_picture(tmp_path: Path) -> None:
    """336 x 224 pixels are 3 x 2 tiles of nvila-mini at the last scale, with one tile of the whole before them."""
    Image.new("RGB", (336, 224)).save(tmp_path / "a.png")
    content = [{"type": "image", "path": str(tmp_path / "a.png")}, {"type": "text", "text": "What?"}]
    sample = HeldOut(column="text", messages=[{"role": "user", "content": content}], answers=("a",))
    found = {name: load_of(processor_of(name, table1.Settings()), [sample]) for name in table1.ROWS}
    assert {name: (load.tiles, load.projected, load.visual_tokens) for name, load in found.items()} == {
        "baseline": (1, 1, 16),
        "s2-2x2": (7, 6, 6 * 16),
        "s2-3x3": (7, 6, 6 * 9),
        "s2-3x3-vep": (7, 6, 6 * 9),
        "token-learner": (7, 6, 6 * 9),
        "perceiver": (7, 6, 6 * 9),
    }


def test_rows_differ_in_the_model_and_in_what_the_second_phase_trains(tmp_path: Path) -> None:
    run = Run(seed=3)
    recipes = {
        name: table1.make_recipe(row, table1.Settings(), tmp_path / "m.toml", tmp_path / "start", seed=5, run=run)
        for name, row in table1.ROWS.items()
    }
    for name, recipe in recipes.items():
        assert recipe.run.seed == 5
        assert [stage.train for stage in recipe.stage] == [
            ("projector",),
            ("vision", "projector") if table1.ROWS[name].has_vep else ("projector",),
            ("projector", "llm"),
        ]
        alike = [replace(stage, train=("projector",), part_learning_rates={}) for stage in recipe.stage]
        baseline = [replace(stage, train=("projector",), part_learning_rates={}) for stage in recipes["baseline"].stage]
        assert alike == baseline, name
        assert [stage.part_learning_rates["projector"] for stage in recipe.stage] == [2e-3, 2e-3, 5e-4]
    assert [table1.ROWS[name].has_vep for name in recipes] == [False, False, False, True, True, True]


def test_rows_see_the_same_pictures_in_the_same_order(data: Path, tmp_path: Path) -> None:
    mixture = Mixture.open(load(MixtureConfig, write_mixture(data)))
    orders = []
    for name in ("baseline", "s2-2x2", "perceiver"):
        processor = processor_of(name, table1.Settings())
        stage = table1.make_recipe(
            table1.ROWS[name], table1.Settings(batch=4), tmp_path, tmp_path, seed=1, run=Run()
        ).stage[0]
        feed = MixtureFeed(
            mixture,
            SampleEncoder(processor),
            stage.batches,
            seed=1,
            name=stage.name,
            pad_id=processor.tokenizer.pad_token_id,
        )
        batches = feed.loader(0)
        orders.append([[note.id for note in next(batches)["notes"].samples] for _ in range(3)])
    assert orders[0] == orders[1] == orders[2]
    assert [len(batch) for batch in orders[0]] == [4, 4, 4]


@pytest.mark.parametrize("name", ["baseline", "s2-3x3", "token-learner", "perceiver"])
def test_a_start_has_the_tower_and_decoder_and_a_new_projector(
    name: str, nano: Path, data: Path, tmp_path: Path
) -> None:
    row, settings = table1.ROWS[name], table1.Settings(start=str(nano), max_tiles=4)
    pictures = sorted((data / "pictures" / "train").iterdir())
    folder = table1.write_start(row, settings, tmp_path / "start", pictures, seed=0)
    made, source = load_file(folder / "model.safetensors"), load_file(nano / "model.safetensors")
    kept = [key for key in source if not key.startswith("mm_projector")]
    assert kept
    assert all(torch.equal(made[key], source[key]) for key in kept)
    assert any(key.startswith("mm_projector") for key in made)
    model: Any = NVILAForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    processor = NVILAProcessor.from_pretrained(folder)
    with torch.no_grad():
        tokens = model.mm_projector(table1.projector_input(model, processor, pictures))
    assert tokens.shape[1] == (16 if name == "baseline" else 9)
    assert float(tokens.mean(dim=(0, 1)).abs().max()) < 0.02
    assert float(tokens.square().mean().sqrt()) == pytest.approx(TOKEN_SIZE, rel=0.02)


def test_the_smallest_run_and_its_resumption(
    nano: Path, packaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "table1.json"
    names = ["baseline", "s2-3x3-vep"]
    sizes = ["--samples", "12", "--pictures", "12", "--held-out", "2", "--batch", "2", "--max-tiles", "4"]
    places = ["--corpus", str(packaged), "--out", str(out), "--work", str(tmp_path / "work"), "--workers", "0"]
    more = ["--threads", "1", "--all-families", "--start", str(nano), "--rows", *names]
    arguments = [*sizes, *places, *more]
    table1.main([*arguments, "--seeds", "0"])
    first = json.loads(out.read_text(encoding="utf-8"))
    printed = capsys.readouterr().out.splitlines()
    assert json.loads(printed[-1])["rows"]["baseline"]["scores"] == first["rows"]["baseline"]["scores"]
    assert "61.3" in printed[2]
    assert "| 16" in printed[2]
    assert {name: row["load"]["tokens_per_tile"] for name, row in first["rows"].items()} == dict(
        zip(names, (16, 9), strict=True)
    )
    assert first["rows"]["baseline"]["load"]["tiles"] == 1.0
    assert first["rows"]["s2-3x3-vep"]["load"]["tiles"] == first["rows"]["s2-3x3-vep"]["load"]["projected"] + 1
    for row in first["rows"].values():
        assert set(row["scores"]) == {"natural", "charts", "text", "average"}
        assert row["costs"]["training_seconds_per_sample"]["mean"] > 0
        assert set(row["losses"][0]) == {"projector", "encoder", "tuning"}
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "results" / "table1").iterdir()}
    assert len(kept) == 4
    table1.main([*arguments, "--seeds", "0", "1"])
    second = json.loads(out.read_text(encoding="utf-8"))
    assert all(path.stat().st_mtime_ns == changed for path, changed in kept.items())
    for name in names:
        scores = second["rows"][name]["scores"]["average"]
        assert len(scores["values"]) == 2
        assert scores["values"][:1] == first["rows"][name]["scores"]["average"]["values"]
    with pytest.raises(SystemExit, match="samples 12 and not 14"):
        table1.main([*arguments, "--seeds", "0", "--samples", "14"])
