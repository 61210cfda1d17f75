"""The plan against the real thing: bytes of real tensors, activations that a real step keeps; and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.train.finetune.conftest import QUICK, make_options, make_prepared

from nvila import config as config_files
from nvila.errors import ConfigError
from nvila.train import stages
from nvila.train.finetune.measure import count_parts, count_step, read_base_config, skeleton
from nvila.train.finetune.plan import Room, free_memory, largest_batch, make_plan, work_of
from nvila.train.finetune.recipe import make_recipe, plan_batches, token_limit
from nvila.train.finetune.survey import Survey
from nvila.train.learner import Learner
from nvila.train.precision.saved import saved_bytes
from nvila.train.recipe import Recipe
from nvila.train.start import load_or_build_tokenizer

SURVEY = Survey(num_samples=100, num_tokens=10_000, num_tiles=300, longest=180, most_tiles=5, densest=0.04)
ROOM = Room(name="a card", memory=1 << 34, rate=1e12)
METHODS = [("ln", "lora"), ("lora", "qlora"), ("full", "full"), ("frozen", "lora"), ("ln", "frozen")]


def recipe_of(base: Path, *overrides: str, bf16: bool = False, **changes: object) -> Recipe:
    options = make_options(base, base, **changes)
    recipe = make_recipe(options, read_base_config(str(base)), SURVEY, Path("m.toml"), bf16=bf16)
    return config_files.overridden(recipe, overrides if bf16 else [*QUICK, *overrides])


def real_learner(recipe: Recipe, folder: Path) -> Learner:
    learner = stages.new_learner(recipe, load_or_build_tokenizer(folder, None, recipe.model), ())
    stages.prepare(learner, recipe.stage[0], adapters=recipe.adapters)
    return learner


@pytest.mark.parametrize(("vision", "language"), METHODS)
@pytest.mark.parametrize("bf16", [False, True])
def test_weights_are_those_of_the_real_model(
    base: Path, tmp_path: Path, vision: str, language: str, bf16: bool
) -> None:
    recipe = recipe_of(base, bf16=bf16, vision=vision, language=language)
    learner = real_learner(recipe, tmp_path)
    planned = count_parts(skeleton(recipe))
    assert planned == count_parts(learner)
    tensors = {id(tensor): tensor for tensor in learner.model.state_dict(keep_vars=True).values()}
    assert sum(part.weight_bytes for part in planned.values()) == sum(tensor.nbytes for tensor in tensors.values())
    trained = sum(weight.nbytes for weight in learner.model.parameters() if weight.requires_grad)
    assert sum(part.trained_bytes for part in planned.values()) == trained > 0


@pytest.mark.parametrize(("vision", "language"), METHODS)
@pytest.mark.parametrize("bf16", [False, True])
def test_activations_are_those_of_a_real_step(
    base: Path, tmp_path: Path, vision: str, language: str, bf16: bool
) -> None:
    recipe = recipe_of(base, bf16=bf16, vision=vision, language=language)
    counted = count_step(skeleton(recipe), tokens=200, tiles=6, bf16=bf16)
    learner = real_learner(recipe, tmp_path)
    model = learner.model.train()
    own = [*model.parameters(), *model.buffers()]

    def see() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            features = model.encode_tiles(torch.zeros(6, 3, 56, 56))
            return torch.cat(model.get_image_features(None, [(1, 1)] * 6, features).pooler_output)

    embeds = torch.zeros(1, 200, 48, dtype=model.get_input_embeddings().weight.dtype, requires_grad=True)

    def read() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found: torch.Tensor = model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        return found

    assert counted.vision + counted.projector == pytest.approx(saved_bytes(see, own), rel=0.02, abs=4096)
    assert counted.llm == pytest.approx(saved_bytes(read, own), rel=0.02)


def test_less_learns_less_is_kept(base: Path) -> None:
    plans = {
        (vision, language): make_plan(recipe_of(base, vision=vision, language=language), SURVEY, ROOM)
        for vision, language in METHODS
    }
    usual, whole = plans["ln", "lora"], plans["full", "full"]
    assert usual.memory["optimizer"] < whole.memory["optimizer"]
    assert usual.memory["vision_activations"] < whole.memory["vision_activations"]
    assert usual.memory["llm_activations"] < whole.memory["llm_activations"]
    assert usual.flops < whole.flops
    assert plans["frozen", "lora"].memory["vision_activations"] == 0
    assert plans["lora", "qlora"].parts["llm"].weight_bytes < 0.6 * usual.parts["llm"].weight_bytes


def test_recomputation_keeps_less_and_works_more(base: Path) -> None:
    plain = make_plan(recipe_of(base), SURVEY, ROOM)
    again = make_plan(recipe_of(base, 'stage.0.gradient_checkpointing=["vision", "llm"]'), SURVEY, ROOM)
    assert again.memory["llm_activations"] < 0.5 * plain.memory["llm_activations"]
    assert again.memory["vision_activations"] < 0.5 * plain.memory["vision_activations"]
    assert again.flops > plain.flops


def test_the_work_of_a_step_is_that_of_its_tokens_and_tiles(base: Path) -> None:
    recipe = recipe_of(base)
    plan = make_plan(recipe, SURVEY, ROOM)
    per_token, per_tile = work_of(recipe, SURVEY)
    batches = recipe.stage[0].batches
    tokens = batches.rows_per_step * batches.max_tokens
    tiles = tokens * SURVEY.num_tiles / SURVEY.num_tokens
    assert plan.flops == pytest.approx(per_token * tokens + per_tile * tiles)
    again = recipe_of(base, 'stage.0.gradient_checkpointing=["vision", "llm"]')
    assert work_of(again, SURVEY) == (per_token, per_tile)
    assert work_of(recipe_of(base, language="full"), SURVEY)[0] > 1.05 * per_token


def test_what_does_not_fit_is_refused_with_what_does(base: Path, data: Path, tmp_path: Path) -> None:
    options = make_options(base, data)
    need = make_prepared(options, tmp_path / "out").plan.total
    told: list[str] = []
    with pytest.raises(ConfigError, match=r"this needs .* are free on .*; what fits: .*gradient_checkpointing"):
        make_prepared(options, tmp_path / "out", memory=int(0.95 * need))
    with pytest.raises(ConfigError, match=r"the least of what can be changed here is .* which does not fit either"):
        make_prepared(options, tmp_path / "out", memory=1000)
    make_prepared(options, tmp_path / "out", memory=1000, force=True, tell=told.append)
    assert any("going on all the same (--force)" in line for line in told)
    assert not (tmp_path / "out").exists()


def test_the_plan_is_printed_by_part_and_component(base: Path) -> None:
    shown = make_plan(recipe_of(base), SURVEY, ROOM).text()
    for words in ("vision", "projector", "llm", "gradients", "optimizer", "llm activations", "free on a card", "steps"):
        assert words in shown


def test_an_out_that_cannot_be_is_refused_before_anything_is_written(base: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file: is a file"):
        make_prepared(make_options(base, data), tmp_path / "file" / "out")
    with pytest.raises(ConfigError, match=r"/proc/.*cannot be written|/proc/.*free"):
        make_prepared(make_options(base, data), Path("/proc/self/out"))


@pytest.mark.parametrize("packing", [True, False])
def test_a_step_holds_as_many_samples_as_asked_for(base: Path, packing: bool) -> None:
    options = make_options(base, base, packing=packing, batch=8, epochs=2.0)
    batches, steps = plan_batches(options, SURVEY, 512)
    per_step = 2 * SURVEY.num_samples / steps
    assert per_step == pytest.approx(8, rel=0.15)
    assert batches.max_tokens >= SURVEY.longest


def test_rows_are_shared_by_ranks(base: Path) -> None:
    batches, _ = plan_batches(make_options(base, base, batch=8), SURVEY, 512, num_ranks=2)
    assert batches.rows_per_step % 2 == 0
    batches, _ = plan_batches(make_options(base, base, batch=8, packing=False), SURVEY, 512, num_ranks=2)
    assert batches.global_batch % (2 * batches.micro_batch) == 0


def test_the_largest_batch_holds_the_densest_samples(base: Path) -> None:
    recipe = recipe_of(base)
    tokens, tiles = largest_batch(recipe, SURVEY)
    assert tokens == recipe.stage[0].batches.max_tokens
    assert tiles == int(tokens * SURVEY.densest)
    recipe = recipe_of(base, packing=False)
    micro = recipe.stage[0].batches.micro_batch
    assert micro > 1
    assert largest_batch(recipe, replace(SURVEY, longest=250)) == (250 * micro, 5 * micro)


def test_samples_are_as_long_as_the_model_takes(base: Path) -> None:
    config = read_base_config(str(base))
    assert token_limit(make_options(base, base), config) == 1024
    with pytest.raises(ConfigError, match="--max-tokens is 2000, and the model has 1024 positions"):
        token_limit(make_options(base, base, max_tokens=2000), config)


def test_a_control_groups_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert free_memory(tmp_path) == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) > 3000
