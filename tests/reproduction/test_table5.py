"""Table 5 at small scale: tasks that can be answered and whose sides differ, counted bytes, claims, and a small run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import table5_finetuning as table5
import torch
from downstream_canvas import KINDS, kinds_of, others
from downstream_scenes import SPOTS, STEPS
from downstream_screens import ACTIONS, CAPTIONS
from downstream_tasks import DRAWN, FILES, SLICE_ANSWERS, SLICES, TASKS, commonest, drawn, in_order, write_tasks
from finetuning_rows import ROWS, claims
from step_costs import stored_bytes

from nvila.data.formats import open_source
from nvila.train.precision.saved import held_bytes

ANSWERS = {"screen": ACTIONS, "step": tuple(STEPS), "road": SPOTS, "widget": tuple(CAPTIONS), SLICES: SLICE_ANSWERS}


@pytest.fixture(scope="module")
def data(packaged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks") / "data"
    write_tasks(folder, corpus=packaged, train=24, valid=4, test=6)
    return folder


@pytest.mark.parametrize("task", DRAWN)
def test_drawn_answers_are_equally_frequent(task: str) -> None:
    stream = drawn(task, "train")
    counts = Counter(next(stream).answer for _ in range(600))
    assert set(counts) == set(ANSWERS[task])
    assert max(counts.values()) < 2.2 * 600 / len(ANSWERS[task])


@pytest.mark.parametrize("task", DRAWN)
def test_the_same_picture_each_time_and_others_on_the_held_out_side(task: str, tmp_path: Path) -> None:
    sides: dict[str, list[Any]] = {side: in_order(task, side, tmp_path, 30) for side in ("train", "heldout")}  # type: ignore[arg-type]
    again = in_order(task, "train", tmp_path, 30)
    assert [item.image.tobytes() for item in again] == [item.image.tobytes() for item in sides["train"]]
    assert again[0].image.size == (112, 112)
    words = {side: {" ".join(item.question.split()[:3]) for item in items} for side, items in sides.items()}
    assert not words["train"] & words["heldout"]
    grounds = {side: {item.image.getpixel((1, 60)) for item in items} for side, items in sides.items()}
    assert not grounds["train"] & grounds["heldout"]


def test_what_is_asked_for_differs_between_the_sides() -> None:
    train, held_out = kinds_of("train"), kinds_of("heldout")
    assert not set(train) & set(held_out)
    assert set(train) | set(held_out) == set(KINDS)
    assert len(held_out) >= 5
    assert {shape for _, shape in train} == {shape for _, shape in KINDS}
    found = others(np.random.default_rng(0), KINDS[0], 6)
    assert len(set(found)) == 6
    assert KINDS[0] not in found


def test_the_icon_is_where_the_answer_says() -> None:
    """By colour, with no other icon of it near: the wanted icon's colour is in its quarter of the screen."""
    stream = drawn("screen", "train")
    seen = 0
    for _ in range(60):
        item = next(stream)
        if item.answer == "scroll down":
            continue
        _, row, column = item.answer.split()
        top, left = {"top": 10, "middle": 42, "bottom": 76}[row], {"left": 14, "right": 70}[column]
        colour = next(word for word in item.question.split() if word in {kind[0] for kind in KINDS})
        region = np.asarray(item.image, np.int64)[top : top + 32, left : left + 28]
        rgb = {
            "red": (220, 30, 35), "orange": (255, 140, 10), "green": (35, 155, 60), "blue": (35, 80, 215),
            "purple": (130, 45, 175), "pink": (255, 130, 185),
        }[colour]  # fmt: skip
        near = (np.abs(region - np.asarray(rgb)).max(axis=-1) < 24).sum()
        assert near > 40, (item.question, item.answer)
        seen += 1
    assert seen > 40


def test_files_are_read_as_they_are_and_share_no_picture(data: Path) -> None:
    assert {path.name for path in data.iterdir()} == set(TASKS)
    for task in TASKS:
        pictures: set[bytes] = set()
        for name, wanted in (("train", 24), ("valid", 4), ("test", 6)):
            source = open_source(str(data / task / f"{name}.jsonl"), format="openai")
            assert len(source) == wanted
            answers = [source[number].messages[-1].content[0].text for number in range(wanted)]  # type: ignore[union-attr]
            assert set(answers) <= set(ANSWERS[task])
            files = [path.read_bytes() for path in (data / task / "pictures" / name).iterdir()]
            assert len(set(files) | pictures) == len(files) + len(pictures)
            pictures |= set(files)
    assert set(FILES) == {"train", "valid", "test"}


def test_slices_are_in_turns_over_their_answers(data: Path) -> None:
    lines = (data / SLICES / "train.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line)["messages"][-1]["content"] for line in lines]
    assert len(set(answers[:8])) == 8
    assert commonest(data / SLICES / "train.jsonl") < 25


def test_bytes_are_those_of_tensors_that_wait_for_the_backward_pass() -> None:
    weight = torch.zeros(8, 16, requires_grad=True)
    given = torch.zeros(4, 16)
    _, held = held_bytes(lambda: torch.nn.functional.linear(given, weight).exp().sum(), [weight])
    assert held == given.nbytes + 4 * 4 * 8  # the input, and the exponentials
    assert stored_bytes([weight, weight.view(16, 8), given]) == weight.nbytes + given.nbytes


def row(equal: float, best: float, memory: int, speed: float) -> dict[str, Any]:
    means = {"equal": equal, "best": best}
    scores = {column: {"average": {"mean": value, "spread": 0.0}} for column, value in means.items()}
    return {"scores": scores, "costs": {"memory": {"weights": memory}, "iterations_per_s": speed}}


def test_claims_are_judged_by_the_rows_at_hand() -> None:
    rows = {"lora-lora": row(60, 70, 20, 4.0), "ln-lora": row(66, 65, 19, 4.9), "ln-qlora": row(50, 64, 10, 3.0)}
    assert claims(rows) == {
        "LoRA + LoRA: a smaller rate for the tower is better than the same": True,
        "LN + LoRA: a smaller rate for the tower is better than the same": False,
        "LN + QLoRA: a smaller rate for the tower is better than the same": True,
        "LN + LoRA is as good as LoRA + LoRA (within 2)": False,
        "LN + LoRA takes less memory than LoRA + LoRA": True,
        "LN + LoRA is at least 1.25 times as fast as LoRA + LoRA": False,
        "LN + QLoRA takes less memory than LN + LoRA": True,
        "LN + QLoRA is as good as LN + LoRA (within 2)": True,
    }


def test_rows_are_the_papers_and_one_more() -> None:
    assert len(ROWS) == 7
    assert [name for name, found in ROWS.items() if found.paper is None] == ["full-qlora"]
    assert [name for name, found in ROWS.items() if not found.searches] == ["full-full"]


def test_the_smallest_run_and_its_resumption(
    nano: Path, packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = table5.replace(table5.QUICK, train=8, valid=2, test=3, batch=4, rank=4)
    monkeypatch.setattr(table5, "QUICK", tiny)
    out = tmp_path / "results" / "table5.json"
    places = ["--out", str(out), "--work", str(tmp_path / "work"), "--workers", "0", "--threads", "1"]
    arguments = ["--quick", *places, "--start", str(nano), "--corpus", str(packaged), "--tasks", "road"]
    table5.main([*arguments, "--rows", "ln-qlora"])
    first = json.loads(out.read_text(encoding="utf-8"))
    printed = capsys.readouterr().out
    assert "62.7" in printed
    assert json.loads(printed.splitlines()[-1])["rows"]["ln-qlora"]["costs"] == first["rows"]["ln-qlora"]["costs"]
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "results" / "table5").iterdir()}
    units = {path.name for path in done}
    assert units >= {"ln-qlora-road-ratio1-seed0.json", "ln-qlora-road-ratio10-seed0.json", "before-seed0.json"}
    table5.main([*arguments, "--rows", "ln-qlora", "full-full", "--seeds", "0", "1"])
    second = json.loads(out.read_text(encoding="utf-8"))
    assert all(path.stat().st_mtime_ns == changed for path, changed in done.items())
    assert second["rows"]["ln-qlora"]["load"] == first["rows"]["ln-qlora"]["load"]
    names = {path.name for path in (tmp_path / "results" / "table5").iterdir()} - units
    assert {"full-full-road-ratio1-seed0.json", "full-full-road-ratio1-seed1.json"} <= names
    assert not any(name.startswith("full-full-road-ratio10") for name in names)
    memory = {name: found["costs"]["memory"] for name, found in second["rows"].items()}
    assert memory["ln-qlora"]["optimizer"] == 2 * memory["ln-qlora"]["gradients"]
    assert memory["full-full"]["gradients"] > 2 * memory["ln-qlora"]["gradients"]
    assert memory["ln-qlora"]["weights"] < memory["full-full"]["weights"]
    assert not list((tmp_path / "work").rglob("*seed0"))
