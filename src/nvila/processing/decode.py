"""Video files to sampled RGB frames, by PyAV, with only the sampled frames ever held.

The file is read once without decoding to learn when every frame is shown (`packets`); then only the packets that the
sampled frames need are decoded, from the key frame before each, and H.264 frames that nothing refers to are left out.
What comes out is compared with what the packets promised: where it differs, nothing is left out any more, and where
it still differs, or packets carry no times, the file is decoded from end to end, once to count its frames and once to
take them. So the frames are always those of plain decoding. How many frames the header promises is not believed.

Damage on the way to a sampled frame is an error and names the time, or is left out when asked for; where a container
skips damaged packets by itself (Matroska, AVI), the frames around the gap are used.
Leaves out folders of frames and animated pictures (`media`, `pictures`).
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import av
from av.video.reformatter import VideoReformatter
from PIL import Image

from nvila.errors import MediaError
from nvila.processing.clip import Clip, Reading, Sampling, Timeline, choose_frames, held_duration
from nvila.processing.packets import MEND, RATE, PacketTable, Run, plan_runs, read_packets
from nvila.processing.policy import MediaPolicy, check_size

__all__ = ["decode_clip"]

_SEEKS_BY_DTS = ("mov,mp4,m4a,3gp,3g2,mj2", "avi")
_SEEKS_BY_PTS = ("matroska,webm",)
"""Containers with an index of key frames, and the time that the index holds. Others (MPEG-TS, MPEG-PS, raw streams) are
searched by byte position, and what the decoder gives after that may be frames later than the one asked for."""

_SKIPS_UNREFERENCED = ("h264",)
"""Decoders that leave out exactly the frames that no other one refers to. HEVC's know them only within one temporal
layer, and the other formats do not mark them."""

_SEEK_TRIES = 2
"""Key frames tried, backwards, before a container that seeks too late is read from its start."""


class _UnexpectedError(Exception):
    """What was decoded is not what the packets promised; a surer way has to be taken."""


@dataclass(frozen=True, kw_only=True)
class _Source:
    """An open-able file, what errors call it, and how to read it."""

    file: BinaryIO
    name: str
    reading: Reading
    policy: MediaPolicy
    damaged_at_s: list[float] = field(default_factory=list)
    """Where damage was left out."""
    converter: VideoReformatter = field(default_factory=VideoReformatter)
    """Made once for all frames: making one, or giving it threads, costs more than a conversion."""


def decode_clip(file: BinaryIO, *, name: str, sampling: Sampling, reading: Reading, policy: MediaPolicy) -> Clip:
    """Sampled frames of the first video stream in the seekable `file`.

    Raises MediaError, naming the file `name`, when there is no video stream, no decoder, no frame, damage (unless
    `reading.broken` is "readable"), or more than `policy` admits.
    """
    source = _Source(file=file, name=name, reading=reading, policy=policy)
    keep_broken = reading.broken == "readable"
    with _opened(source) as (container, stream):
        check_size(stream.codec_context.width, stream.codec_context.height, name=name, policy=policy)
        _check_duration((container.duration or 0) / av.time_base, source)
        table, is_partial = read_packets(container, stream, name=name, keep_broken=keep_broken)
        if table is not None:
            timeline = table.timeline()
            chosen = _choose(timeline, sampling, source)
            try:
                kept = _decode_planned(container, stream, table, chosen, source)
                return _clip(chosen, kept, timeline, is_partial)
            except MediaError:
                if not keep_broken:
                    raise
            except _UnexpectedError:
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


def _choose(timeline: Timeline, sampling: Sampling, source: _Source) -> list[int]:
    _check_duration(timeline.duration_s, source)
    return choose_frames(timeline, sampling, name=source.name, max_frames=source.policy.max_frames)


def _decode_planned(
    container: Any, stream: Any, table: PacketTable, chosen: Iterable[int], source: _Source
) -> dict[int, Image.Image]:
    """The frames `chosen`, by index. Raises _UnexpectedError where the table is not to be trusted, MediaError on
    damage."""
    rows = {table.shown[index]: index for index in chosen}
    runs = plan_runs(table, rows, can_seek=_can_seek(container))
    if stream.codec_context.name in _SKIPS_UNREFERENCED and table.is_reordered:
        try:
            with _rewound(container, stream, source) as opened:
                return _decode_runs(*opened, table, runs, rows, source, skips=True)
        except (_UnexpectedError, MediaError):
            pass  # a damaged or interlaced stream: every frame on the way has to be seen
    with _rewound(container, stream, source) as opened:
        return _decode_runs(*opened, table, runs, rows, source, skips=False)


def _can_seek(container: Any) -> bool:
    return container.format.name in (*_SEEKS_BY_DTS, *_SEEKS_BY_PTS)


@contextmanager
def _rewound(container: Any, stream: Any, source: _Source) -> Iterator[tuple[Any, Any]]:
    """The container and stream as they are where they can seek, else opened anew, to be read from the start."""
    if _can_seek(container):
        yield container, stream
    else:
        source.file.seek(0)
        with _opened(source) as opened:
            yield opened


def _decode_runs(
    container: Any,
    stream: Any,
    table: PacketTable,
    runs: list[Run],
    rows: dict[int, int],
    source: _Source,
    *,
    skips: bool,
) -> dict[int, Image.Image]:
    """The frames of all `runs`, by the index that `rows` gives their packet's row."""
    kept: dict[int, Image.Image] = {}
    for run in runs:
        produced: set[int] = set()
        begins = latest = table.pts[run.first]
        for frame in _decode_run(container, stream, table, run, source, skips=skips):
            if frame.pts is None or frame.pts not in table.row_at or (skips and frame.interlaced_frame):
                raise _UnexpectedError
            if frame.pts < begins:  # leading frames lean on what was not decoded
                continue
            if frame.pts < latest:  # the decoder's order of showing is the true one
                raise _UnexpectedError
            if frame.is_corrupt:
                raise _damaged(source.name, table.seconds(frame.pts))
            latest = frame.pts
            row = table.row_at[frame.pts]
            produced.add(row)
            if row in run.wanted:
                kept[rows[row]] = _to_image(frame, source)
        _check_produced(table, run, produced, skips=skips)
    return kept


def _check_produced(table: PacketTable, run: Run, produced: set[int], *, skips: bool) -> None:
    """Raises _UnexpectedError unless each packet that should give a frame gave one: all wanted, and all if none was
    skipped."""
    if not skips:
        begins = table.pts[run.first]
        rows = range(run.first, run.last + 1)
        expected = {row for row in rows if row not in table.hidden and table.pts[row] >= begins}
        if expected != produced:
            raise _UnexpectedError
    elif not run.wanted <= produced:
        raise _UnexpectedError


def _decode_run(
    container: Any, stream: Any, table: PacketTable, run: Run, source: _Source, *, skips: bool
) -> Iterator[Any]:
    """Every frame that the packets of `run` give, the decoder emptied at its end so that nothing after it is read."""
    codec = stream.codec_context
    last_pts = table.pts[run.first]
    try:
        for row, packet in _packets_of(container, stream, table, run):
            last_pts = table.pts[row]
            codec.skip_frame = "NONREF" if skips and row not in run.wanted else "DEFAULT"
            yield from packet.decode()
        yield from codec.decode(None)
    except (av.FFmpegError, OSError, ValueError) as error:
        leading = any(table.pts[row] < table.pts[run.first] for row in range(run.first, run.last + 1))
        if leading:
            raise _UnexpectedError from error
        raise _damaged(source.name, table.seconds(last_pts)) from error
    finally:
        codec.skip_frame = "DEFAULT"


def _packets_of(container: Any, stream: Any, table: PacketTable, run: Run) -> Iterator[tuple[int, Any]]:
    """The packets of `run` with their rows. Raises _UnexpectedError where seeking gives others than reading did."""
    row, packets = _seek(container, stream, table, run.first)
    for packet in packets:
        if packet.pts != table.pts[row]:
            raise _UnexpectedError
        if row >= run.first:
            yield row, packet
        if row == run.last:
            return
        row += 1
    raise _UnexpectedError


def _seek(container: Any, stream: Any, table: PacketTable, first: int) -> tuple[int, Iterator[Any]]:
    """The packets from row `first` or an earlier one on, and which it is: where seeking leads, or else the start."""
    if not _can_seek(container):
        return 0, (packet for packet in container.demux(stream) if packet.size)
    by_dts = container.format.name in _SEEKS_BY_DTS
    end = bisect_right(table.keys, first)
    for key in [*reversed(table.keys[max(0, end - _SEEK_TRIES) : end]), 0]:
        try:
            container.seek(table.dts[key] if by_dts else table.pts[key], stream=stream, backward=True)
        except (av.FFmpegError, OSError) as error:
            raise _UnexpectedError from error
        packets = (packet for packet in container.demux(stream) if packet.size)
        packet = next(packets, None)
        row = None if packet is None else table.row_at.get(packet.pts)
        if row is not None and row <= first:
            return row, itertools.chain([packet], packets)
    raise _UnexpectedError


def _decode_throughout(source: _Source, sampling: Sampling, is_partial: bool) -> Clip:
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
    kept = {i: _to_image(frame, source) for i, (frame, _) in enumerate(_every_frame(source)) if i in wanted}
    return _clip(chosen, kept, timeline, is_partial or bool(source.damaged_at_s))


def _every_frame(source: _Source) -> Iterator[tuple[Any, Any]]:
    """Every sound frame from the start, with its stream. After damage that may be left out, on from a key frame."""
    source.file.seek(0)
    with _opened(source) as (container, stream):
        is_sound = True
        count = 0
        for frame in _decoded(container, stream, source):
            if frame is None or frame.is_corrupt:
                at_s = count / _rate(stream)
                if source.reading.broken == "error":
                    raise _damaged(source.name, at_s)
                source.damaged_at_s.append(at_s)
                is_sound = False
                continue
            is_sound = is_sound or frame.key_frame
            if is_sound:
                count += 1
                yield frame, stream


def _decoded(container: Any, stream: Any, source: _Source) -> Iterator[Any]:
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


def _to_image(frame: Any, source: _Source) -> Image.Image:
    check_size(frame.width, frame.height, name=source.name, policy=source.policy)
    rgb = source.converter.reformat(frame, format="rgb24", threads=1)
    plane: Any = rgb.planes[0]
    image = Image.new("RGB", (rgb.width, rgb.height), None)  # None: not filled first, which costs as much as decoding
    image.frombytes(plane, "raw", "RGB", plane.line_size, 1)
    if source.reading.exif_transpose and frame.rotation % 360:
        return image.rotate(frame.rotation % 360, expand=True)
    return image


@contextmanager
def _opened(source: _Source) -> Iterator[tuple[Any, Any]]:
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


def _damaged(name: str, at_s: float) -> MediaError:
    return MediaError(f"{name}: is damaged at about {at_s:.1f} s and cannot be decoded further; {MEND}")


def _check_duration(duration_s: float, source: _Source) -> None:
    limit_s = source.policy.max_video_seconds
    if duration_s > limit_s:
        raise MediaError(f"{source.name}: lasts {duration_s:.0f} s, over the limit of {limit_s:.0f} s; cut it")
