"""What may be read: the limits that every image, video and download is held to before memory is spent on it.

Leaves out the reading itself (`media`, `decode`, `fetch`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from nvila.errors import ConfigError, MediaError


@dataclass(frozen=True, kw_only=True)
class MediaPolicy:
    """Limits on media. Raises ConfigError for a limit that is not positive.

    The defaults admit what people photograph, scan and film, and stop decompression bombs.
    """

    max_pixels: int = 100_000_000
    """Width times height of one image or video frame, as its header declares it."""
    max_side: int = 16_384
    """Longest side in pixels."""
    max_bytes: int = 256 * 1024 * 1024
    """Size of one image file, of one download, or of standard input. A local video is read in pieces and has none."""
    max_video_seconds: float = 4 * 3600.0
    max_frames: int = 1024
    """Frames that one video may be sampled into; how many it has does not matter."""
    allow_urls: bool = True
    allow_private_addresses: bool = False
    """Whether a URL may lead to a loopback, private, link-local or otherwise not public address."""
    timeout_s: float = 20.0
    """Seconds for one download in all: look-up, connection, redirects and body."""
    max_redirects: int = 3

    def __post_init__(self) -> None:
        for item in fields(self):
            value = self.__dict__[item.name]
            if not isinstance(value, bool) and not value > 0 and item.name != "max_redirects":
                raise ConfigError(f"media policy: {item.name} is {value}; it must be above 0")


def check_size(width: int, height: int, *, name: str, policy: MediaPolicy) -> None:
    """Raises MediaError for an image or frame without pixels, or larger than `policy` admits."""
    if width < 1 or height < 1:
        raise MediaError(f"{name}: is {width} x {height} pixels, so it has none; give a picture of at least 1 x 1")
    if max(width, height) > policy.max_side:
        raise MediaError(
            f"{name}: is {width} x {height} pixels, and a side may have {policy.max_side} at most; crop or shrink it"
        )
    if width * height > policy.max_pixels:
        raise MediaError(
            f"{name}: is {width} x {height} = {width * height} pixels, over the limit of {policy.max_pixels}; shrink it"
        )
