"""Video files to sampled RGB frames, by PyAV, with only the sampled frames ever held.

The file is read once without decoding to learn when every frame is shown; then each sampled frame is decoded from the
key frame before it, so an hour-long clip costs a few seconds of decoding. Files that do not say when their frames are
shown, or do not seek exactly, are decoded twice from end to end instead. How many frames the header promises is not
believed: what is there counts, to the last frame. Damage on the way to a sampled frame is an error and names the time;
where a container skips damaged packets by itself (Matroska, AVI), the frames around the gap are used.
Leaves out folders of frames and animated pictures (`media`, `pictures`).
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import av
import numpy as np
from PIL import Image

from nvila.errors import MediaError
from nvila.processing.policy import MediaPolicy, check_size

_SLACK_S = 1e-6
"""Rounding allowed between a time asked for and the time at which a frame starts."""

_SEEKABLE = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi")
"""Containers with an index of key frames. Others (MPEG-TS, MPEG-PS, raw streams) are searched by byte position, and
what the decoder gives after that may be frames later than the one asked for."""

_RATE = 25.0
"""Frames per second of streams that name no rate."""

_MEND = "re-encode it (ffmpeg -i IN -c:v libx264 OUT.mp4), or get the file again"


def sample_indices(
    num_available: int,
    *,
    num_frames: int | None,
    fps: float | None = None,
    name: str,
    max_frames: int,
    starts_s: Sequence[float] | None = None,
    duration_s: float | None = None,
) -> list[int]:
    """Indices of the frames to take out of `num_available`, in order.

    Without `fps`: `round(linspace(0, num_available - 1, num_frames))`, so frames repeat where there are fewer, or all
    of them where `num_frames` is None. With `fps` above 0 and known times: the frame shown at 0, 1/fps, 2/fps ... s
    until `duration_s`; where these are more than `num_frames`, that many of them, evenly. Frames without times
    (`starts_s` None: folders, lists) go by `num_frames` alone.
    Raises MediaError for no frames, for `fps` alone without times, and for more than `max_frames` of them.
    """
    if num_available < 1:
        raise MediaError(f"{name}: holds 0 frames; give a clip of at least 1")
    if not fps or (starts_s is None and num_frames is not None):
        count = num_available if num_frames is None else num_frames
        _check_count(count, max_frames, name)
        return [int(i) for i in np.round(np.linspace(0, num_available - 1, count))]
    if starts_s is None or duration_s is None:
        raise MediaError(f"{name}: frames in a folder or a list have no times, so fps {fps:g} says nothing; "
                         "give num_frames (--num-frames)")  # fmt: skip
    count = max(1, int(np.ceil(duration_s * fps - _SLACK_S)))
    taken = count if num_frames is None else min(count, num_frames)
    _check_count(taken, max_frames, name)
    times = np.round(np.linspace(0, count - 1, taken)) / fps
    shown = np.searchsorted(np.asarray(starts_s), times + _SLACK_S, side="right") - 1
    return [int(i) for i in np.clip(shown, 0, num_available - 1)]


def decode_video(
    file: BinaryIO, *, name: str, num_frames: int | None, fps: float | None, rotate: bool, policy: MediaPolicy
) -> list[Image.Image]:
    """Sampled frames (RGB) of the first video stream in the seekable `file`, by the rule of `sample_indices`.

    `rotate` turns them as the stream's rotation says. Raises MediaError, naming the file `name`, when there is no
    video stream, no decoder, no frame, damage, or more than `policy` admits.
    """
    with _opened(file, name) as container:
        stream = _video_stream(container, name)
        check_size(stream.codec_context.width, stream.codec_context.height, name=name, policy=policy)
        _check_duration((container.duration or 0) / av.time_base, name, policy)
        timeline = _read_timeline(container, stream, name)
        if timeline is not None:
            chosen = _choose(timeline, num_frames, fps, name, policy)
            reader = _SeekingReader(container, stream, timeline, name)
            kept = {i: _to_image(reader.frame_at(timeline.pts[i]), rotate, name, policy) for i in sorted(set(chosen))}
            return [kept[i] for i in chosen]
    chosen = _choose(_decode_timeline(file, name), num_frames, fps, name, policy)
    wanted = set(chosen)
    kept = {i: _to_image(frame, rotate, name, policy) for i, frame, _ in _decode_in_order(file, name) if i in wanted}
    return [kept[i] for i in chosen]


@dataclass(frozen=True, kw_only=True)
class _Timeline:
    """When frames are shown: ascending `pts` (in the stream's time base; empty where unknown) and seconds from 0."""

    pts: list[int]
    key_pts: list[int]
    starts_s: list[float]
    duration_s: float


def _read_timeline(container: Any, stream: Any, name: str) -> _Timeline | None:
    """The timeline from the packets alone; None where the container does not seek exactly, or
    packets carry no times, or the same one twice."""
    if container.format.name not in _SEEKABLE:
        return None
    pts: list[int] = []
    key_pts: list[int] = []
    is_cut = False
    with _errors_named(name, stream, pts):
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.pts is None:
                return None
            is_cut = packet.is_corrupt
            pts.append(packet.pts)
            if packet.is_keyframe:
                key_pts.append(packet.pts)
    _check_cut(container, stream, pts, is_cut, name)
    if len(set(pts)) != len(pts) or (pts and not key_pts):
        return None
    pts.sort()
    starts_s = [float((value - pts[0]) * stream.time_base) for value in pts]
    return _Timeline(pts=pts, key_pts=sorted(key_pts), starts_s=starts_s, duration_s=_duration(starts_s, stream))


def _check_cut(container: Any, stream: Any, pts: list[int], is_cut: bool, name: str) -> None:
    """Raises MediaError for a file that ends early, where the container shows it: inside a frame (`is_cut`), or
    (Matroska and WebM, which hide a cut, without sound) long before the duration in its header."""
    found_s = float((max(pts) - min(pts)) * stream.time_base) if pts else 0.0
    if is_cut:
        raise MediaError(f"{name}: is cut off at {found_s:.1f} s, inside a frame; {_MEND}")
    if container.format.name == "matroska,webm" and len(container.streams) == 1 and container.duration:
        declared_s = container.duration / av.time_base
        if found_s < 0.9 * declared_s - 1.0:
            raise MediaError(f"{name}: is cut off at {found_s:.1f} s of {declared_s:.1f} s; {_MEND}")


def _choose(
    timeline: _Timeline, num_frames: int | None, fps: float | None, name: str, policy: MediaPolicy
) -> list[int]:
    _check_duration(timeline.duration_s, name, policy)
    return sample_indices(
        len(timeline.starts_s),
        num_frames=num_frames,
        fps=fps,
        name=name,
        max_frames=policy.max_frames,
        starts_s=timeline.starts_s,
        duration_s=timeline.duration_s,
    )


def _decode_timeline(file: BinaryIO, name: str) -> _Timeline:
    """The timeline found by decoding everything, frames evenly apart."""
    starts_s = [start_s for _, _, start_s in _decode_in_order(file, name)]
    duration_s = starts_s[-1] * len(starts_s) / (len(starts_s) - 1) if len(starts_s) > 1 else 0.0
    return _Timeline(pts=[], key_pts=[], starts_s=starts_s, duration_s=duration_s)


def _decode_in_order(file: BinaryIO, name: str) -> Iterator[tuple[int, Any, float]]:
    """Every frame from the start: its index, itself, and the seconds at which the stream's rate puts it."""
    file.seek(0)
    with _opened(file, name) as container:
        stream = _video_stream(container, name)
        rate = float(stream.average_rate or stream.guessed_rate or _RATE)
        frames = container.decode(stream)
        for index in itertools.count():
            with _errors_named(name, stream, []):
                frame = next(frames, None)
            if frame is None:
                return
            if frame.is_corrupt:
                raise _damaged(name, index / rate)
            yield index, frame, index / rate


def _duration(starts_s: list[float], stream: Any) -> float:
    """Seconds until the last frame ends: it is held as long as the frames before it on average."""
    if len(starts_s) > 1:
        return starts_s[-1] * len(starts_s) / (len(starts_s) - 1)
    return 1.0 / float(stream.average_rate or _RATE) if starts_s else 0.0


class _SeekingReader:
    """Decodes frames at ascending times, going on from where it is or from a key frame, whichever is nearer."""

    def __init__(self, container: Any, stream: Any, timeline: _Timeline, name: str) -> None:
        self._container = container
        self._stream = stream
        self._timeline = timeline
        self._name = name
        self._frames: Iterator[Any] = iter(())
        self._frame: Any = None
        self._key = timeline.key_pts[0]

    def frame_at(self, pts: int) -> Any:
        """The frame shown from `pts` on; the last decodable one where the stream ends before."""
        if self._frame is None or self._key_before(pts) > self._frame.pts:
            key = self._key_before(pts)
            self._seek(key)
            following = self._next()
            if following is not None and following.pts > pts:  # the container's seeking is not exact
                self._seek(self._timeline.pts[0])
                following = self._next()
            self._frame = following or self._frame
        while self._frame is not None and self._frame.pts < pts:
            following = self._next()
            if following is None:
                break
            self._frame = following
        if self._frame is None:
            raise MediaError(f"{self._name}: holds 0 frames that can be decoded; {_MEND}")
        return self._frame

    def _key_before(self, pts: int) -> int:
        keys = self._timeline.key_pts
        return keys[max(bisect_right(keys, pts) - 1, 0)]

    def _seek(self, pts: int) -> None:
        with _errors_named(self._name, self._stream, [self._timeline.pts[0], pts]):
            self._container.seek(pts, stream=self._stream, backward=True)
        self._frames = self._container.decode(self._stream)
        self._key = pts

    def _next(self) -> Any:
        """The next frame that has a time, or None at the end."""
        reached = self._timeline.pts[0] if self._frame is None else self._frame.pts
        with _errors_named(self._name, self._stream, [self._timeline.pts[0], reached]):
            for frame in self._frames:
                if frame.pts is None:
                    continue
                if frame.is_corrupt and frame.pts >= self._key:  # frames before it lean on what was not decoded
                    raise _damaged(self._name, float((frame.pts - self._timeline.pts[0]) * self._stream.time_base))
                return frame
        return None


def _to_image(frame: Any, rotate: bool, name: str, policy: MediaPolicy) -> Image.Image:
    check_size(frame.width, frame.height, name=name, policy=policy)
    image: Image.Image = frame.to_image()
    if rotate and frame.rotation % 360:
        return image.rotate(frame.rotation % 360, expand=True)
    return image


@contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[Any]:
    try:
        container = av.open(file, mode="r")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            f"{name}: looks like a video but its header cannot be read (damaged or cut off); {_MEND}"
        ) from error
    try:
        yield container
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
        raise MediaError(f"{name}: its video codec is not known here; {_MEND}")
    return stream


@contextmanager
def _errors_named(name: str, stream: Any, reached: Sequence[int]) -> Iterator[None]:
    """Turns PyAV's errors into MediaErrors; `reached` holds times (in the time base) whose spread is how far we got."""
    try:
        yield
    except (av.FFmpegError, OSError, ValueError) as error:
        at_s = float((max(reached) - min(reached)) * stream.time_base) if reached else 0.0
        raise _damaged(name, at_s) from error


def _damaged(name: str, at_s: float) -> MediaError:
    return MediaError(f"{name}: is damaged at about {at_s:.1f} s and cannot be decoded further; {_MEND}")


def _check_duration(duration_s: float, name: str, policy: MediaPolicy) -> None:
    if duration_s > policy.max_video_seconds:
        limit_s = policy.max_video_seconds
        raise MediaError(f"{name}: lasts {duration_s:.0f} s, over the limit of {limit_s:.0f} s; cut it")


def _check_count(count: int, max_frames: int, name: str) -> None:
    if count > max_frames:
        raise MediaError(
            f"{name}: would be sampled into {count} frames, over the limit of {max_frames}; "
            "give a smaller num_frames (--num-frames)"
        )
