"""Pictures and clips, sound and broken ones, written where a test wants them."""

from __future__ import annotations

import struct
import wave
import zlib
from pathlib import Path

import av
import numpy as np
from PIL import Image


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture that compresses badly, so that a cut in its file hits pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header says a size and whose pixels are missing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


def clip_frame(index: int, width: int = 64, height: int = 48) -> Image.Image:
    """Frame `index` of the clips: its shade of red tells which one it is."""
    frame = np.asarray(noise(width, height, seed=7)).copy() // 4
    frame[:, :, 0] = min(index * 8, 255)
    return Image.fromarray(frame)


def write_clip(path: Path, *, num_frames: int = 20, codec: str = "libx264", gop: int = 6, rate: int = 10) -> Path:
    """A clip by the container that the suffix of `path` names, a key frame every `gop` frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.gop_size = gop
        for index in range(num_frames):
            for packet in stream.encode(av.VideoFrame.from_image(clip_frame(index))):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_frames(folder: Path, count: int, pattern: str = "frame_{}.png") -> Path:
    """A folder of frames; numbers are not zero-padded unless `pattern` says so."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        clip_frame(index).save(folder / pattern.format(index))
    return folder


def write_animation(path: Path, count: int = 6) -> Path:
    """An animated GIF, WebP or PNG, 100 ms a frame."""
    frames = [clip_frame(index) for index in range(count)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, loop=0)
    return path


def write_wave(path: Path) -> Path:
    """A tenth of a second of silence."""
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(1600))
    return path


def write_song(path: Path) -> Path:
    """Sound alone in a container that could hold a video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    return path


def write_empty_clip(path: Path) -> Path:
    """A video stream without a single frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    return path


def damage(path: Path, *, start: float = 0.45, length: float = 0.15) -> Path:
    """Overwrite a stretch of a file, in parts of its size, with zeros."""
    data = bytearray(path.read_bytes())
    first, last = int(len(data) * start), int(len(data) * (start + length))
    data[first:last] = bytes(last - first)
    path.write_bytes(data)
    return path


def cut(path: Path, part: float = 0.6) -> Path:
    """Keep the first `part` of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    return path
