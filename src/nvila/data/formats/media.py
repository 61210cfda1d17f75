"""From what a record says of a picture or clip to a part: a path, a URL, bytes, a struct of a table, a PIL image.

Nothing is decoded here: bytes become a picture whose header alone was read, or, for a clip, a data URL. Whether a
path leads anywhere shows when it is opened. Files on a remote `media_root` are fetched when the sample is made.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
from PIL import Image

from nvila.data.formats.base import Where
from nvila.processing.fetch import is_url
from nvila.processing.pictures import FORMATS
from nvila.types import ImagePart, VideoPart

_FETCHED_LATER = ("http://", "https://", "data:")
"""URLs that parts may hold as they are; others are read through fsspec."""

_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def image_part(value: Any, key: str, where: Where) -> ImagePart:
    """The picture that `value` names or holds. Raises RecordError naming `key` for what is no picture."""
    source = _source(value, key, where)
    if isinstance(source, Image.Image):
        return ImagePart(image=source)
    if isinstance(source, bytes):
        return ImagePart(image=_opened(source, key, where))
    if isinstance(source, str):
        return ImagePart(url=source) if is_url(source) else ImagePart(path=source)
    raise where.error(f"{key} is a list; a picture is one path, URL, or bytes", kind="malformed")


def video_part(value: Any, key: str, where: Where) -> VideoPart:
    """The clip that `value` names or holds; a list is its frames. Raises RecordError naming `key`."""
    source = _source(value, key, where)
    if isinstance(source, list):
        return VideoPart(video=[_frame(frame, f"{key}[{index}]", where) for index, frame in enumerate(source)])
    if isinstance(source, bytes):
        return VideoPart(url="data:application/octet-stream;base64," + base64.b64encode(source).decode("ascii"))
    if isinstance(source, str):
        return VideoPart(url=source) if is_url(source) else VideoPart(path=source)
    raise where.error(f"{key} is a single picture; a clip is a file, a folder or a list of frames")


def image_size(part: ImagePart, key: str, where: Where) -> tuple[int, int]:
    """(width, height) in pixels from the header alone. Raises RecordError when it cannot be had without a download."""
    if part.image is not None:
        return part.image.size
    if part.path is None:
        raise where.error(f"{key}: boxes need the size of the picture, which is behind a URL; download it")
    path = _regular(part.path, key, where)
    try:
        with Image.open(path, formats=_formats()) as image:
            return image.size
    except _DAMAGE as error:
        raise where.error(f"{key}: {part.path}: is no readable picture", kind="undecodable media") from error


def _source(value: Any, key: str, where: Where) -> str | bytes | list[Any] | Image.Image:
    """`value` down to one of: a path or URL that a part may hold, bytes, a list of frames, a decoded picture."""
    if isinstance(value, Mapping):
        held = [value[name] for name in ("bytes", "path", "url", "image", "video") if value.get(name) is not None]
        if not held:
            raise where.error(f"{key} holds none of bytes, path, url", kind="missing media")
        return _source(held[0], key, where)
    if isinstance(value, str):
        return _located(value, key, where)
    if isinstance(value, bytes | Image.Image):
        return value
    if isinstance(value, list | tuple) and value:
        return list(value)
    raise where.error(f"{key} is {value!r:.60}; give a path, a URL, or bytes")


def _located(text: str, key: str, where: Where) -> str | bytes:
    """The bytes of a member of that name, else a path below the media root, else a URL as it is."""
    if text in where.members:
        return where.members[text]
    if "\0" in text or not text.strip():
        raise where.error(f"{key} is no usable file name; give a path or a URL")
    if text.startswith(_FETCHED_LATER):
        return text
    if text.startswith("file://"):
        return text.removeprefix("file://")
    root = where.media_root
    if is_url(text):
        return _fetched(_of_same_store(text, root, key, where), key, where)
    if root is None or os.path.isabs(text):
        return text
    if is_url(root) or "::" in root:
        return _fetched(f"{root.rstrip('/')}/{text}", key, where)
    return os.path.join(root, text)


def _of_same_store(url: str, root: str | None, key: str, where: Where) -> str:
    """`url`, if it is of the store that the user named: records do not choose which systems are talked to."""
    scheme = url.partition("://")[0]
    if root is None or root.partition("://")[0] != scheme:
        raise where.error(
            f"{key}: {scheme}:// is not the store of the media root ({root}); give one of it as the media root",
            kind="missing media",
        )
    return url


def _fetched(url: str, key: str, where: Where) -> bytes:
    if "::" in url.removeprefix(where.media_root or ""):
        raise where.error(f"{key}: {url!r:.200}: a record's file name may not chain stores with ::; rename the file")
    try:
        with fsspec.open(url, "rb") as file:
            content: bytes = file.read()
    except (OSError, ValueError, ImportError) as error:
        raise where.error(f"{key}: {url}: cannot be read: {error}; check it", kind="missing media") from error
    return content


def _frame(value: Any, key: str, where: Where) -> Image.Image:
    """One frame of a list, its header read; a path is opened, because a part holds frames as pictures only."""
    source = _source(value, key, where)
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, bytes):
        return _opened(source, key, where)
    if isinstance(source, list) or is_url(source):
        raise where.error(f"{key} is no frame; give a path or bytes")
    return _opened(_regular(source, key, where).read_bytes(), key, where)


def _regular(path: str, key: str, where: Where) -> Path:
    """`path`, if a plain file is there: a pipe or a device would never end."""
    if not os.path.isfile(path):
        raise where.error(f"{key}: {path}: no such file; check the path and the media root", kind="missing media")
    return Path(path)


def _opened(data: bytes, key: str, where: Where) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_formats())
    except _DAMAGE as error:
        raise where.error(
            f"{key}: {len(data)} bytes that are no readable picture; get the data again", kind="undecodable media"
        ) from error


def _formats() -> list[str]:
    """The decoders that may run, of those that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]
