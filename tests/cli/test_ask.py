"""`nvila ask` end to end on a tiny random model: what is printed where, and what becomes of bad input."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from tests.cli.bad_inputs import Place, Row, rows
from tests.media_files import noise, write_clip
from tests.tiny import write_checkpoint
from tests.web import serve
from transformers.utils import logging as library_logging

from nvila.cli.main import main

TOKENS_PER_TILE = 4
"""A tile of 56 pixels has 4 x 4 patches, and 2 x 2 of them make a token."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    write_checkpoint(folder, "hf", num_video_frames=4)
    return folder


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    with serve() as address:
        yield address


@pytest.fixture(autouse=True)
def as_if_started_by_the_command() -> Iterator[None]:
    """Libraries as the command sets them up; here they were imported before it could."""
    verbosity = library_logging.get_verbosity()
    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
    yield
    library_logging.enable_progress_bar()
    library_logging.set_verbosity(verbosity)


class Terminal(io.StringIO):
    """A stream that says it is a terminal and remembers each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.writes.append(text)
        return super().write(text)


def give_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def run(checkpoint: Path, *arguments: str) -> int:
    return main(["ask", "--model", str(checkpoint), "--dtype", "float32", "--max-new-tokens", "5", *arguments])


def ask_json(checkpoint: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert run(checkpoint, "--json", *arguments) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    answer = json.loads(shown.out)
    assert shown.out == json.dumps(answer, ensure_ascii=False) + "\n"
    assert isinstance(answer, dict)
    return answer


def test_the_table_has_its_kinds() -> None:
    table = rows()
    assert len({row.name for row in table}) == len(table)
    assert sum(bool(row.words) for row in table) >= 40


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.name.encode("ascii", "backslashreplace").decode())
def test_bad_input(
    row: Row,
    checkpoint: Path,
    web: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "permission" in row.words and os.geteuid() == 0:
        pytest.skip("the superuser may read every file")
    call = row.build(Place(folder=tmp_path, checkpoint=checkpoint, web=web))
    give_stdin(monkeypatch, call.stdin)
    status = run(checkpoint, *call.arguments)
    shown = capsys.readouterr()
    if not row.words:
        assert (status, shown.err) == (0, "")
        assert shown.out.endswith("\n")
        return
    assert (status, shown.out) == (2, "")
    assert shown.err.startswith("nvila: error: ")
    assert shown.err.count("\n") == 1
    assert [word for word in row.words if word not in shown.err] == [], shown.err


def test_error_from_the_installed_command(checkpoint: Path, tmp_path: Path, web: str) -> None:
    """A picture whose decoder writes to standard error by itself, which only a process of its own shows."""
    row = next(row for row in rows() if row.name == "samples.tiff")
    call = row.build(Place(folder=tmp_path, checkpoint=checkpoint, web=web))
    command = [sys.executable, "-m", "nvila", "ask", "--model", str(checkpoint), *call.arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"nvila: error: {tmp_path / 'samples.tiff'}: ")
    assert result.stderr.count("\n") == 1


def test_json_counts_the_tokens(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.png"
    noise(112, 56).save(path)
    one = ask_json(checkpoint, capsys, "--image", str(path), "What is it?")
    assert set(one) == {
        "text",
        "num_prompt_tokens",
        "num_image_tokens",
        "num_generated_tokens",
        "ttft_s",
        "tokens_per_s",
    }
    untiled = ask_json(checkpoint, capsys, "--image", str(path), "--max-tiles", "1", "What is it?")
    two = ask_json(checkpoint, capsys, "--image", str(path), "--image", str(path), "What is it?")
    text = ask_json(checkpoint, capsys, "What is it?")
    assert text["num_image_tokens"] == 0
    assert untiled["num_image_tokens"] == TOKENS_PER_TILE
    assert two["num_image_tokens"] == 2 * TOKENS_PER_TILE
    assert one["num_image_tokens"] % TOKENS_PER_TILE == 0
    assert one["num_image_tokens"] > 2 * TOKENS_PER_TILE
    assert two["num_prompt_tokens"] == text["num_prompt_tokens"] + 2 * (TOKENS_PER_TILE + 1)
    assert 1 <= text["num_generated_tokens"] <= 5
    assert text["ttft_s"] > 0


def test_num_frames(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = str(write_clip(tmp_path / "clip.mp4"))
    by_checkpoint = ask_json(checkpoint, capsys, "--video", clip, "What moves?")
    by_option = ask_json(checkpoint, capsys, "--video", clip, "--num-frames", "7", "What moves?")
    assert by_checkpoint["num_image_tokens"] == 4 * TOKENS_PER_TILE
    assert by_option["num_image_tokens"] == 7 * TOKENS_PER_TILE


def test_system_prompt_is_read(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    default = ask_json(checkpoint, capsys, "Hi")
    other = ask_json(checkpoint, capsys, "--system", "You are brief.", "Hi")
    difference = len("You are a helpful assistant") - len("You are brief.")
    assert other["num_prompt_tokens"] == default["num_prompt_tokens"] - difference


def test_answer_alone_is_printed_and_equals_the_model_s(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from nvila import NVILAForConditionalGeneration, NVILAProcessor

    path = tmp_path / "a.png"
    picture = noise(60, 50)
    picture.save(path)
    assert run(checkpoint, "--image", str(path), "What is it?") == 0
    processor = NVILAProcessor.from_pretrained(checkpoint)
    model = NVILAForConditionalGeneration.from_pretrained(checkpoint)
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "What is it?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    tokens = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    expected = processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert capsys.readouterr() == (expected + "\n", "")


def test_photograph_is_turned_upright(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, upright = tmp_path / "turned.png", tmp_path / "upright.png"
    noise(100, 40).save(turned, exif=exif)
    noise(100, 40).transpose(Image.Transpose.ROTATE_270).save(upright)
    answers = [ask_json(checkpoint, capsys, "--image", str(path), "What?") for path in (turned, upright)]
    assert answers[0]["text"] == answers[1]["text"]


def test_terminal_gets_the_same_text_in_pieces(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ask_json(checkpoint, capsys, "Hello")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert run(checkpoint, "Hello") == 0
    shown = "".join(c for c in str(whole["text"]) if c.isprintable() or c in "\n\t")
    assert terminal.getvalue() == shown + "\n"
    assert len([text for text in terminal.writes if text]) > 2


def test_conversation(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    noise(30, 30).save(path)
    lines = ["First?", f"/image {path}", "Second?", "/image missing.png", "/imag x", "/reset", "First?", "/quit", "No"]
    give_stdin(monkeypatch, "\n".join(lines).encode())
    assert run(checkpoint, "--interactive", "--json") == 0
    shown = capsys.readouterr()
    first, second, again = (json.loads(line) for line in shown.out.splitlines())
    assert first["num_image_tokens"] == 0
    assert second["num_image_tokens"] >= TOKENS_PER_TILE
    turns = first["num_prompt_tokens"] + len(first["text"].encode()) + second["num_image_tokens"]
    assert second["num_prompt_tokens"] > turns
    assert (again["text"], again["num_prompt_tokens"]) == (first["text"], first["num_prompt_tokens"])
    assert "error: missing.png: no such file" in shown.err
    assert "did you mean '/image'" in shown.err


def test_conversation_ends_with_its_input_and_may_start_with_a_prompt(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    give_stdin(monkeypatch, b"And?\n")
    assert run(checkpoint, "--interactive", "--json", "First?") == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert second["num_prompt_tokens"] > first["num_prompt_tokens"]


def test_formats_are_taken_and_checked(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask_json(checkpoint, capsys, "--vision", "w8a8", "--language", "w4a16", "Hello")
    assert answer["num_generated_tokens"]
    assert run(checkpoint, "--language", "w8a8", "Hello") == 2
    assert "'w8a8' is no format of the language part" in capsys.readouterr().err


def test_a_turn_reuses_the_turn_before(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversation answers as if each turn were asked afresh, and computes what is new alone."""
    from nvila.engine import runner

    computed: list[int] = []
    prefill = runner.prefill

    def counting(weights: object, cache: object, chunks: list[runner.PrefillChunk]) -> object:
        computed.append(sum(len(chunk.ids) for chunk in chunks))
        return prefill(weights, cache, chunks)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "prefill", counting)
    give_stdin(monkeypatch, b"And more?\n")
    assert run(checkpoint, "--interactive", "--json", "First? " * 10) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert computed[0] == first["num_prompt_tokens"]
    assert sum(computed[1:]) < second["num_prompt_tokens"] - first["num_prompt_tokens"] + 32
