"""`nvila finetune` from the command line: a run, its adapter in `nvila ask`, the merge, and what bad input gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from nvila.cli.main import main

SETS = ("run.workers=0", "run.bf16=false", "adapters.frozen_dtype=float32", "run.threads=1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    Image.new("RGB", (56, 56), (220, 30, 30)).save(root / "red.png")
    turns = [{"from": "human", "value": "<image>\nWhich colour?"}, {"from": "gpt", "value": "red"}]
    records = [{"id": f"r{number}", "image": "red.png", "conversations": turns} for number in range(4)]
    (root / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return root / "data.jsonl"


@pytest.fixture(scope="module")
def adapter(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained until the answer is known by heart."""
    out = tmp_path_factory.mktemp("run") / "out"
    more = ("--epochs", "30", "--lr", "0.01", "--eval", str(data), "--no-packing")
    assert finetune(data, base, out, *more) == 0
    return out / "adapter"


def finetune(data: Path, base: Path, out: Path, *more: str) -> int:
    sets = [part for value in SETS for part in ("--set", value)]
    return main(
        ["finetune", str(data), "--model", str(base), "--out", str(out), "--rank", "8", "--batch", "4", *sets, *more]
    )


def ask(capsys: pytest.CaptureFixture[str], data: Path, *arguments: str) -> str:
    capsys.readouterr()
    picture = str(data.parent / "red.png")
    status = main(
        ["ask", *arguments, "--image", picture, "--dtype", "float32", "--max-new-tokens", "4", "Which colour?"]
    )
    shown = capsys.readouterr()
    assert status == 0, shown.err
    return shown.out


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of an error, with status 2."""
    capsys.readouterr()
    assert main([*arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nvila: error: ")]
    assert len(lines) == 1
    return lines[0]


def test_an_adapter_answers_and_its_base_does_not(
    adapter: Path, base: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(capsys, data, "--model", str(base), "--adapter", str(adapter)) == "red\n"
    assert ask(capsys, data, "--model", str(base)) != "red\n"
    scores = json.loads((adapter.parent / "finetune" / "scores.json").read_text())
    assert scores[0]["exact"] == 0.0
    assert scores[-1]["exact"] == 1.0


@pytest.mark.parametrize("layout", ["hf", "folders"])
def test_a_merged_checkpoint_answers_without_the_adapter(
    adapter: Path, data: Path, tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["finetune", "--merge", str(adapter), "--out", str(tmp_path / "full"), "--layout", layout]) == 0
    assert "merging in float32 changed logits by: largest" in capsys.readouterr().out
    if layout == "hf":
        (tmp_path / "full" / "processor_config.json").stat()
        assert ask(capsys, data, "--model", str(tmp_path / "full")) == "red\n"
    else:
        assert {"llm", "vision_tower", "mm_projector", "config.json"} == {
            path.name for path in (tmp_path / "full").iterdir()
        }


def test_a_plan_writes_nothing(base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune(data, base, tmp_path / "out", "--plan") == 0
    assert "llm activations" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_of_another_base_is_one_error(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, "ask", "--adapter", str(adapter), "What?")
    assert f"{adapter}: is an adapter of " in line
    assert "but the base is nvila-mini" in line


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--rank", "25"), "the rank is 25, but llm.model.layers.0.self_attn.k_proj is a matrix of 24 x 48"),
        (("--lr", "0"), "--lr is 0; give a number above 0"),
        (
            ("--vision", "frozen", "--language", "frozen", "--projector", "frozen"),
            "all frozen; nothing would be learned",
        ),
        (("--sweep-lr-ratio", "1,x"), "give numbers with commas between, such as 1,5,10,50"),
        (("--sweep-lr-ratio", "1,5"), "--sweep-lr-ratio compares held-out scores; give --eval DATA"),
        (("--eval", "absent.jsonl"), "absent.jsonl"),
        (("--memory", "0.0001"), "which does not fit either; or try it all the same with --force"),
        (("--set", "stage.0.learning_rat=1"), "unknown key 'learning_rat' (did you mean 'learning_rate'?)"),
        (("--max-tokens", "20"), "4 of 4 samples have more than 20 tokens"),
        (("--max-tiles", "0"), "--max-tiles is 0; give a whole number from 1"),
        (("--vision", "norms"), "'norms' is not one of"),
    ],
    ids=lambda value: value[0] + value[1] if isinstance(value, tuple) else "",
)
def test_bad_options_are_one_error_and_leave_nothing(
    base: Path, data: Path, tmp_path: Path, more: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [part for value in SETS for part in ("--set", value)]
    line = error_of(
        capsys, "finetune", str(data), "--model", str(base), "--out", str(tmp_path / "out"), "--rank", "8", *sets, *more
    )
    assert words in line
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_go_together_is_one_error(
    data: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert "give the data to learn from" in error_of(capsys, "finetune", "--out", out)
    assert "give --out" in error_of(capsys, "finetune", str(data))
    assert "--merge ADAPTER takes no data" in error_of(capsys, "finetune", str(data), "--merge", str(adapter))
    assert "is no adapter of ours" in error_of(capsys, "finetune", "--merge", str(tmp_path), "--out", out)
    assert list(tmp_path.iterdir()) == []


def test_a_merge_overwrites_nothing(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    line = error_of(capsys, "finetune", "--merge", str(adapter), "--out", str(tmp_path / "full"))
    assert "is already there" in line
