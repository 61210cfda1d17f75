"""The frames of a packet table's plan: only what they need is decoded, in several places of the file at once.

What comes out is compared with what the packets promised: where it differs, nothing is left out any more, and where it
still differs, `UnexpectedError` says that the table is not to be trusted.
Runs of packets that begin with a key frame are independent of each other, so each thread decodes a share of them with a
decoder of its own: two decoders of one thread each get through a 1080p H.264 clip 1.5 times as fast as one decoder of
two threads, whose threads wait for each other's rows.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import av
from PIL import Image

from nvila.errors import MediaError
from nvila.processing.packets import PacketTable, Run, plan_runs
from nvila.processing.source import Source, damaged, open_video, to_image

_SEEKS_BY_DTS = ("mov,mp4,m4a,3gp,3g2,mj2", "avi")
_SEEKS_BY_PTS = ("matroska,webm",)
"""Containers with an index of key frames, and the time that the index holds. Others (MPEG-TS, MPEG-PS, raw streams) are
searched by byte position, and what the decoder gives after that may be frames later than the one asked for."""

_SKIPS_UNREFERENCED = ("h264",)
"""Decoders that leave out exactly the frames that no other one refers to. HEVC's know them only within one temporal
layer, and the other formats do not mark them."""

_SEEK_TRIES = 2
"""Key frames tried, backwards, before a container that seeks too late is read from its start."""

_LEAST_SHARE = 32
"""Packets below which opening a further decoder costs more than it saves."""


class UnexpectedError(Exception):
    """What was decoded is not what the packets promised; a surer way has to be taken."""


def decode_planned(
    container: Any, stream: Any, table: PacketTable, chosen: Iterable[int], source: Source
) -> dict[int, Image.Image]:
    """The frames `chosen`, by index. Raises UnexpectedError where the table is not to be trusted, MediaError on
    damage."""
    rows = {table.shown[index]: index for index in chosen}
    can_seek = _can_seek(container)
    runs = plan_runs(table, rows, can_seek=can_seek)
    shares = split_runs(runs, source.reading.threads) if can_seek else [runs]

    def decode(*, skips: bool) -> dict[int, Image.Image]:
        if len(shares) > 1:
            return _decode_beside(shares, table, source, skips=skips)
        with _rewound(container, stream, source) as (fresh, fresh_stream):
            return _Decoder(fresh, fresh_stream, table, source, skips).take(runs)

    taken = None
    if stream.codec_context.name in _SKIPS_UNREFERENCED and table.is_reordered:
        # A damaged or interlaced stream may not keep its promise: then every frame on the way has to be seen.
        with suppress(UnexpectedError, MediaError):
            taken = decode(skips=True)
    if taken is None:
        taken = decode(skips=False)
    return {rows[row]: image for row, image in taken.items()}


def split_runs(runs: list[Run], count: int) -> list[list[Run]]:
    """At most `count` shares of the runs, about equally long, the longest runs dealt out first; each is worth its own
    decoder."""
    packets = sum(run.last - run.first + 1 for run in runs)
    count = max(1, min(count, len(runs), packets // _LEAST_SHARE))
    shares: list[list[Run]] = [[] for _ in range(count)]
    loads = [0] * count
    for run in sorted(runs, key=lambda run: run.first - run.last):
        least = loads.index(min(loads))
        shares[least].append(run)
        loads[least] += run.last - run.first + 1
    return shares


def _decode_beside(
    shares: list[list[Run]], table: PacketTable, source: Source, *, skips: bool
) -> dict[int, Image.Image]:
    """What the shares give, each decoded by a thread of its own."""

    def decode(share: list[Run], own: Source) -> dict[int, Image.Image]:
        with open_video(own) as (container, stream):
            return _Decoder(container, stream, table, own, skips).take(share)

    taken: dict[int, Image.Image] = {}
    with ThreadPoolExecutor(len(shares)) as pool:
        for images in pool.map(decode, shares, source.beside(len(shares))):
            taken |= images
    return taken


def _can_seek(container: Any) -> bool:
    return container.format.name in (*_SEEKS_BY_DTS, *_SEEKS_BY_PTS)


@contextmanager
def _rewound(container: Any, stream: Any, source: Source) -> Iterator[tuple[Any, Any]]:
    """The container and stream as they are where they can seek, else opened anew, to be read from the start."""
    if _can_seek(container):
        yield container, stream
    else:
        source.file.seek(0)
        with open_video(source) as fresh:
            yield fresh


@dataclass(frozen=True)
class _Decoder:
    """Decodes runs of `table`, one after the other, from one opened container."""

    container: Any
    stream: Any
    table: PacketTable
    source: Source
    skips: bool
    """Whether frames that nothing refers to are left out."""

    def take(self, runs: list[Run]) -> dict[int, Image.Image]:
        """The wanted frames of all `runs`, by row."""
        table = self.table
        kept: dict[int, Image.Image] = {}
        for run in runs:
            produced: set[int] = set()
            begins = latest = table.pts[run.first]
            for frame in self._decode(run):
                if frame.pts is None or frame.pts not in table.row_at or (self.skips and frame.interlaced_frame):
                    raise UnexpectedError
                if frame.pts < begins:  # leading frames lean on what was not decoded
                    continue
                if frame.pts < latest:  # the decoder's order of showing is the true one
                    raise UnexpectedError
                if frame.is_corrupt:
                    raise damaged(self.source.name, table.seconds(frame.pts))
                latest = frame.pts
                row = table.row_at[frame.pts]
                produced.add(row)
                if row in run.wanted:
                    kept[row] = to_image(frame, self.source)
            self._check(run, produced)
        return kept

    def _check(self, run: Run, produced: set[int]) -> None:
        """Raises UnexpectedError unless each packet that should give a frame gave one: all wanted, and all if none was
        skipped."""
        table = self.table
        if not self.skips:
            begins = table.pts[run.first]
            rows = range(run.first, run.last + 1)
            expected = {row for row in rows if row not in table.hidden and table.pts[row] >= begins}
            if expected != produced:
                raise UnexpectedError
        elif not run.wanted <= produced:
            raise UnexpectedError

    def _decode(self, run: Run) -> Iterator[Any]:
        """Every frame that the packets of `run` give, the decoder emptied at its end so that nothing after it is
        read."""
        table, codec = self.table, self.stream.codec_context
        last_pts = table.pts[run.first]
        try:
            for row, packet in self._packets(run):
                last_pts = table.pts[row]
                codec.skip_frame = "NONREF" if self.skips and row not in run.wanted else "DEFAULT"
                yield from packet.decode()
            yield from codec.decode(None)
        except (av.FFmpegError, OSError, ValueError) as error:
            leading = any(table.pts[row] < table.pts[run.first] for row in range(run.first, run.last + 1))
            if leading:
                raise UnexpectedError from error
            raise damaged(self.source.name, table.seconds(last_pts)) from error
        finally:
            codec.skip_frame = "DEFAULT"

    def _packets(self, run: Run) -> Iterator[tuple[int, Any]]:
        """The packets of `run` with their rows. Raises UnexpectedError where seeking gives others than reading did."""
        row, packets = self._seek(run.first)
        for packet in packets:
            if packet.pts != self.table.pts[row]:
                raise UnexpectedError
            if row >= run.first:
                yield row, packet
            if row == run.last:
                return
            row += 1
        raise UnexpectedError

    def _seek(self, first: int) -> tuple[int, Iterator[Any]]:
        """The packets from row `first` or an earlier one on, and which it is: where seeking leads, or else the
        start."""
        container, stream, table = self.container, self.stream, self.table
        if not _can_seek(container):
            return 0, (packet for packet in container.demux(stream) if packet.size)
        by_dts = container.format.name in _SEEKS_BY_DTS
        end = bisect_right(table.keys, first)
        for key in [*reversed(table.keys[max(0, end - _SEEK_TRIES) : end]), 0]:
            try:
                container.seek(table.dts[key] if by_dts else table.pts[key], stream=stream, backward=True)
            except (av.FFmpegError, OSError) as error:
                raise UnexpectedError from error
            packets = (packet for packet in container.demux(stream) if packet.size)
            packet = next(packets, None)
            row = None if packet is None else table.row_at.get(packet.pts)
            if row is not None and row <= first:
                return row, itertools.chain([packet], packets)
        raise UnexpectedError
