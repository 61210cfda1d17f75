"""One status line on standard error for work that takes longer than a second, and nothing for work that does not.

The line is rewritten in place and wiped at the end, so that standard output and the scroll-back hold only answers.
Leaves out bars and rates: a trainer logs, it does not draw.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_WIPE = "\r\x1b[K"


class StatusLine:
    """The line of one piece of work, drawn by a thread of its own so that the work need not report.

    `delay_s` is how long the work may take before the line appears; `interval_s` how often it is redrawn.
    """

    def __init__(self, text: str, *, stream: TextIO, delay_s: float, interval_s: float) -> None:
        self._text = text
        self._stream = stream
        self._delay_s = delay_s
        self._interval_s = interval_s
        self._start = time.monotonic()
        self._done = threading.Event()
        self._drawn = False
        self._thread = threading.Thread(target=self._draw_until_done, name="nvila-status", daemon=True)
        self._thread.start()

    def update(self, text: str) -> None:
        """Say something else from the next redraw on."""
        self._text = text

    def close(self) -> None:
        """Stop drawing and wipe the line if it was ever drawn."""
        self._done.set()
        self._thread.join()
        if self._drawn:
            self._stream.write(_WIPE)
            self._stream.flush()

    def _draw_until_done(self) -> None:
        wait_s = self._delay_s
        while not self._done.wait(wait_s):
            elapsed = time.monotonic() - self._start
            self._stream.write(f"{_WIPE}nvila: {self._text} … {elapsed:.0f} s")
            self._stream.flush()
            self._drawn = True
            wait_s = self._interval_s


class SilentLine:
    """Takes the place of a `StatusLine` where nobody watches: same calls, no output, no thread."""

    def update(self, text: str) -> None:
        """Say nothing."""


@contextmanager
def status(
    text: str, *, stream: TextIO | None = None, forced: bool = False, delay_s: float = 1.0, interval_s: float = 0.2
) -> Iterator[StatusLine | SilentLine]:
    """Show `text` and the seconds gone on `stream` (standard error) while the block runs, once `delay_s` have passed.

    Silent when the stream is no terminal, unless `forced`. The value given to the block has `update(text)`.
    """
    target = sys.stderr if stream is None else stream
    if not (forced or target.isatty()):
        yield SilentLine()
        return
    line = StatusLine(text, stream=target, delay_s=delay_s, interval_s=interval_s)
    try:
        yield line
    finally:
        line.close()
