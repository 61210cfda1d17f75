"""Scoring a model on data of one's own: every answer is a question, behind the true turns before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.media_files import noise

from nvila.cli.main import main
from nvila.data.mixture import data_config
from nvila.errors import DataError
from nvila.eval.own_data import METRICS, questions_of
from nvila.eval.runner import conversation, score_samples


def write(path: Path, records: list[list[tuple[str, str]]]) -> Path:
    noise(40, 40, 1).save(path.parent / "a.png")
    lines = []
    for index, turns in enumerate(records):
        messages = [{"from": speaker, "value": text} for speaker, text in turns]
        lines.append(json.dumps({"id": str(index), "image": "a.png", "conversations": messages}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    two = [("human", "<image>\nWhat?"), ("gpt", "A cat."), ("human", "Where?"), ("gpt", "left")]
    one = [("human", "<image>\nHow many?"), ("gpt", "20")]
    return write(tmp_path / "data.jsonl", [two, one])


def test_every_answer_is_asked_for_behind_the_true_turns(data: Path) -> None:
    samples = list(questions_of(data_config(str(data))))
    assert [sample.meta["answers"] for sample in samples] == [["A cat."], ["left"], ["20"]]
    turns = conversation(samples[1])
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert turns[1]["content"] == [{"type": "text", "text": "A cat."}]
    assert turns[0]["content"][0]["type"] == "image"
    given = iter(["the cat", "right", "20.5"])
    result = score_samples(
        samples, lambda asked, _: [next(given) for _ in asked], METRICS, max_new_tokens=4, batch_size=2, name="own"
    )
    assert {name: round(value, 3) for name, value in result["metrics"].items()} == {
        "exact": 0.0,
        "accepted": 0.333,
        "anls": 0.5,
        "relaxed": 0.667,
    }
    assert [mistake["truth"] for mistake in result["wrong"]] == ["A cat.", "left", "20"]


def test_a_limit_draws_samples_by_the_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "many.jsonl", [[("human", f"<image>\n{n}?"), ("gpt", str(n))] for n in range(20)])

    def drawn(seed: int) -> list[str]:
        return [one.meta["answer"] for one in questions_of(data_config(str(path)), limit=5, seed=seed)]

    assert drawn(0) == drawn(0) != drawn(1)
    assert len(set(drawn(0))) == 5


def test_what_cannot_be_asked_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "broken.jsonl", [[("human", "<image>\nWhat?"), ("gpt", "a")]])
    path.write_text(path.read_text() + '{"id": "b", "image": "a.png", "conversations": []}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"broken\.jsonl.*nvila data check"):
        list(questions_of(data_config(str(path))))


@pytest.mark.parametrize("extra", [["--vision", "w8a8"], []])
def test_the_command_scores_own_data(
    data: Path, tmp_path: Path, extra: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.json"
    assert main(["eval", "--data", str(data), "--max-new-tokens", "4", "--out", str(out), *extra]) == 0
    scores: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    (result,) = scores["tasks"]
    assert (result["task"], result["num_samples"]) == ("data", 3)
    assert set(result["metrics"]) == set(METRICS)
    assert scores["vision"] == (extra[1] if extra else None)
    assert "data " in capsys.readouterr().out


def test_options_of_the_tasks_do_not_go_with_own_data(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--data", str(data), "--tasks", "words"]) == 2
    assert "--tasks belongs to the held-out tasks" in capsys.readouterr().err
    assert main(["eval", "--tasks", "wrods"]) == 2
    assert "did you mean 'words'" in capsys.readouterr().err
