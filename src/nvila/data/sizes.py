"""How large media are, told by their headers: the plan of an epoch must not decode what it only wants to count.

Pictures are exact. A clip sampled into a number of frames needs no look at all; one sampled by rate is counted from the
duration in its header, which may be off by a frame. Nothing here says that the pixels behind a header are sound:
decoding them later does.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
from PIL import Image

from nvila.errors import MediaError
from nvila.processing.fetch import fetch_url, is_url, shown_url
from nvila.processing.media import sample_indices, shown
from nvila.processing.pictures import FORMATS
from nvila.processing.policy import MediaPolicy, check_size

_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""

_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, OverflowError, RuntimeError)


def picture_size(source: Any, *, exif_transpose: bool, policy: MediaPolicy, name: str | None = None) -> tuple[int, int]:
    """(width, height) in pixels of a picture: a path, a URL (which is fetched), bytes, or a PIL image.

    With `exif_transpose` after turning it upright. Raises MediaError when there is no such picture, its header cannot
    be read, or it is over `policy`.
    """
    if isinstance(source, Image.Image):
        return _checked(source, exif_transpose, policy, name or "image")
    file, called = _openable(source, policy, name)
    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's warning about large pictures; check_size refuses them
        try:
            with Image.open(file, formats=[kind for kind in FORMATS if kind in Image.OPEN]) as image:
                return _checked(image, exif_transpose, policy, called)
        except MediaError:
            raise
        except Image.DecompressionBombError as error:
            raise MediaError(f"{called}: has more pixels than the limit of {policy.max_pixels}; shrink it") from error
        except _UNREADABLE as error:
            raise MediaError(f"{called}: its header is no picture's that can be read; give another file") from error


def num_clip_frames(
    source: Any, *, num_frames: int | None, fps: float | None, policy: MediaPolicy, name: str | None = None
) -> int:
    """Frames that `nvila.processing.media.load_video` takes from a file, a folder of frames, a URL or bytes.

    Exact for `num_frames`; with `fps` above 0 from the header's duration, where that is missing as many as there may
    be. Raises MediaError when there is no such clip, its header cannot be read, or `fps` is asked of a folder alone.
    """
    if not fps:
        assert num_frames is not None
        return num_frames
    most = policy.max_frames if num_frames is None else num_frames
    if isinstance(source, str | os.PathLike) and not _is_url(source) and Path(source).is_dir():
        return len(sample_indices(1, num_frames=num_frames, fps=fps, name=shown(source), max_frames=policy.max_frames))
    seconds = _duration_s(source, policy, name)
    return most if seconds is None else max(1, min(most, math.ceil(seconds * fps - 1e-6)))


def _checked(image: Image.Image, exif_transpose: bool, policy: MediaPolicy, name: str) -> tuple[int, int]:
    width, height = image.size
    check_size(width, height, name=name, policy=policy)
    if exif_transpose and image.getexif().get(_ORIENTATION) in _SIDEWAYS:
        return height, width
    return width, height


def _duration_s(source: Any, policy: MediaPolicy, name: str | None) -> float | None:
    """Seconds of a clip by its header; None where it says none."""
    file, called = _openable(source, policy, name)
    with _readable(called), av.open(file, mode="r") as container:
        if not container.streams.video:
            raise MediaError(f"{called}: has no video stream; give a file with moving pictures")
        stream = container.streams.video[0]
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        return container.duration / av.time_base if container.duration else None


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except MediaError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"{name}: its header is no video's that can be read; give another file") from error


def _openable(source: Any, policy: MediaPolicy, name: str | None) -> tuple[Any, str]:
    """What Pillow and PyAV open, and what to call it; never a folder, pipe or device."""
    if isinstance(source, bytes):
        return io.BytesIO(source), name or "data"
    if _is_url(source):
        return io.BytesIO(fetch_url(source, policy)), name or shown_url(source)
    called = name or shown(source)
    if not Path(source).is_file():
        raise MediaError(f"{called}: no such file; check the path (relative paths start at {os.getcwd()})")
    return os.fspath(source), called


def _is_url(source: Any) -> bool:
    return isinstance(source, str) and is_url(source)
