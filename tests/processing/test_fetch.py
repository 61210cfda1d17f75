"""Downloads: what may be reached, every hop judged, the judged address the one connected to, size and time bounded."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from tests.web import STALL_S, png_bytes, serve

from nvila.errors import MediaError
from nvila.processing.fetch import fetch_url, is_public, is_url, shown_url
from nvila.processing.media import load_image
from nvila.processing.policy import MediaPolicy

OPEN = MediaPolicy(allow_private_addresses=True, timeout_s=5.0)
PUBLIC = "93.184.216.34"


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    with serve() as address:
        yield address


def test_fetches_and_follows_redirects(web: str) -> None:
    assert fetch_url(f"{web}/image", OPEN) == png_bytes()
    assert fetch_url(f"{web}/to?/to?/to?/image", OPEN) == png_bytes()
    assert load_image(f"{web}/image", policy=OPEN).size == (20, 12)


def test_one_redirect_too_many(web: str) -> None:
    with pytest.raises(MediaError, match="more than 3 times"):
        fetch_url(f"{web}/to?/to?/to?/to?/image", OPEN)


def test_private_address_is_refused_by_default(web: str) -> None:
    with pytest.raises(MediaError, match=r"leads to 127\.0\.0\.1, which is not a public address"):
        fetch_url(f"{web}/image", MediaPolicy())


@pytest.mark.parametrize(
    ("address", "public"),
    [
        (PUBLIC, True),
        ("2606:4700:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::5db8:d822", True),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.fixture
def public_name(web: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name public.test has a public address, where the local server answers; gives what is connected to."""
    connected: list[str] = []
    look_up, connect = socket.getaddrinfo, anyio.connect_tcp
    port = int(web.rsplit(":", 1)[1])

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        return look_up(PUBLIC if host == "public.test" else host, *args, **kwargs)

    async def connect_tcp(remote_host: str, remote_port: int, **kwargs: Any) -> Any:
        connected.append(str(remote_host))
        return await connect("127.0.0.1" if remote_host == PUBLIC else remote_host, port, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(anyio, "connect_tcp", connect_tcp)
    return connected


def test_connection_goes_to_the_judged_address_and_keeps_the_name(public_name: list[str]) -> None:
    assert fetch_url("http://public.test/host", MediaPolicy()) == b"public.test"
    assert public_name == [PUBLIC]


def test_redirect_to_a_private_address_is_refused_before_connecting(public_name: list[str], web: str) -> None:
    with pytest.raises(MediaError, match=r"public\.test/to: leads to 127\.0\.0\.1"):
        fetch_url(f"http://public.test/to?{web}/image", MediaPolicy())
    assert public_name == [PUBLIC]


@pytest.mark.parametrize("path", ["stall", "drip"])
def test_time_is_bounded(path: str, web: str) -> None:
    start = time.monotonic()
    with pytest.raises(MediaError, match=r"longer than the limit of 0\.2 s"):
        fetch_url(f"{web}/{path}", MediaPolicy(allow_private_addresses=True, timeout_s=0.2))
    assert time.monotonic() - start < STALL_S / 3


@pytest.mark.parametrize("path", ["huge", "endless"])
def test_size_is_bounded_declared_or_not(path: str, web: str) -> None:
    policy = MediaPolicy(allow_private_addresses=True, max_bytes=100_000, timeout_s=5.0)
    with pytest.raises(MediaError, match="over the limit of 100000 bytes"):
        fetch_url(f"{web}/{path}", policy)


def test_urls_may_be_forbidden(web: str) -> None:
    with pytest.raises(MediaError, match="not allowed"):
        load_image(f"{web}/image", policy=MediaPolicy(allow_urls=False, allow_private_addresses=True))


def test_works_where_an_event_loop_runs(web: str) -> None:
    async def inside() -> bytes:
        return fetch_url(f"{web}/image", OPEN)

    assert asyncio.run(inside()) == png_bytes()


def test_leaves_no_thread_behind(web: str) -> None:
    fetch_url(f"{web}/image", OPEN)
    assert [thread.name for thread in threading.enumerate() if thread.name == "nvila-fetch"] == []


def test_proxies_of_the_environment_are_not_used(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert fetch_url(f"{web}/image", OPEN) == png_bytes()


def test_data_urls() -> None:
    assert fetch_url("data:text/plain,a%20b", MediaPolicy()) == b"a b"
    assert fetch_url("data:;base64,AAEC", MediaPolicy()) == b"\0\1\2"
    with pytest.raises(MediaError, match="over the limit of 2 bytes"):
        fetch_url("data:,abc", MediaPolicy(max_bytes=2))


def test_error_shows_no_password_and_no_query() -> None:
    assert shown_url("https://me:secret@host.org/a.png?token=x#y") == "https://host.org/a.png"
    assert len(shown_url("data:," + "a" * 1000)) <= 100


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://a", True),
        ("HTTPS://a/b", True),
        ("data:,x", True),
        ("ftp://a", True),
        ("a/b.png", False),
        ("data/a.png", False),
        ("C:\\a.png", False),
        ("a:b.png", False),
    ],
)
def test_what_counts_as_a_url(text: str, expected: bool) -> None:
    assert is_url(text) is expected
