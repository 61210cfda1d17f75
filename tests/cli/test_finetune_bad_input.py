"""What `nvila finetune` says of bad input, as a user sees it: one line, with the place and the remedy, and no remains.

Options that are wrong by themselves are in test_finetune.py; here are data, adapters, folders and disks.
"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.tiny import write_checkpoint

from nvila.cli.main import main

TURNS = [{"from": "human", "value": "<image>\nWhich colour?"}, {"from": "gpt", "value": "red"}]
SETS = ("run.workers=0", "run.bf16=false", "adapters.frozen_dtype=float32", "run.threads=1")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture, and `good.jsonl`, which may be trained on."""
    folder = tmp_path_factory.mktemp("data")
    Image.new("RGB", (56, 56), (220, 30, 30)).save(folder / "red.png")
    write(folder / "good.jsonl", [record(number) for number in range(4)])
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    assert main(command(root / "good.jsonl", base, out)) == 0
    return out / "adapter"


def record(number: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"r{number}", "image": "red.png", "conversations": TURNS, **changes}


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return path


def command(data: Path, base: Path, out: Path, *more: str) -> list[str]:
    sets = [part for value in SETS for part in ("--set", value)]
    given = ["finetune", str(data), "--model", str(base), "--out", str(out), "--rank", "4", "--batch", "4"]
    return [*given, *sets, *more]


def error_of(capsys: Capture, arguments: list[str]) -> str:
    """The one line of an error, with status 2."""
    capsys.readouterr()
    assert main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nvila: error: ")]
    assert len(lines) == 1
    return lines[0]


BAD: dict[str, tuple[list[Any], tuple[str, ...]]] = {
    "wrong columns": (
        [{"id": "x", "img": "red.png", "conversation": TURNS}],
        (":1: fits no format (keys: conversation, id, img)", "'conversations' is missing (is it 'conversation'?)"),
    ),
    "more placeholders than pictures": (
        [record(0), record(1, conversations=[{"from": "human", "value": "<image><image>Same?"}, TURNS[1]])],
        (":2: 2 <image> placeholders and 1 images; make the counts equal", "1 of 2 samples"),
    ),
    "more pictures than placeholders": (
        [record(0, image=["red.png", "red.png"])],
        (":1: 1 <image> placeholders and 2 images; make the counts equal",),
    ),
    "no answer": ([record(0, conversations=TURNS[:1])], (":1: ends without an answer", "nvila data check")),
    "an empty answer": (
        [record(0, conversations=[TURNS[0], {"from": "gpt", "value": " "}])],
        ("conversations[1] is an empty answer; fill it or drop the turn",),
    ),
    "no such picture": ([record(0, image="absent.png")], ("absent.png: no such file; check the path",)),
    "no samples": ([], ("has 0 samples",)),
    "nothing that is learned": (
        [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "loss": False}]}],
        ("has no answer that is learned",),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_are_one_error_and_leave_nothing(
    name: str, base: Path, root: Path, tmp_path: Path, capsys: Capture
) -> None:
    records, words = BAD[name]
    data = write(root / "bad.jsonl", records)
    line = error_of(capsys, command(data, base, tmp_path / "out"))
    assert "bad.jsonl" in line
    assert [word for word in words if word not in line] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", BAD)
def test_bad_held_out_data_are_told_before_a_step_is_made(
    name: str, base: Path, root: Path, tmp_path: Path, capsys: Capture
) -> None:
    held_out = write(root / "bad-heldout.jsonl", BAD[name][0])
    line = error_of(capsys, command(root / "good.jsonl", base, tmp_path / "out", "--eval", str(held_out)))
    assert "bad-heldout.jsonl" in line
    assert list(tmp_path.iterdir()) == []


def test_a_format_and_a_media_root_hold_for_held_out_data_too(
    base: Path, root: Path, tmp_path: Path, capsys: Capture
) -> None:
    elsewhere = write(tmp_path / "heldout.jsonl", [record(0)])
    given = command(root / "good.jsonl", base, tmp_path / "out", "--plan", "--eval", str(elsewhere))
    assert "red.png: no such file" in error_of(capsys, given)
    assert main([*given, "--media-root", str(root), "--format", "llava"]) == 0


def test_force_is_named_only_where_it_helps(base: Path, root: Path, tmp_path: Path, capsys: Capture) -> None:
    few = [*(record(number) for number in range(19)), record(19, image="absent.png")]
    data = write(root / "few.jsonl", few)
    given = command(data, base, tmp_path / "out", "--plan")
    assert "mend them, or give --force to leave them out" in error_of(capsys, given)
    assert main([*given, "--force"]) == 0
    many = [record(number, image="red.png" if number % 2 else "absent.png") for number in range(20)]
    given = command(write(root / "many.jsonl", many), base, tmp_path / "out", "--plan", "--force")
    line = error_of(capsys, given)
    assert "10 of 20 samples cannot be trained on" in line
    assert "mend them, a run leaves out at most 5%" in line


def test_an_adapter_of_another_base_is_not_merged(adapter: Path, tmp_path: Path, capsys: Capture) -> None:
    other = tmp_path / "other"
    write_checkpoint(other, "hf", text={"num_hidden_layers": 1})
    given = ["finetune", "--merge", str(adapter), "--model", str(other), "--out", str(tmp_path / "full")]
    line = error_of(capsys, given)
    assert f"{adapter}: is an adapter of " in line
    assert f"but the base is {other}" in line
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_rank_above_a_dimension_is_one_error_with_both(
    base: Path, root: Path, tmp_path: Path, capsys: Capture
) -> None:
    line = error_of(capsys, [*command(root / "good.jsonl", base, tmp_path / "out"), "--rank", "49"])
    assert "the rank is 49, but llm.model.layers.0.self_attn.q_proj is a matrix of 48 x 48; give a rank of" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "deeper/out"])
def test_an_out_that_cannot_be_made_is_told_before_the_data_are_read(
    below: str, base: Path, root: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "file").write_text("mine")
    absent = tmp_path / "absent.jsonl"  # which would be the error, were the data read first
    line = error_of(capsys, command(absent, base, tmp_path / "file" / below))
    assert f"{tmp_path / 'file'}: is a file; give another --out" in line
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_an_out_without_permission_is_one_error(base: Path, root: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    line = error_of(capsys, command(root / "good.jsonl", base, tmp_path / "closed" / "out"))
    assert f"{tmp_path / 'closed'}: cannot be written; give another --out, or mend its permissions" in line


def test_a_disk_without_room_is_told_before_a_step_is_made(
    base: Path, root: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Usage())
    line = error_of(capsys, command(root / "good.jsonl", base, tmp_path / "out"))
    assert "its checkpoints need up to " in line
    assert "and 1.00 KiB are free there; free some, or give an --out on another disk" in line
    assert list(tmp_path.iterdir()) == []


class _Usage:
    free = 1024


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Files of this process grow to `limit` bytes and no further, as they would on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_during_a_run_is_one_error_and_the_run_goes_on(
    base: Path, root: Path, tmp_path: Path, capsys: Capture
) -> None:
    given = command(root / "good.jsonl", base, tmp_path / "out", "--eval", str(root / "good.jsonl"))
    with full_disk(60_000):
        line = error_of(capsys, given)
    assert f"{tmp_path / 'out'}: a checkpoint cannot be written" in line
    assert "free some and give the same command again" in line
    assert not (tmp_path / "out" / "adapter").exists()
    assert [path.name for path in (tmp_path / "out").rglob("*.safetensors")] == []
    assert main(given) == 0
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()


def test_a_disk_that_fills_during_a_merge_is_one_error_and_leaves_nothing(
    adapter: Path, tmp_path: Path, capsys: Capture
) -> None:
    with full_disk(60_000):
        line = error_of(capsys, ["finetune", "--merge", str(adapter), "--out", str(tmp_path / "full")])
    assert f"{tmp_path / 'full'}: a checkpoint cannot be written" in line
    assert list(tmp_path.iterdir()) == []
