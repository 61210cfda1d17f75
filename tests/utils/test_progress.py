"""The status line appears for slow work on a terminal, and for nothing else."""

from __future__ import annotations

import io
import time

from nvila.utils.progress import status


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def wait_for(stream: io.StringIO, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in stream.getvalue():
        assert time.monotonic() < deadline, f"{text!r} never came; there is {stream.getvalue()!r}"
        time.sleep(0.005)


def test_quick_work_shows_nothing() -> None:
    stream = Terminal()
    with status("loading", stream=stream, delay_s=60):
        pass
    assert stream.getvalue() == ""


def test_slow_work_shows_a_line_and_wipes_it() -> None:
    stream = Terminal()
    with status("loading the model", stream=stream, delay_s=0.01, interval_s=0.01) as line:
        wait_for(stream, "nvila: loading the model … 0 s")
        line.update("encoding")
        wait_for(stream, "encoding")
    shown = stream.getvalue()
    assert shown.endswith("\r\x1b[K")
    assert "\n" not in shown


def test_line_is_wiped_when_the_work_fails() -> None:
    stream = Terminal()
    try:
        with status("loading", stream=stream, delay_s=0.01, interval_s=0.01):
            wait_for(stream, "loading")
            raise KeyError("x")
    except KeyError:
        pass
    assert stream.getvalue().endswith("\r\x1b[K")


def test_no_terminal_no_line_unless_forced() -> None:
    silent, forced = io.StringIO(), io.StringIO()
    with status("loading", stream=silent, delay_s=0.0, interval_s=0.01) as line:
        line.update("more")
        with status("loading", stream=forced, forced=True, delay_s=0.01, interval_s=0.01):
            wait_for(forced, "loading")
    assert silent.getvalue() == ""
