"""Every shipped recipe can be read, and those of the published sizes follow Table 7 and can be planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvila import config as config_files
from nvila.cli.main import main
from nvila.data.mixture import MixtureConfig
from nvila.train.recipe import Recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted(
    path
    for folder in ("mini", "nano", "nvila")
    for path in (ROOT / "recipes" / folder).glob("*.toml")
    if path.name != "texts.toml"  # a mixture
)
TABLE_7 = {
    "projector": (("projector",), 1e-3),
    "vision": (("vision", "projector"), 5e-5),
    "pretrain": (("projector", "llm"), 5e-5),
    "images": (("vision", "projector", "llm"), 2e-5),
    "video": (("vision", "projector", "llm"), 2e-5),
}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_recipes_are_read(path: Path) -> None:
    recipe = config_files.load(Recipe, path)
    assert recipe.stage
    for stage in recipe.stage:
        if stage.mixture:
            assert config_files.load(MixtureConfig, ROOT / stage.mixture).source


@pytest.mark.parametrize("path", [path for path in RECIPES if path.parent.name == "nvila"], ids=lambda path: path.stem)
def test_published_sizes_follow_table_7(path: Path) -> None:
    recipe = config_files.load(Recipe, path)
    found = {stage.name: (stage.train, stage.learning_rate) for stage in recipe.stage}
    assert found == TABLE_7
    for stage in recipe.stage:
        assert (stage.schedule, stage.warmup_ratio, stage.weight_decay) == ("cosine", 0.03, 0.0)
        assert (stage.batches.global_batch, stage.loss, stage.final_ratio) == (2048, "token", 0.0)
    assert (recipe.stage[-1].visual.num_video_frames, recipe.stage[-1].visual.temporal_pool) == (256, 8)


def test_a_plan_says_what_a_stage_takes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["train", "recipes/nvila/8b.toml", "--plan", "--gpus", "128", "--gpu", "h100"]) == 0
    text = capsys.readouterr().out
    assert text.count("== ") == 5
    assert "8.09 B" in text
    assert "293 steps" in text  # 600,000 samples, 2,048 a step
    assert "on 128 h100s at 40% of the peak rate" in text
    assert main(["train", "recipes/mini/first.toml", "--plan"]) == 2
    assert "does not say how large its samples are" in capsys.readouterr().err
    assert main(["train", "recipes/nvila/8b.toml"]) == 2
    assert "--out" in capsys.readouterr().err
