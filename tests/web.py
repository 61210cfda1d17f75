"""A web server on 127.0.0.1 that answers well and badly, for the tests of downloads."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

STALL_S = 30.0
"""How long a stalling answer lasts; a test that waits for it has failed."""


def png_bytes(width: int = 20, height: int = 12, color: str = "red") -> bytes:
    """A small picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), color).save(buffer, "PNG")
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """What a path answers: `/image`, `/status/N`, `/to?URL` (redirect), `/loop/N`, `/stall`, `/drip`, `/huge` ..."""

    protocol_version = "HTTP/1.1"
    stopped = threading.Event()

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        name = path.strip("/").split("/")[0]
        if name == "to":
            self._redirect(query)
        elif name == "loop":
            self._redirect(f"/loop/{int(path.rsplit('/', 1)[1]) + 1}")
        elif name == "stall":
            self.stopped.wait(STALL_S)
            self.close_connection = True
        elif name == "drip":
            self._drip()
        elif name == "status":
            self._answer(int(path.rsplit("/", 1)[1]), b"no")
        elif name == "huge":
            self._answer(200, b"", declared=10**12)
        elif name == "endless":
            self._endless()
        elif name == "cut":
            self._answer(200, png_bytes()[:40], declared=len(png_bytes()))
        elif name == "gzip":
            self._answer(200, b"\x1f\x8b", encoding="gzip")
        elif name == "page":
            self._answer(200, b"<!DOCTYPE html><p>Not an image</p>")
        elif name == "host":
            self._answer(200, self.headers["Host"].encode())
        elif name == "nothing":
            self._answer(200, b"")
        else:
            self._answer(200, png_bytes())

    def log_message(self, *_: object) -> None:
        """Keep the access log off standard error."""

    def _answer(self, status: int, body: bytes, declared: int | None = None, encoding: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if declared is None else declared))
        if encoding:
            self.send_header("Content-Encoding", encoding)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = declared is not None

    def _redirect(self, target: str) -> None:
        self.send_response(302)
        self.send_header("Location", target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _drip(self) -> None:
        """A header that comes a byte at a time: every single read is quick, and all of them never end."""
        end = time.monotonic() + STALL_S
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        try:
            while time.monotonic() < end and not self.stopped.wait(0.02):
                self.wfile.write(b"x")
                self.wfile.flush()
        except OSError:
            self.close_connection = True

    def _endless(self) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            while not self.stopped.is_set():
                self.wfile.write(bytes(65536))
        except OSError:
            self.close_connection = True


class Server(ThreadingHTTPServer):
    """Threads end with the test, and a client that hangs up in the middle of an answer is no news."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def serve() -> Iterator[str]:
    """The address of a running server, such as http://127.0.0.1:40000."""
    Handler.stopped.clear()
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        Handler.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()
