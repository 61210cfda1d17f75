"""An opened video file as decoding needs it: `Source`, its container and stream, and its frames as RGB pictures.

A source can be opened several times at once, by threads that decode parts of it side by side: `Source.beside`.
Leaves out which packets are decoded (`planned`, `decode`).
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, cast

import av
from av.video.reformatter import VideoReformatter
from PIL import Image

from nvila.errors import MediaError
from nvila.processing.clip import Reading
from nvila.processing.packets import MEND
from nvila.processing.policy import MediaPolicy, check_size


@dataclass(frozen=True, kw_only=True)
class Source:
    """An open-able file, what errors call it, and how to read it."""

    file: BinaryIO
    name: str
    reading: Reading
    policy: MediaPolicy
    damaged_at_s: list[float] = field(default_factory=list)
    """Where damage was left out."""
    converter: VideoReformatter = field(default_factory=VideoReformatter)
    """Made once for all frames: making one, or giving it threads, costs more than a conversion."""

    def beside(self, count: int) -> list[Source]:
        """`count` sources of the same file, each with a place of its own in it, that share the threads."""
        lock = threading.Lock()
        reading = replace(self.reading, threads=max(1, self.reading.threads // count))
        return [
            replace(self, file=cast(BinaryIO, _View(self.file, lock)), reading=reading, converter=VideoReformatter())
            for _ in range(count)
        ]


class _View(io.RawIOBase):
    """A file that others read too: its own position, and one reader at a time."""

    def __init__(self, file: BinaryIO, lock: threading.Lock) -> None:
        super().__init__()
        self._file = file
        self._lock = lock
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with self._lock:
            start = 0 if whence == io.SEEK_SET else self._position
            self._position = self._file.seek(start + offset, io.SEEK_END if whence == io.SEEK_END else io.SEEK_SET)
        return self._position

    def read(self, size: int = -1) -> bytes:
        with self._lock:
            self._file.seek(self._position)
            data = self._file.read(size)
            self._position += len(data)
        return data


@contextmanager
def open_video(source: Source) -> Iterator[tuple[Any, Any]]:
    """The container and its stream of moving pictures, which decodes with no more threads than `source` allows."""
    name = source.name
    try:
        container = av.open(source.file, mode="r")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            f"{name}: looks like a video but its header cannot be read (damaged or cut off); {MEND}"
        ) from error
    try:
        stream = _video_stream(container, name)
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.thread_count = source.reading.threads
        yield container, stream
    finally:
        container.close()


def _video_stream(container: Any, name: str) -> Any:
    """The first stream of moving pictures; the cover of a song is none."""
    moving = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not moving:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "none"
        raise MediaError(f"{name}: has no video stream (streams: {kinds}); give a file with moving pictures")
    stream = moving[0]
    if stream.codec_context is None:
        raise MediaError(f"{name}: its video codec is not known here; {MEND}")
    return stream


def to_image(frame: Any, source: Source) -> Image.Image:
    check_size(frame.width, frame.height, name=source.name, policy=source.policy)
    rgb = source.converter.reformat(frame, format="rgb24", threads=1)
    plane: Any = rgb.planes[0]
    image = Image.new("RGB", (rgb.width, rgb.height), None)  # None: not filled first, which costs as much as decoding
    image.frombytes(plane, "raw", "RGB", plane.line_size, 1)
    if source.reading.exif_transpose and frame.rotation % 360:
        return image.rotate(frame.rotation % 360, expand=True)
    return image


def damaged(name: str, at_s: float) -> MediaError:
    return MediaError(f"{name}: is damaged at about {at_s:.1f} s and cannot be decoded further; {MEND}")
