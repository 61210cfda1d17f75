"""The entry point: exit statuses, one-line errors, and no traceback unless asked for."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys

import pytest
import typer

from nvila.cli import main as entry
from nvila.errors import NVILAError


def run_raising(error: BaseException, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit status when the verb `ask` raises `error`."""

    def build(_: object) -> typer.Typer:
        app = typer.Typer()
        app.callback()(entry._global_options)

        @app.command("ask")
        def ask() -> None:
            raise error

        return app

    monkeypatch.setattr(entry, "build_app", build)
    return entry.main([*arguments, "ask"])


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["--help"]) == 0
    shown = capsys.readouterr()
    for verb in entry.VERBS:
        assert re.search(rf"^  {verb.name} +{re.escape(verb.help)}$", shown.out, flags=re.MULTILINE)
    assert shown.err == ""


def test_no_argument_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main([]) == 0
    assert "Usage: nvila" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from nvila import __version__

    assert entry.main(["--version"]) == 0
    assert capsys.readouterr().out == f"nvila {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["--bogus"], "No such option: --bogus"),
    ],
)
def test_usage_error_is_one_line_and_status_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("nvila: error: ")
    assert words in shown.err
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (NVILAError("a.png: 3 bytes\nare too few"), "nvila: error: a.png: 3 bytes are too few\n"),
        (OSError(errno.ENOSPC, "No space left on device", "out/x"), "nvila: error: out/x: No space left on device\n"),
    ],
)
def test_what_a_user_can_cause_is_one_line(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_raising(error, monkeypatch) == 2
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("how", ["option", "environment"])
def test_debug_shows_the_traceback_above_the_line(
    how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if how == "environment":
        monkeypatch.setenv("NVILA_DEBUG", "1")
    assert run_raising(NVILAError("no"), monkeypatch, *(["--debug"] if how == "option" else [])) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("\nnvila: error: no\n")


def test_interrupt_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_raising(KeyboardInterrupt(), monkeypatch) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_bug_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        run_raising(ZeroDivisionError(), monkeypatch)


def test_module_and_script_are_the_same_command() -> None:
    environment = {**os.environ, "COLUMNS": "100"}
    result = subprocess.run(
        [sys.executable, "-m", "nvila", "bogus"], capture_output=True, text=True, check=False, env=environment
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "nvila: error: No such command 'bogus'.\n"
