"""Video files to sampled RGB frames, by PyAV, with only the sampled frames ever held.

The file is read once without decoding to learn when every frame is shown (`packets`); then only the packets that the
sampled frames need are decoded, from the key frame before each (`planned`). Where what comes out differs from what the
packets promised, or packets carry no times, the file is decoded from end to end, once to count its frames and once to
take them. So the frames are always those of plain decoding. How many frames the header promises is not believed.

Damage on the way to a sampled frame is an error and names the time, or is left out when asked for; where a container
skips damaged packets by itself (Matroska, AVI), the frames around the gap are used.
Leaves out folders of frames and animated pictures (`media`, `pictures`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, BinaryIO

import av
from PIL import Image

from nvila.errors import MediaError
from nvila.processing.clip import Clip, Reading, Sampling, Timeline, choose_frames, held_duration
from nvila.processing.packets import RATE, read_packets
from nvila.processing.planned import UnexpectedError, decode_planned
from nvila.processing.policy import MediaPolicy, check_size
from nvila.processing.source import Source, damaged, open_video, to_image

__all__ = ["decode_clip"]


def decode_clip(file: BinaryIO, *, name: str, sampling: Sampling, reading: Reading, policy: MediaPolicy) -> Clip:
    """Sampled frames of the first video stream in the seekable `file`.

    Raises MediaError, naming the file `name`, when there is no video stream, no decoder, no frame, damage (unless
    `reading.broken` is "readable"), or more than `policy` admits.
    """
    source = Source(file=file, name=name, reading=reading, policy=policy)
    keep_broken = reading.broken == "readable"
    with open_video(source) as (container, stream):
        check_size(stream.codec_context.width, stream.codec_context.height, name=name, policy=policy)
        _check_duration((container.duration or 0) / av.time_base, source)
        table, is_partial = read_packets(container, stream, name=name, keep_broken=keep_broken)
        if table is not None:
            timeline = table.timeline()
            chosen = _choose(timeline, sampling, source)
            try:
                kept = decode_planned(container, stream, table, chosen, source)
                return _clip(chosen, kept, timeline, is_partial)
            except MediaError:
                if not keep_broken:
                    raise
            except UnexpectedError:
                pass  # the file is decoded from end to end instead, below
    return _decode_throughout(source, sampling, is_partial)


def _clip(chosen: list[int], kept: dict[int, Image.Image], timeline: Timeline, is_partial: bool) -> Clip:
    return Clip(
        frames=[kept[i] for i in chosen],
        indices=chosen,
        times_s=[timeline.starts_s[i] for i in chosen],
        duration_s=timeline.duration_s,
        is_partial=is_partial,
    )


def _choose(timeline: Timeline, sampling: Sampling, source: Source) -> list[int]:
    _check_duration(timeline.duration_s, source)
    return choose_frames(timeline, sampling, name=source.name, max_frames=source.policy.max_frames)


def _decode_throughout(source: Source, sampling: Sampling, is_partial: bool) -> Clip:
    """The clip by decoding the whole file twice: once for the times of its frames, once for the sampled ones."""
    pts: list[int | None] = []
    keys: list[int] = []
    rate, time_base = RATE, 0.0
    for index, (frame, stream) in enumerate(_every_frame(source)):
        rate, time_base = _rate(stream), float(stream.time_base)
        pts.append(frame.pts)
        if frame.key_frame:
            keys.append(index)
    times = [time for time in pts if time is not None]
    if len(times) == len(pts) and all(a < b for a, b in itertools.pairwise(times)):
        starts_s = [(time - times[0]) * time_base for time in times]
    else:
        starts_s = [index / rate for index in range(len(pts))]
    timeline = Timeline(starts_s=starts_s, duration_s=held_duration(starts_s, rate=rate), key_indices=keys)
    chosen = _choose(timeline, sampling, source)
    wanted = set(chosen)
    kept = {i: to_image(frame, source) for i, (frame, _) in enumerate(_every_frame(source)) if i in wanted}
    return _clip(chosen, kept, timeline, is_partial or bool(source.damaged_at_s))


def _every_frame(source: Source) -> Iterator[tuple[Any, Any]]:
    """Every sound frame from the start, with its stream. After damage that may be left out, on from a key frame."""
    source.file.seek(0)
    with open_video(source) as (container, stream):
        is_sound = True
        count = 0
        for frame in _decoded(container, stream, source):
            if frame is None or frame.is_corrupt:
                at_s = count / _rate(stream)
                if source.reading.broken == "error":
                    raise damaged(source.name, at_s)
                source.damaged_at_s.append(at_s)
                is_sound = False
                continue
            is_sound = is_sound or frame.key_frame
            if is_sound:
                count += 1
                yield frame, stream


def _decoded(container: Any, stream: Any, source: Source) -> Iterator[Any]:
    """The frames of a stream from where it is, and None in place of what cannot be decoded, or demuxed any further."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError, ValueError):
            yield None
            return
        if packet is None:
            return
        if packet.is_corrupt and source.reading.broken == "readable":
            yield None
            continue
        try:
            frames = packet.decode()
        except (av.FFmpegError, OSError, ValueError):
            frames = [None]
        yield from frames


def _rate(stream: Any) -> float:
    return float(stream.average_rate or stream.guessed_rate or RATE)


def _check_duration(duration_s: float, source: Source) -> None:
    limit_s = source.policy.max_video_seconds
    if duration_s > limit_s:
        raise MediaError(f"{source.name}: lasts {duration_s:.0f} s, over the limit of {limit_s:.0f} s; cut it")
