"""Clips of many codecs and containers, with moving contents, written where a test wants them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

MILLISECOND = Fraction(1, 1000)


def moving_frame(index: int, width: int = 64, height: int = 48) -> Image.Image:
    """Texture that moves and turns brighter, so that frames differ and lean on each other."""
    rows, columns = np.mgrid[0:height, 0:width]
    wave = 90 + 60 * np.sin((columns + 3 * index) / 5.0) + 40 * np.cos((rows - 2 * index) / 4.0)
    grain = np.random.default_rng(index).integers(0, 12, (height, width))
    pixels = np.stack([wave + grain, np.roll(wave, index, axis=0), np.full_like(wave, 4 * index % 250)], axis=2)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_stream(
    path: Path,
    codec: str = "libx264",
    *,
    num_frames: int = 40,
    rate: int = 25,
    options: Mapping[str, str] | None = None,
    pts_ms: Iterable[int] | None = None,
    pix_fmt: str = "yuv420p",
    container_options: Mapping[str, str] | None = None,
) -> Path:
    """A clip by the container that the suffix names, a key frame every 12 frames; `pts_ms` says when frames are shown.

    `options` are the encoder's own.
    """
    times = None if pts_ms is None else list(pts_ms)
    with av.open(str(path), "w", options=dict(container_options or {})) as container:
        stream = container.add_stream(codec, rate=rate, options={"g": "12", **(options or {})})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        if times is not None:
            stream.time_base = stream.codec_context.time_base = MILLISECOND
        for index in range(num_frames if times is None else len(times)):
            frame = av.VideoFrame.from_image(moving_frame(index))
            frame.pts = index if times is None else times[index]
            frame.time_base = Fraction(1, rate) if times is None else MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def packets_of(path: Path) -> list[av.Packet]:
    """The video packets of a file, in decoding order."""
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def blank_packet(path: Path, packet: av.Packet) -> None:
    """Overwrite the inside of a packet in its file with zeros; its first bytes, which say what it is, stay."""
    data = bytearray(path.read_bytes())
    first, last = packet.pos + min(12, packet.size // 2), packet.pos + packet.size
    data[first:last] = bytes(last - first)
    path.write_bytes(data)


def cut_inside(path: Path, packet: av.Packet) -> Path:
    """End a file in the middle of a packet."""
    path.write_bytes(path.read_bytes()[: packet.pos + packet.size // 2])
    return path


def is_unreferenced(packet: av.Packet) -> bool:
    """Whether no other frame refers to that of an H.264 packet out of an MP4: nal_ref_idc of its first slice is 0."""
    data = bytes(packet)
    at = 0
    while data[at + 4] & 0x1F not in (1, 5):
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    return data[at + 4] & 0x60 == 0


def plainly_decoded(path: Path) -> list[av.VideoFrame]:
    """Every frame of a file by the plain loop, in one thread."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return list(container.decode(stream))
