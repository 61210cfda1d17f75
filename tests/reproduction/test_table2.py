"""Table 2 at small scale: token counts by the paper's arithmetic, clips that hide their event, kept features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import table2_temporal as table2
import torch
from kept_features import Kept, kept_features
from made_clips import EVENT_FRAMES, LENGTHS, make_clip, write_clips
from small_scale import load_of, read_held_out

from nvila.model import NVILAForConditionalGeneration
from nvila.processing import NVILAProcessor
from nvila.processing.video import even_indices
from nvila.train.recipe import Run
from nvila.train.start import build_processor


def test_tokens_of_a_clip_are_the_papers_at_its_size() -> None:
    for row in table2.ROWS.values():
        assert table2.tokens_per_clip(row, 256) == row.paper_tokens
    assert [table2.tokens_per_clip(row, 16) for row in table2.ROWS.values()] == [128, 512, 128, 512]


def test_a_processor_gives_clips_as_many_tokens(tmp_path: Path) -> None:
    write_clips(tmp_path / "clips", train=1, held_out=1, side=112, lengths={"short": 16, "long": 256})
    short, long = read_held_out(tmp_path / "clips")
    tokenizer = NVILAProcessor.from_pretrained("nvila-mini").tokenizer
    found = {}
    for name, row in table2.ROWS.items():
        recipe = table2.make_recipe(row, table2.Settings(), tmp_path, seed=0, run=Run())
        visual = table2.start_config("nvila-mini").visual
        changed = {**vars(visual), "temporal_pool": row.pool, "num_video_frames": row.num_frames}
        assert (recipe.model.temporal_pool, recipe.model.num_video_frames) == (row.pool, row.num_frames)
        processor = build_processor(type(visual)(**changed), tokenizer)
        loads = [load_of(processor, [clip]) for clip in (short, long)]
        found[name] = [(load.tiles, load.visual_tokens) for load in loads]
    assert found == {
        "8": [(8, 128), (8, 128)],
        "32": [(32, 512), (32, 512)],
        "32-pool4": [(32, 128), (32, 128)],
        "256-pool8": [(256, 512), (256, 512)],
    }


def test_rows_train_projector_and_decoder_alike(tmp_path: Path) -> None:
    recipes = [
        table2.make_recipe(row, table2.Settings(), tmp_path / "m.toml", seed=2, run=Run())
        for row in table2.ROWS.values()
    ]
    assert all(recipe.stage == recipes[0].stage and recipe.run == recipes[0].run for recipe in recipes)
    assert recipes[0].stage[0].train == ("projector", "llm")


def test_what_appears_is_there_for_four_frames() -> None:
    for seed in range(10):
        clip = make_clip(np.random.default_rng(seed), 64, 56)
        # A frame with the event is drawn apart from those of the same phase without it.
        usual = [clip.frames[(number + 32) % 64] for number in range(64)]
        shows = [number for number in range(64) if clip.frames[number] is not usual[number]]
        events = range(clip.start, clip.start + EVENT_FRAMES)
        assert set(shows) == {number for event in events for number in (event, (event + 32) % 64)}
        assert np.array_equal(clip.frames[0], make_clip(np.random.default_rng(seed), 64, 56).frames[0])


@pytest.mark.parametrize(
    ("num_frames", "num_seen", "least", "most"),
    [
        (16, 8, 1.0, 1.0),
        (64, 8, 0.3, 0.7),
        (64, 32, 1.0, 1.0),
        (256, 8, 0.0, 0.25),
        (256, 32, 0.3, 0.7),
        (256, 256, 1.0, 1.0),
    ],
)
def test_few_frames_of_a_long_clip_miss_it(num_frames: int, num_seen: int, least: float, most: float) -> None:
    seen = set(even_indices(num_frames, num_seen))
    starts = [make_clip(np.random.default_rng(seed), num_frames, 28).start for seed in range(60)]
    caught = [bool(seen & set(range(start, start + EVENT_FRAMES))) for start in starts]
    assert least <= np.mean(caught) <= most


def test_held_out_clips_are_others(tmp_path: Path) -> None:
    write_clips(tmp_path / "clips", train=3, held_out=3, side=56, lengths={"short": 16})
    answers = {}
    for split in ("train", "heldout"):
        lines = (tmp_path / "clips" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        answers[split] = [record["answers"] for record in records]
        assert all(len(list((tmp_path / "clips" / record["videos"][0]).iterdir())) == 16 for record in records)
    assert answers["train"] != answers["heldout"]


def test_kept_features_are_the_towers_and_computed_once(nano: Path) -> None:
    """A tower that learns is run each time, and one with other weights is another."""
    model: Any = NVILAForConditionalGeneration.from_pretrained(nano, dtype=torch.float32)
    levels = torch.randint(0, 256, (3, 3, 56, 56), generator=torch.Generator().manual_seed(0))
    tiles = levels[[0, 1, 0, 2, 1]] / 127.5 - 1.0
    seen: list[int] = []
    model.vision_tower.register_forward_hook(lambda module, given, _: seen.append(len(given[0])))
    with torch.no_grad():
        expected = model.encode_tiles(tiles)
    seen.clear()
    kept: Kept = {}
    model.vision_tower.requires_grad_(False)
    with kept_features(kept):
        first, second = model.encode_tiles(tiles), model.encode_tiles(tiles[3:])
    assert seen == [3]
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(second, expected[3:])
    model.vision_tower.requires_grad_(True)
    with kept_features(kept):
        assert model.encode_tiles(tiles).requires_grad
    model.vision_tower.requires_grad_(False)
    with torch.no_grad():
        next(model.vision_tower.parameters()).add_(1.0)
    with kept_features(kept):
        changed = model.encode_tiles(tiles)
    assert seen == [3, 5, 3]
    assert not torch.equal(changed, expected)
    assert len(model.encode_tiles(tiles)) == 5
    assert seen == [3, 5, 3, 5]
    assert len(kept) == 6


def test_the_smallest_run_and_its_resumption(nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results" / "table2.json"
    sizes = ["--clips", "2", "--epochs", "1", "--held-out", "1", "--batch", "2", "--lengths", "8", "16", "32"]
    places = ["--out", str(out), "--work", str(tmp_path / "work"), "--workers", "0", "--threads", "1"]
    arguments = [*sizes, *places, "--start", str(nano), "--seeds", "0"]
    table2.main([*arguments, "--rows", "8"])
    first = json.loads(out.read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]["8"]["load"] == first["rows"]["8"]["load"]
    kept = (tmp_path / "results" / "table2" / "8-seed0.json").stat().st_mtime_ns
    table2.main([*arguments, "--rows", "8", "256-pool8"])
    second = json.loads(out.read_text(encoding="utf-8"))
    assert (tmp_path / "results" / "table2" / "8-seed0.json").stat().st_mtime_ns == kept
    assert second["rows"]["8"] == first["rows"]["8"]
    load = second["rows"]["256-pool8"]["load"]
    assert load["tokens_per_clip"] == load["visual_tokens"] == 512
    assert list(LENGTHS) == ["short", "medium", "long"]
