"""The packets of a video stream as a table, read without decoding, and which of them a set of frames needs.

Demuxing costs a hundredth of decoding and tells when every frame is shown and where decoding can begin. A wanted frame
is then reached from the last key frame that comes before it both in the file and on the screen (a frame shown before
the key frame that it follows in the file, a "leading" one of an open group, leans on the group before).
Leaves out opening files and decoding (`decode`).
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

from nvila.errors import MediaError
from nvila.processing.clip import Timeline, held_duration

MEND = "re-encode it (ffmpeg -i IN -c:v libx264 OUT.mp4), or get the file again"

RATE = 25.0
"""Frames per second of streams that name no rate."""

_NEAR = 4
"""Packets between two runs up to which going on costs less than seeking, which empties the decoder's pipeline."""

_VP8_SHOWN = 0x10
"""Bit of a VP8 packet's first byte: the frame is shown. Others only serve as references and count as no frame."""


@dataclass(frozen=True, kw_only=True)
class PacketTable:
    """A row a packet, in decoding order. Times are in units of `time_base` seconds, and no two `pts` are equal."""

    pts: list[int]
    dts: list[int]
    keys: list[int]
    """Rows at which decoding can begin, ascending."""
    shown: list[int]
    """The row of every frame, in the order of showing: hidden ones are not there."""
    hidden: frozenset[int]
    """Rows that are decoded and not shown: frames that only others refer to, or that an edit list leaves out."""
    row_at: dict[int, int]
    """The row of every pts."""
    time_base: Fraction
    rate: float

    def timeline(self) -> Timeline:
        """When the frames are shown."""
        times = [self.pts[row] for row in self.shown]
        starts_s = [float((pts - times[0]) * self.time_base) for pts in times]
        keys = set(self.keys)
        key_indices = [index for index, row in enumerate(self.shown) if row in keys]
        return Timeline(starts_s=starts_s, duration_s=held_duration(starts_s, rate=self.rate), key_indices=key_indices)

    @property
    def is_reordered(self) -> bool:
        """Whether frames are shown in another order than they are decoded in, as with B-frames."""
        return any(after < before for before, after in itertools.pairwise(self.pts))

    def seconds(self, pts: int) -> float:
        """Seconds after the first frame shown."""
        return float((pts - self.pts[self.shown[0]]) * self.time_base)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Packets `first` to `last` (rows of a PacketTable), to be decoded in one go for the `wanted` among them."""

    first: int
    last: int
    wanted: frozenset[int]


def read_packets(container: Any, stream: Any, *, name: str, keep_broken: bool) -> tuple[PacketTable | None, bool]:
    """The table of `stream`, and whether packets of it are missing or unreadable.

    The table is None where the packets do not tell which frames there will be: no times or the same twice, no key
    frame first, frames at the start that lean on what is not there. Raises MediaError for a broken file, unless
    `keep_broken`; then the table ends there.
    """
    pts: list[int | None] = []
    dts: list[int | None] = []
    keys: list[int] = []
    hidden: set[int] = set()
    has_vp8 = stream.codec_context.name == "vp8"
    fault: MediaError | None = None
    is_cut = has_dropped = False
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            is_cut = packet.is_corrupt
            if is_cut and keep_broken:
                has_dropped = True
                continue
            if packet.is_keyframe:
                keys.append(len(pts))
            if packet.is_discard or (has_vp8 and not memoryview(packet)[0] & _VP8_SHOWN):
                hidden.add(len(pts))
            pts.append(packet.pts)
            dts.append(packet.dts)
    except (av.FFmpegError, OSError, ValueError) as error:
        fault = MediaError(
            f"{name}: is damaged at about {_spread_s(pts, stream):.1f} s and cannot be read further; {MEND}"
        )
        fault.__cause__ = error
    fault = fault or _cut(container, _spread_s(pts, stream), is_cut, name)
    if fault is not None and not keep_broken:
        raise fault
    # AVI has no times of showing: those of a stream with B-frames are the demuxer's guesses.
    is_guessed = container.format.name == "avi" and pts != dts
    table = None if is_guessed else _table(pts, dts, keys, hidden, stream)
    return table, has_dropped or fault is not None


def plan_runs(table: PacketTable, rows: Iterable[int], *, can_seek: bool) -> list[Run]:
    """What to decode for the frames at `rows`, ascending: one run from the start, or short ones from key frames."""
    wanted = sorted((_first_for(table, row) if can_seek else 0, row) for row in rows)
    runs: list[Run] = []
    for first, row in wanted:
        if runs and first <= runs[-1].last + _NEAR:
            before = runs.pop()
            runs.append(Run(first=before.first, last=max(before.last, row), wanted=before.wanted | {row}))
        else:
            runs.append(Run(first=first, last=row, wanted=frozenset({row})))
    return runs


def _first_for(table: PacketTable, row: int) -> int:
    """The last key row before `row` that is not shown after it."""
    position = bisect_right(table.keys, row) - 1
    while position > 0 and table.pts[table.keys[position]] > table.pts[row]:
        position -= 1
    return table.keys[position]


def _table(
    pts: list[int | None], dts: list[int | None], keys: list[int], hidden: set[int], stream: Any
) -> PacketTable | None:
    times = [time for time in pts if time is not None]
    if len(times) < len(pts) or len(set(times)) < len(pts) or (pts and keys[:1] != [0]):
        return None
    shown = sorted((row for row in range(len(times)) if row not in hidden), key=times.__getitem__)
    if shown and times[shown[0]] < times[0]:
        return None
    return PacketTable(
        pts=times,
        dts=[time if decoded is None else decoded for time, decoded in zip(times, dts, strict=True)],
        keys=keys,
        shown=shown,
        hidden=frozenset(hidden),
        row_at={time: row for row, time in enumerate(times)},
        time_base=stream.time_base,
        rate=float(stream.average_rate or RATE),
    )


def _cut(container: Any, found_s: float, is_cut: bool, name: str) -> MediaError | None:
    """The error of a file that ends early, where the container shows it: inside a frame (`is_cut`), or (Matroska and
    WebM, which hide a cut, without sound) long before the duration in its header."""
    if is_cut:
        return MediaError(f"{name}: is cut off at {found_s:.1f} s, inside a frame; {MEND}")
    if container.format.name == "matroska,webm" and len(container.streams) == 1 and container.duration:
        declared_s = container.duration / av.time_base
        if found_s < 0.9 * declared_s - 1.0:
            return MediaError(f"{name}: is cut off at {found_s:.1f} s of {declared_s:.1f} s; {MEND}")
    return None


def _spread_s(pts: list[int | None], stream: Any) -> float:
    times = [time for time in pts if time is not None]
    return float((max(times) - min(times)) * stream.time_base) if times else 0.0
