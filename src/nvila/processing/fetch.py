"""Downloads of media by URL that cannot be turned against the machine that makes them.

A host name is looked up once, its addresses are judged, and the connection goes to the judged address: a second
look-up (DNS rebinding) never happens. Every redirect is judged the same way. Size and total time are bounded while
the body streams. Proxies of the environment are not used, for they would look names up themselves.
Speaks http, https and data URLs. Leaves out what the bytes mean (`media`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import re
import socket
import threading
from urllib.parse import unquote_to_bytes

import httpx

from nvila.errors import MediaError
from nvila.processing.policy import MediaPolicy

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://|(data):", re.IGNORECASE)
_SHOWN_CHARACTERS = 100
_GRACE_S = 2.0
"""How much longer than the total time a stuck name look-up may hold the caller."""


def is_url(text: str) -> bool:
    """Whether `text` is meant as a URL (of any scheme) and not as a path."""
    return _SCHEME.match(text) is not None


def shown_url(url: str) -> str:
    """`url` as an error may print it: no password, no query, no control characters, and not long."""
    bare = re.sub(r"//[^/@?#]*@", "//", url.split("?")[0].split("#")[0])
    printable = "".join(c if c.isprintable() else "?" for c in bare)
    return printable if len(printable) <= _SHOWN_CHARACTERS else printable[: _SHOWN_CHARACTERS - 1] + "…"


def fetch_url(url: str, policy: MediaPolicy) -> bytes:
    """The bytes at `url`, at most `policy.max_bytes` of them, within `policy.timeout_s` in all.

    Raises MediaError when URLs are not allowed or of another scheme, for an address that is not public (unless
    `policy.allow_private_addresses`), for more than `policy.max_redirects` redirects, for a status other than success,
    and when the size or the time runs over.
    """
    name = shown_url(url)
    match = _SCHEME.match(url)
    scheme = (match[1] or match[2]).lower() if match else ""
    if not policy.allow_urls:
        raise MediaError(f"{name}: URLs are not allowed here; download the file and give its path")
    if scheme == "data":
        return _decode_data_url(url, name, policy)
    _check_scheme(scheme, name)
    return _run_bounded(url, name, policy)


def _check_scheme(scheme: str, name: str) -> None:
    if scheme == "file":
        raise MediaError(f"{name}: file URLs are not read; give the plain path")
    if scheme not in ("http", "https"):
        raise MediaError(f"{name}: the scheme {scheme!r} is not supported; give an http, https or data URL, or a path")


def _decode_data_url(url: str, name: str, policy: MediaPolicy) -> bytes:
    header, comma, payload = url[len("data:") :].partition(",")
    if not comma:
        raise MediaError(f"{name}: malformed data URL, it has no comma; write data:image/png;base64,...")
    if len(payload) > 4 * policy.max_bytes:
        raise _too_large(name, f"{len(payload)} characters", policy)
    if header.lower().endswith(";base64"):
        try:
            data = base64.b64decode(unquote_to_bytes(payload), validate=True)
        except binascii.Error as error:
            raise MediaError(f"{name}: malformed data URL, its base64 is broken ({error}); encode it again") from error
    else:
        data = unquote_to_bytes(payload)
    if len(data) > policy.max_bytes:
        raise _too_large(name, f"{len(data)} bytes", policy)
    return data


def _run_bounded(url: str, name: str, policy: MediaPolicy) -> bytes:
    """The download on a thread of its own, so that it works where an event loop runs, and nothing can hold us."""
    results: list[bytes] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(asyncio.run(_download_in_time(url, name, policy)))
        except BaseException as error:  # noqa: BLE001 - it is raised again on the caller's thread
            errors.append(error)

    thread = threading.Thread(target=work, name="nvila-fetch", daemon=True)
    thread.start()
    thread.join(policy.timeout_s + _GRACE_S)
    if errors:
        raise errors[0]
    if not results:
        raise _too_slow(name, policy)
    return results[0]


async def _download_in_time(url: str, name: str, policy: MediaPolicy) -> bytes:
    try:
        async with asyncio.timeout(policy.timeout_s):
            return await _follow(url, name, policy)
    except TimeoutError as error:
        raise _too_slow(name, policy) from error
    except httpx.InvalidURL as error:
        raise MediaError(f"{name}: malformed URL ({error}); correct it") from error
    except (httpx.HTTPError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise MediaError(f"{name}: cannot be fetched ({reason}); check the URL and the network") from error


async def _follow(url: str, name: str, policy: MediaPolicy) -> bytes:
    """The body at the end of the redirects. The client neither follows them nor reads the environment by itself."""
    here = httpx.URL(url)
    async with httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=policy.timeout_s) as client:
        for _ in range(policy.max_redirects + 1):
            _check_scheme(here.scheme, name)
            request = await _pinned_request(client, here, name, policy)
            response = await client.send(request, stream=True)
            try:
                if not response.has_redirect_location:
                    return await _read_body(response, name, policy)
                here = here.join(response.headers["location"])
            finally:
                await response.aclose()
    raise MediaError(f"{name}: redirects more than {policy.max_redirects} times; give the final URL")


async def _pinned_request(client: httpx.AsyncClient, url: httpx.URL, name: str, policy: MediaPolicy) -> httpx.Request:
    """A request that goes to a judged address, while the host name stays in the header and in the TLS handshake."""
    if not url.host:
        raise MediaError(f"{name}: malformed URL, it names no host; write http://host/path")
    address = await _judged_address(url.host, url.port or (443 if url.scheme == "https" else 80), name, policy)
    headers = {
        "Host": url.netloc.decode("ascii"),
        "User-Agent": "nvila",
        "Accept": "image/*, video/*;q=0.9, */*;q=0.1",
        "Accept-Encoding": "identity",
    }
    extensions = {"sni_hostname": url.raw_host.decode("ascii")} if url.scheme == "https" else {}
    return client.build_request("GET", url.copy_with(host=address), headers=headers, extensions=extensions)


async def _judged_address(host: str, port: int, name: str, policy: MediaPolicy) -> str:
    """One address of `host`; every address it has must be public, unless the policy says otherwise."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise MediaError(f"{name}: the host {host!r} is not found ({error}); check the URL and the network") from error
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if not (policy.allow_private_addresses or is_public(address)):
            raise MediaError(
                f"{name}: leads to {address}, which is not a public address; "
                "allow it with allow_private_addresses (--allow-private-urls) if you trust it"
            )
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an IP `address`, and any IPv4 address wrapped in it, is globally reachable and no multicast."""
    parsed = ipaddress.ip_address(address.split("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = [parsed.ipv4_mapped, parsed.sixtofour, *(parsed.teredo or ())]
        if parsed in ipaddress.IPv6Network("64:ff9b::/96"):
            inner.append(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF))
        wrapped = [ip for ip in inner if ip is not None]
        if wrapped:
            return all(is_public(str(ip)) for ip in wrapped)
    return parsed.is_global and not parsed.is_multicast


async def _read_body(response: httpx.Response, name: str, policy: MediaPolicy) -> bytes:
    if not response.is_success:
        raise MediaError(
            f"{name}: the server answers {response.status_code} {response.reason_phrase}; check the URL in a browser"
        )
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise MediaError(f"{name}: the server sends it compressed ({encoding}), unasked; download it to a file first")
    declared = response.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > policy.max_bytes:
        raise _too_large(name, f"{declared} bytes", policy)
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > policy.max_bytes:
            raise _too_large(name, f"more than {policy.max_bytes} bytes", policy)
    return bytes(body)


def _too_large(name: str, size: str, policy: MediaPolicy) -> MediaError:
    return MediaError(f"{name}: is {size}, over the limit of {policy.max_bytes} bytes; download and shrink it first")


def _too_slow(name: str, policy: MediaPolicy) -> MediaError:
    return MediaError(f"{name}: took longer than the limit of {policy.timeout_s:g} s; try again, or download it first")
