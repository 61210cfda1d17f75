"""`make train-demo`: its recipe has the paper's stages, its words stay held out, and all of it runs, two steps each."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from nvila import config as config_files
from nvila.data.corpus import Assets, generate
from nvila.data.corpus.splits import word_split
from nvila.train.recipe import Batches, Recipe, Stage

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "nano" / "pipeline.toml"
PAPER = {
    "projector": ("projector",),
    "vision": ("vision", "projector"),
    "pretrain": ("projector", "llm"),
    "images": ("vision", "projector", "llm"),
    "video": ("vision", "projector", "llm"),
}


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    pytest.importorskip("matplotlib", reason="the demo's fonts are matplotlib's")
    spec = importlib.util.spec_from_file_location("nano_demo", ROOT / "recipes" / "nano" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(demo: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("train-demo")
    demo.prepare(path, num_texts=64)
    return path


def test_the_recipe_has_stage_0_and_the_five_of_the_paper() -> None:
    recipe = config_files.load(Recipe, RECIPE)
    stages = {stage.name: stage for stage in recipe.stage}
    assert [(name, stages[name].train) for name in list(stages)[2:]] == list(PAPER.items())
    assert (stages["tower"].train, stages["tower"].answer_weight) == (("vision",), 0.0)
    assert stages["decoder"].train == ("llm",)
    assert any(source.frames for source in stages["video"].source)
    assert all(stage.seconds is None for stage in recipe.stage), "a stage that ends by the clock is not repeatable"


def test_held_out_words_are_in_no_text_and_no_picture_of_training(folder: Path) -> None:
    assets = Assets.load(folder / "assets")
    assert len(assets.words("heldout")) >= 40
    talks = [json.loads(line)["conversations"] for line in (folder / "texts.jsonl").read_text().splitlines()]
    for question, answer in talks:
        assert question["value"].split("\n")[0].strip(".") == answer["value"]
        assert len(question["value"].split("\n")[0]) == 16
    drawn = [generate("short_word", assets, split="train", seed=1, index=i, size=(112, 112)) for i in range(300)]
    shown = {answer["value"] for _, answer in talks} | {sample.meta["answer"] for sample in drawn}
    assert {word_split(word) for word in shown} == {"train"}
    asked = [generate("short_word", assets, split="heldout", seed=1, index=i, size=(112, 112)) for i in range(60)]
    assert {word_split(sample.meta["answer"]) for sample in asked} == {"heldout"}


def test_every_letter_of_a_short_word_is_whole_and_large(folder: Path) -> None:
    assets = Assets.load(folder / "assets")
    for index in range(100):
        sample = generate("short_word", assets, split="train", seed=2, index=index, size=(112, 112))
        word = sample.meta["answer"]
        assert word == word.lower()
        assert 3 <= len(word) <= 5
        assert [item.label.removeprefix("char:") for item in sample.objects] == list(word)
        assert max(item.box[3] - item.box[1] for item in sample.objects) >= 14


def test_the_whole_demo_runs(
    demo: ModuleType, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from nvila.train import stages
    from nvila.train.export import export
    from nvila.train.start import load_or_build_tokenizer

    mixture = (ROOT / "recipes" / "nano" / "texts.toml").read_text(encoding="utf-8")
    (tmp_path / "texts.toml").write_text(mixture.replace("build/train-demo", str(folder)), encoding="utf-8")

    def short(stage: Stage) -> Stage:
        if stage.mixture:
            batches = Batches(global_batch=4, micro_batch=4, pack=False, max_tokens=stage.batches.max_tokens)
            return replace(stage, steps=2, mixture=str(tmp_path / "texts.toml"), batches=batches)
        return replace(stage, steps=2, batch_size=4)

    recipe = config_files.load(Recipe, RECIPE, ["run.threads=1", "run.workers=0", "run.probe_samples=0"])
    recipe = replace(recipe, stage=tuple(map(short, recipe.stage)))
    assets = Assets.load(folder / "assets")
    learner = stages.run_recipe(recipe, tmp_path / "run", assets)
    export(
        learner.model, load_or_build_tokenizer(tmp_path / "run" / "tokenizer", assets, recipe.model), folder / "model"
    )
    demo.show(folder, words=replace(demo.WORDS, num_samples=8), clips=replace(demo.CLIPS, num_samples=4))
    told = capsys.readouterr().out
    assert "0 of 8 pictures read to the last letter (0%" in told
    assert told.count(".png -> ") == demo.NUM_SHOWN
    assert {word_split(path.stem.partition("-")[2]) for path in (folder / "words").glob("*.png")} == {"heldout"}
