"""Training end to end at a tiny size: it learns, it resumes bit for bit, frozen parts stay, exports load and answer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_model
from transformers import TrainerCallback

from nvila.data.corpus import Assets, dense_labels
from nvila.errors import CheckpointError, ConfigError
from nvila.model import NVILAForConditionalGeneration
from nvila.processing import NVILAProcessor
from nvila.train import stages, start
from nvila.train.dense import dense_kinds
from nvila.train.export import export, load_weights, model_card
from nvila.train.learner import answer_losses, conversations
from nvila.train.recipe import ModelRecipe, Recipe, Run, Source, Stage
from nvila.train.schedule import StageClock
from nvila.train.stream import BatchStream, choose_sources, difficulty_at
from nvila.train.tokenizer import build_tokenizer
from nvila.train.trainer import StageTrainer, parameter_groups

TINY = ModelRecipe(
    vision_width=32, vision_layers=2, vision_heads=2, text_width=32, text_layers=2, text_heads=2, text_intermediate=64
)
RUN = Run(seed=3, threads=1, workers=0, bf16=False, compile=False, log_steps=1, probe_samples=0)


def make_stage(**changes: Any) -> Stage:
    stage = Stage(
        name="one",
        steps=6,
        batch_size=4,
        learning_rate=3e-3,
        warmup_steps=2,
        source=(Source(task="color", weight=2.0), Source(task="word", spell=True)),
    )
    return replace(stage, **changes)


def make_recipe(*stage: Stage) -> Recipe:
    return Recipe(name="tiny", stage=stage, run=RUN, model=TINY)


def losses(folder: Path) -> dict[int, float]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    return {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}


class StopAt(TrainerCallback):
    """Saves and stops after a step, as a signal would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


def test_the_loss_falls(assets: Assets, tmp_path: Path) -> None:
    stage = make_stage(steps=20, batch_size=16, learning_rate=1e-2, source=(Source(task="color"),), dense_weight=0.0)
    stages.run_recipe(make_recipe(stage), tmp_path, assets)
    curve = losses(tmp_path)
    assert curve[1] > 4.0
    assert curve[20] < 2.5


def test_a_resumed_training_equals_an_uninterrupted_one(
    assets: Assets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(make_stage())
    stages.run_recipe(recipe, tmp_path / "whole", assets)
    original = StageTrainer.__init__

    def stopping(self: StageTrainer, *args: Any) -> None:
        original(self, *args)
        self.add_callback(StopAt(3))

    with monkeypatch.context() as patch:
        patch.setattr(StageTrainer, "__init__", stopping)
        stages.run_recipe(recipe, tmp_path / "parts", assets)
    assert not stages.is_finished(recipe, tmp_path / "parts")
    stages.run_recipe(recipe, tmp_path / "parts", assets)
    assert stages.is_finished(recipe, tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    whole = load_file(tmp_path / "whole" / "one" / stages.FINAL_FILE)
    parts = load_file(tmp_path / "parts" / "one" / stages.FINAL_FILE)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_only_the_named_parts_are_trained(assets: Assets, tmp_path: Path) -> None:
    first = make_stage(name="vision", steps=2, train=("vision",), answer_weight=0.0, dense_weight=1.0)
    second = make_stage(name="words", steps=2, train=("projector", "llm"), dense_weight=0.0)
    stages.run_recipe(make_recipe(first, second), tmp_path, assets)
    before = load_file(tmp_path / "vision" / stages.FINAL_FILE)
    after = load_file(tmp_path / "words" / stages.FINAL_FILE)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith(("model.mm_projector", "model.llm")) for name in moved)


def test_parts_learn_at_rates_of_their_own(assets: Assets) -> None:
    stage = make_stage(learning_rate=1e-3, part_learning_rates={"vision": 4e-4})
    tokenizer = build_tokenizer(["red"])
    learner = start.build_learner(TINY, tokenizer, dense_kinds(dense_labels(assets)))
    stages.prepare(learner, stage)
    groups = parameter_groups(learner, stage)
    rates = {id(weight): group["lr"] for group in groups for weight in group["params"]}
    trained = {name: rates[id(weight)] for name, weight in learner.named_parameters() if weight.requires_grad}
    assert {rate for name, rate in trained.items() if "vision_tower" in name} == {4e-4}
    assert {rate for name, rate in trained.items() if "vision_tower" not in name} == {1e-3}
    assert sum(len(group["params"]) for group in groups) == len(trained) == len(rates)
    assert all(group["weight_decay"] == 0 for group in groups if any(w.ndim == 1 for w in group["params"]))


def test_a_calibrated_projector_gives_tokens_of_mean_0_and_the_size_of_words() -> None:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["red"])
    model = start.build_learner(TINY, tokenizer, dense_kinds(["char:a"])).model
    loud = model.vision_tower.vision_model.encoder.layers[-2].mlp.fc2
    with torch.no_grad():
        loud.bias[3] = 400.0
    tiles = torch.rand(6, 3, 112, 112) * 2 - 1
    tower = {name: weight.clone() for name, weight in model.vision_tower.state_dict().items()}
    start.calibrate(model, tiles)
    with torch.no_grad():
        features = model.mm_projector(model.encode_tiles(tiles)).flatten(0, -2)
    assert features.mean(dim=0).abs().max() < 1e-4
    assert features.square().mean().sqrt().item() == pytest.approx(start.TOKEN_SIZE, rel=1e-3)
    assert features.var(dim=0).max() < 50 * features.var(dim=0).median()
    assert all(torch.equal(tower[name], weight) for name, weight in model.vision_tower.state_dict().items())


def test_a_resumed_stage_is_not_calibrated_again(
    assets: Assets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(stages, "calibrate", lambda model, tiles: calls.append(len(tiles)))
    original = StageTrainer.__init__

    def stopping(self: StageTrainer, *args: Any) -> None:
        original(self, *args)
        self.add_callback(StopAt(2))

    recipe = make_recipe(make_stage(calibrate=True, steps=4))
    with monkeypatch.context() as patch:
        patch.setattr(StageTrainer, "__init__", stopping)
        stages.run_recipe(recipe, tmp_path, assets)
    stages.run_recipe(recipe, tmp_path, assets)
    assert stages.is_finished(recipe, tmp_path)
    assert calls == [stages.CALIBRATION_BATCHES * 4]


def test_batches_depend_on_the_step_alone(assets: Assets, tmp_path: Path) -> None:
    recipe = make_recipe(make_stage())
    tokenizer = start.load_or_build_tokenizer(tmp_path, assets, TINY)
    kinds = dense_kinds(dense_labels(assets))
    encoder = stages.build_encoder(start.build_learner(TINY, tokenizer, kinds), tokenizer, kinds)
    stream = BatchStream(recipe.stage[0], assets, encoder, seed=3)
    resumed = BatchStream(recipe.stage[0], assets, encoder, seed=3)
    resumed.load_state_dict(stream.state_dict(5))
    later = next(iter(resumed))
    assert torch.equal(stream.batch(5)["pixel_values"], later["pixel_values"])
    assert not torch.equal(stream.batch(4)["labels"], later["labels"])


def test_every_answer_of_a_conversation_counts_as_if_it_stood_alone() -> None:
    """Two answers in one row weigh what they weigh in rows of their own, and are counted one by one."""
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 5, bias=False)
    hidden = torch.randn(1, 9, 8)
    labels = torch.tensor([[-100, -100, 1, 2, -100, -100, 3, -100, -100]])
    first, second = labels.clone(), labels.clone()
    first[0, 4:], second[0, :4] = -100, -100
    together, right = answer_losses(hidden, labels, head)
    apart, apart_right = answer_losses(hidden.expand(2, -1, -1), torch.cat([first, second]), head)
    torch.testing.assert_close(together, apart)
    logits = head(hidden)[0]
    losses = torch.nn.functional.cross_entropy(logits[[1, 2, 5]], labels[0, [2, 3, 6]], reduction="none")
    weights = torch.tensor([0.5**0.5, 0.5**0.5, 1.0])
    torch.testing.assert_close(together, (losses * weights).sum() / weights.sum())
    labels[0, 6] = logits[5].argmax()
    labels[0, 2:4] = logits[1:3].argmin(-1)
    assert answer_losses(hidden, labels, head)[1].tolist() == [0.5]
    assert right.tolist() == [apart_right.mean().item()]


def test_packed_conversations_are_counted_apart() -> None:
    """Two conversations in a row, with three answers in all, and padding behind them."""
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 5, bias=False)
    hidden = torch.randn(1, 9, 8)
    labels = torch.full((1, 9), -100)
    for place, is_right in {1: True, 3: False, 6: True}.items():
        logits = head(hidden[0, place - 1])
        labels[0, place] = logits.argmax() if is_right else logits.argmin()
    owners = conversations(labels, torch.tensor([0, 5, 7, 9], dtype=torch.int32))
    assert owners.tolist() == [[0] * 5 + [1] * 2 + [2] * 2]
    packed_loss, right = answer_losses(hidden, labels, head, owners_BL=owners)
    assert right.tolist() == [0.5, 1.0]
    loss, row = answer_losses(hidden, labels, head)
    torch.testing.assert_close(packed_loss, loss)
    torch.testing.assert_close(row, torch.tensor([2 / 3]))


def test_a_batch_holds_sources_of_one_bucket() -> None:
    stage = make_stage(
        batch_size=32,
        source=(
            Source(task="word", weight=3.0),
            Source(task="color"),
            Source(task="strip", weight=2.0, bucket=1),
            Source(task="paragraph", weight=2.0, bucket=1),
        ),
    )
    batches = [set(choose_sources(stage, np.random.default_rng(seed))) for seed in range(40)]
    assert {frozenset(batch) for batch in batches} == {frozenset({0, 1}), frozenset({2, 3})}


def test_difficulty_rises_and_rates_warm_up_and_fall() -> None:
    stage = make_stage(steps=100, warmup_steps=10, decay_fraction=0.5, final_ratio=0.1)
    ramp = replace(stage, difficulty_start=0.2, difficulty_steps=50)
    assert [round(difficulty_at(ramp, step), 3) for step in (0, 25, 50, 90)] == [0.2, 0.6, 1.0, 1.0]
    clock = StageClock(stage)
    assert [round(clock.rate(step), 3) for step in (0, 9, 50, 75, 100)] == [0.1, 1.0, 1.0, 0.55, 0.1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 1_000_000}, "no end"),
        ({"dense_weight": 0.0, "answer_weight": 0.0}, "nothing would be learned"),
        ({"answer_weight": 0.0}, "only 'vision'"),
        ({"difficulty_start": 1.5}, "1.5"),
        ({"train": ("llm",), "part_learning_rates": {"vision": 1e-4}}, r"\['vision'\]"),
        ({"source": ()}, "no source"),
        ({"mixture": "m.toml"}, "both sources and a mixture"),
        ({"epochs": 1.0}, "have no epochs"),
        ({"gradient_checkpointing": ("projector",)}, "projector"),
    ],
)
def test_contradicting_stages_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_stage(**changes)


def test_an_export_loads_and_answers(assets: Assets, tmp_path: Path) -> None:
    recipe = make_recipe(make_stage(steps=1))
    learner = stages.run_recipe(recipe, tmp_path / "run", assets)
    tokenizer = start.load_or_build_tokenizer(tmp_path / "run" / "tokenizer", assets, TINY)
    kinds = dense_kinds(dense_labels(assets))
    fresh = start.build_learner(TINY, tokenizer, kinds).model
    load_weights(fresh, tmp_path / "run" / "one" / stages.FINAL_FILE)
    for name, weight in learner.model.state_dict().items():
        assert torch.equal(weight, fresh.state_dict()[name]), name
    size = export(fresh, tokenizer, tmp_path / "out")
    assert size == sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    model = NVILAForConditionalGeneration.from_pretrained(tmp_path / "out")
    processor = NVILAProcessor.from_pretrained(tmp_path / "out")
    assert model.dtype is torch.bfloat16
    messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[1] > inputs["input_ids"].shape[1]


def test_weights_that_are_not_finite_or_do_not_fit_are_refused(assets: Assets, tmp_path: Path) -> None:
    tokenizer = start.load_or_build_tokenizer(tmp_path, assets, TINY)
    kinds = dense_kinds(dense_labels(assets))
    learner = start.build_learner(TINY, tokenizer, kinds)
    save_model(learner, str(tmp_path / "a.safetensors"))
    deeper = start.build_learner(replace(TINY, text_layers=3), tokenizer, kinds)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_weights(deeper.model, tmp_path / "a.safetensors")
    with torch.no_grad():
        learner.model.mm_projector.layers[1].weight[0] = float("nan")
    with pytest.raises(CheckpointError, match="mm_projector"):
        export(learner.model, tokenizer, tmp_path / "out")


def test_the_model_card_is_filled_from_scores_and_manifest() -> None:
    scores: dict[str, Any] = {
        "seed": 7,
        "hardware": "a processor",
        "date": "2026-01-02",
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
        "tasks": [
            {"task": "words", "metrics": {"exact": 0.5, "cer": 0.25}, "floor": 0.45, "num_samples": 500},
            {"task": "bars", "metrics": {"accepted": 0.1}, "floor": 0.8, "num_samples": 200},
            {"task": "lines", "metrics": {"cer": 0.2}, "floor": 0.3, "num_samples": 200},
        ],
    }
    for task in scores["tasks"]:
        task["less_is_better"] = task["task"] == "lines"
    manifest = [{"name": "fonts-x", "from": "debian", "version": "1.2", "licence": "OFL-1.1"}]
    card = model_card(name="m", recipe="r.toml", num_parameters=9_000_000, scores=scores, manifest=manifest)
    assert "| words | exact | 0.500 | 0.45, reached | 500 |" in card
    assert "| words | cer | 0.250 |  | 500 |" in card
    assert "| lines | cer | 0.200 | 0.30, reached | 200 |" in card
    assert "| bars | accepted | 0.100 | 0.80, missed | 200 |" in card
    assert "| fonts-x | debian | 1.2 | OFL-1.1 |" in card
    assert "9.0 million" in card
    assert "Reading" not in card
    found = {"nvila": {"exact": 0.5}, "tesseract": {"exact": 0.75}}
    readers = {**scores, "tasks": [{"task": "words", "num_samples": 200, "scores": found}]}
    card = model_card(
        name="m", recipe="r.toml", num_parameters=9_000_000, scores=scores, manifest=manifest, readers=readers
    )
    assert "| task | samples | metric | nvila | tesseract |" in card
    assert "| words | 200 | exact | 0.500 | 0.750 |" in card
    assert "Seed 7, a processor, torch 2.13.0" in card


def test_a_run_may_start_from_a_checkpoint(assets: Assets, tmp_path: Path) -> None:
    tokenizer = start.load_or_build_tokenizer(tmp_path / "first", assets, TINY)
    kinds = dense_kinds(dense_labels(assets))
    first = start.build_learner(TINY, tokenizer, kinds).model
    export(first, tokenizer, tmp_path / "checkpoint")
    sizes = replace(TINY, init=str(tmp_path / "checkpoint"))
    again = start.load_or_build_tokenizer(tmp_path / "second", assets, sizes)
    assert again.get_vocab() == tokenizer.get_vocab()
    second = start.build_learner(sizes, again, kinds).model
    stored = first.to(torch.bfloat16).state_dict()
    assert all(torch.equal(weight, stored[name].float()) for name, weight in second.state_dict().items())
    with pytest.raises(CheckpointError, match="has shape"):
        start.build_learner(replace(sizes, text_intermediate=48), again, kinds)
