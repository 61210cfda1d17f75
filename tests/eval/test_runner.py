"""The runner: which samples it asks, how it counts, what it reports, and that batching does not change answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nvila.cli.main import main
from nvila.data.corpus import Assets, dense_labels, generate
from nvila.errors import ConfigError, DataError
from nvila.eval.held_out import default_corpus, held_out_samples
from nvila.eval.metrics import SPAN, accepted
from nvila.eval.runner import conversation, model_answerer, run_task, run_tasks
from nvila.eval.task import Task
from nvila.eval.tasks import all_tasks, choose_tasks
from nvila.train import start
from nvila.train.dense import dense_kinds
from nvila.train.export import build_processor, export
from nvila.train.recipe import ModelRecipe

TINY = ModelRecipe(
    vision_width=32, vision_layers=1, vision_heads=2, text_width=32, text_layers=1, text_heads=2, text_intermediate=32
)
COLOR = Task(name="color", generator="color", metrics={"accepted": accepted}, num_samples=6, max_new_tokens=3)


def test_a_perfect_and_a_wrong_answerer_get_their_due(assets: Assets) -> None:
    truths = [
        generate("color", assets, split="heldout", seed=4, index=index, size=(112, 112)).meta["answer"]
        for index in range(6)
    ]
    given = iter([*truths[:4], "no colour", "no colour"])

    def answer(conversations: Sequence[list[dict[str, Any]]], max_new_tokens: int) -> list[str]:
        return [next(given) for _ in conversations]

    result = run_task(COLOR, answer, assets, seed=4, limit=None, batch_size=4)
    assert result["metrics"] == {"accepted": pytest.approx(4 / 6)}
    assert [mistake["truth"] for mistake in result["wrong"]] == truths[4:]


def test_the_filter_leaves_samples_out_and_says_when_it_leaves_out_all(assets: Assets) -> None:
    task = all_tasks()["counting"]
    samples = held_out_samples(task, assets, default_corpus(), seed=1)
    assert all(1 <= int(next(samples).meta["answer"]) <= 9 for _ in range(30))
    never = Task(name="never", generator="color", metrics={"accepted": accepted}, keep=lambda meta: False)
    with pytest.raises(DataError, match="never"):
        next(held_out_samples(never, assets, default_corpus(), seed=1))


def test_floors_and_sizes_are_those_promised() -> None:
    tasks = all_tasks()
    promised = {"words": 0.7, "naming": 0.6, "counting": 0.85, "color": 0.92, "shape": 0.92, "position": 0.92}
    promised |= {"bars": 0.8, "motion": 0.9, "lines": 0.3, "documents": 0.3, "tables": 0.5}
    promised |= {"events": 0.75, "events_when": 0.75}
    assert {name: task.floor for name, task in tasks.items() if task.floor is not None} == promised
    assert all(task.num_samples >= 200 for task in tasks.values())
    assert tasks["words"].num_samples == tasks["naming"].num_samples == 500


def test_a_family_is_asked_one_question_a_sample(assets: Assets) -> None:
    task = replace(all_tasks()["furniture"], num_samples=5)
    samples = list(held_out_samples(task, assets, default_corpus(), seed=1))
    assert len({sample.id for sample in samples}) == len(samples) > 5
    for sample in samples:
        assert len(sample.messages) == 1
        assert [part["type"] for part in conversation(sample)[0]["content"]] == ["image", "text"]
        assert not sample.meta["answer"].startswith("[")
        assert sample.meta["answer"] == sample.meta["answers"][0]
        assert sample.meta["answer"].lower() not in ("yes", "no")
    told = iter([sample.meta["answer"] for sample in samples[:5]])
    result = run_task(task, lambda asked, _: [next(told) for _ in asked], assets, seed=1, limit=None, batch_size=2)
    assert (result["metrics"], result["num_samples"]) == ({"accepted": 1.0}, 5)


def test_clips_of_a_family_are_asked_when(assets: Assets) -> None:
    sample = next(held_out_samples(all_tasks()["events_when"], assets, default_corpus(), seed=1))
    assert conversation(sample)[0]["content"][0]["type"] == "video"
    assert SPAN.fullmatch(sample.meta["answer"])


def test_a_family_that_is_not_there_is_named(assets: Assets, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"needs held-out shards of 'tables', of which .* has none; build the full"):
        next(held_out_samples(all_tasks()["tables"], assets, tmp_path, seed=1))


def test_a_task_asks_a_generator_or_a_family() -> None:
    with pytest.raises(ConfigError, match="either a generator or a family"):
        Task(name="both", generator="word", family="tables", metrics={"accepted": accepted})
    assert [name for name, task in all_tasks().items() if task.less_is_better] == ["lines", "paragraphs"]


def test_unknown_tasks_are_named() -> None:
    assert [task.name for task in choose_tasks(["bars", "words"])] == ["bars", "words"]
    with pytest.raises(ConfigError, match="did you mean 'words'"):
        choose_tasks(["wrods"])


def test_answers_of_a_batch_equal_answers_one_by_one(assets: Assets, tmp_path: Path) -> None:
    tokenizer = start.load_or_build_tokenizer(tmp_path, assets, TINY)
    model = start.build_learner(TINY, tokenizer, dense_kinds(dense_labels(assets))).model.eval()
    answer = model_answerer(model, build_processor(model.config.visual, tokenizer))
    samples = [
        generate(name, assets, split="heldout", seed=1, index=index, size=(112, 112))
        for index, name in enumerate(("color", "sign", "naming"))
    ]
    asked = [conversation(sample) for sample in samples]
    assert answer(asked, 4) == [answer([one], 4)[0] for one in asked]


def test_the_command_writes_scores_with_their_circumstances(
    assets: Assets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = start.load_or_build_tokenizer(tmp_path / "tokenizer", assets, TINY)
    model = start.build_learner(TINY, tokenizer, dense_kinds(dense_labels(assets))).model
    export(model, tokenizer, tmp_path / "model")
    out = tmp_path / "scores.json"
    arguments = ["eval", "--model", str(tmp_path / "model"), "--assets", str(assets.root), "--tasks", "color,motion"]
    assert main([*arguments, "--limit", "3", "--out", str(out)]) == 0
    scores = json.loads(out.read_text(encoding="utf-8"))
    assert [(task["task"], task["num_samples"]) for task in scores["tasks"]] == [("color", 3), ("motion", 3)]
    assert {"date", "hardware", "versions", "seed", "model"} <= scores.keys()
    assert "color" in capsys.readouterr().out


def test_scores_name_every_task_once(assets: Assets) -> None:
    heard: list[str] = []
    scores = run_tasks(
        [COLOR],
        lambda conversations, _: ["red"] * len(conversations),
        assets,
        on_done=lambda result: heard.append(result["task"]),
    )
    assert heard == ["color"]
    assert scores["tasks"][0]["num_samples"] == 6
