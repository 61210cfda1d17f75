"""Sampling k frames of a video: frames a second, against a plain PyAV loop and decord2, in the same run.

The source is a synthetic pan over texture with grain, encoded once (H.264, key frame every 250 frames, 3 B-frames) and
kept in --cache. The plain loop decodes everything and converts the wanted frames. All use the same number of threads
and end with the same thing, PIL images, which is what a processor takes; each figure is the best of --repeats, taken in
turns, and starts with opening the file. The ceiling is what cannot be left out: reading all packets, and decoding,
without converting, the packets of the plan but for the frames that nothing refers to. Our pixels must equal the plain
loop's. The last line is JSON. decord2 is left out where it is not installed
(pip install decord2 -c constraints.txt).

    python benchmarks/bench_video.py [--quick] [--threads 2] [--repeats 2]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from nvila.processing.media import Reading, Sampling, load_clip
from nvila.processing.packets import PacketTable, Run, plan_runs, read_packets
from nvila.processing.planned import split_runs

RATE = 25
SEED = 0


def make_clip(folder: Path, seconds: int, width: int, height: int) -> Path:
    """The synthetic clip of that length and size, made unless `folder` has it."""
    path = folder / f"pan_{seconds}s_{width}x{height}.mp4"
    if path.is_file():
        return path
    print(f"making {path}")
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.mp4")
    luma, chroma = texture(width + 512, height + 512)
    options = {"preset": "ultrafast", "crf": "26", "bf": "3", "g": "250", "x264-params": "b-adapt=0:scenecut=0"}
    with av.open(str(unfinished), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(seconds * RATE):
            frame = pan(luma, chroma, index, width, height)
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    unfinished.rename(path)
    return path


def texture(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A luma plane of waves, blocks and grain, and a chroma plane of half its size, uint8."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = 110 + 50 * np.sin(columns / 37) * np.cos(rows / 23) + 30 * np.sin((columns + 2 * rows) / 211)
    blocks = 25.0 * (((columns // 96) + (rows // 64)) % 2)
    grain = np.random.default_rng(SEED).normal(0, 3, (height, width)).astype(np.float32)
    luma = (waves + blocks + grain).clip(0, 255).astype(np.uint8)
    return luma, (128 + 40 * np.sin(columns / 97 + rows / 61))[::2, ::2].astype(np.uint8)


def pan(luma: np.ndarray, chroma: np.ndarray, index: int, width: int, height: int) -> av.VideoFrame:
    """Frame `index`: a window that moves over the texture, with a bar that moves through it."""
    x = 2 * int(128 + 127 * np.sin(index / 90))
    y = 2 * int(128 + 127 * np.cos(index / 130))
    planes = np.empty((height * 3 // 2, width), np.uint8)
    planes[:height] = luma[y : y + height, x : x + width]
    bar = 7 * index % (width - 64)
    planes[:height, bar : bar + 64] = 235
    window = chroma[y // 2 : (y + height) // 2, x // 2 : (x + width) // 2]
    planes[height:] = np.concatenate([window.ravel(), window[::-1].ravel()]).reshape(height // 2, width)
    return av.VideoFrame.from_ndarray(planes, format="yuv420p")


def evenly(num_frames: int, k: int) -> list[int]:
    return [int(i) for i in np.round(np.linspace(0, num_frames - 1, k))]


def sample_ours(path: Path, k: int, threads: int) -> list[Image.Image]:
    return load_clip(path, sampling=Sampling(num_frames=k), reading=Reading(threads=threads)).frames


def sample_plainly(path: Path, k: int, threads: int) -> list[Image.Image]:
    """Decodes everything; believes the header's number of frames."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type, stream.codec_context.thread_count = "AUTO", threads
        wanted = set(evenly(stream.frames, k))
        return [
            Image.fromarray(frame.to_ndarray(format="rgb24", threads=threads))
            for index, frame in enumerate(container.decode(stream))
            if index in wanted
        ]


def sample_with_decord(path: Path, k: int, threads: int) -> list[Image.Image]:
    import decord

    reader = decord.VideoReader(str(path), num_threads=threads)
    return [Image.fromarray(frame) for frame in reader.get_batch(evenly(len(reader), k)).asnumpy()]


def ceiling_seconds(path: Path, k: int, threads: int) -> float:
    """Seconds of reading all packets, and of decoding the planned ones, in as many decoders as threads, without
    converting any."""
    began = time.perf_counter()
    with av.open(str(path)) as container:
        table, _ = read_packets(container, container.streams.video[0], name=str(path), keep_broken=False)
    assert table is not None
    wanted = [table.shown[index] for index in evenly(len(table.shown), k)]
    shares = split_runs(plan_runs(table, wanted, can_seek=True), threads)
    with ThreadPoolExecutor(len(shares)) as pool:
        list(pool.map(lambda share: decode_share(path, table, share, threads // len(shares)), shares))
    return time.perf_counter() - began


def decode_share(path: Path, table: PacketTable, runs: list[Run], threads: int) -> None:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        codec.thread_type, codec.thread_count = "AUTO", threads
        for run in runs:
            container.seek(table.dts[run.first], stream=stream)
            for row, packet in zip(range(run.first, run.last + 1), container.demux(stream), strict=False):
                codec.skip_frame = "DEFAULT" if row in run.wanted else "NONREF"
                codec.decode(packet)
            codec.decode(None)


def best_seconds(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The least seconds of each way, taken in turns; its result is thrown away."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def measure(path: Path, k: int, options: argparse.Namespace) -> dict[str, Any]:
    """Frames a second of every way on one clip, and how many times the better peer ours is."""
    threads = options.threads
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: sample_ours(path, k, threads),
        "plain": lambda: sample_plainly(path, k, threads),
    }
    if options.has_decord:
        ways["decord2"] = lambda: sample_with_decord(path, k, threads)
    seconds = best_seconds(ways, options.repeats)
    seconds["ceiling"] = min(ceiling_seconds(path, k, threads) for _ in range(options.repeats))
    row: dict[str, Any] = {"clip": path.stem, "k": k}
    row |= {f"{name}_frames_per_s": round(k / taken, 2) for name, taken in seconds.items()}
    peers = {name: taken for name, taken in seconds.items() if name in ("plain", "decord2")}
    row["times_plain"] = round(seconds["plain"] / seconds["ours"], 2)
    row["times_better_peer"] = round(min(peers.values()) / seconds["ours"], 2)
    figures = "  ".join(f"{name} {k / taken:8.2f}" for name, taken in seconds.items())
    print(f"{path.stem:24s} k={k:4d} frames/s: {figures}  = {row['times_better_peer']:.2f} x the better peer")
    return row


def check_equal(path: Path, k: int, threads: int) -> None:
    """Our pixels are the plain loop's."""
    for ours, plain in zip(sample_ours(path, k, threads), sample_plainly(path, k, threads), strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(plain)), "our frames differ from plain decoding"


def has_decord() -> bool:
    try:
        import decord  # noqa: F401
    except ImportError:
        print("decord2 is not installed and not compared")
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 seconds of 640 x 360 in place of ten minutes of 1080p")
    parser.add_argument("--threads", type=int, default=Reading().threads)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--k", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "nvila_bench_video")
    options = parser.parse_args()
    options.has_decord = has_decord()
    long = make_clip(options.cache, *((20, 640, 360) if options.quick else (600, 1920, 1080)))
    short = make_clip(options.cache, *((12, 320, 180) if options.quick else (12, 640, 360)))
    check_equal(short, 64, options.threads)
    rows = [measure(path, k, options) for path in (long, short) for k in options.k]
    report = {
        "rows": rows,
        "is_quick": options.quick,
        "threads": options.threads,
        "repeats": options.repeats,
        "machine": platform.processor() or platform.machine(),
        "num_cpus": os.cpu_count(),
        "pyav": av.__version__,
        "seed": SEED,
        "date": str(date.today()),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
