"""Seeking against plain decoding: clips of random groups of pictures, B-frames and times, and streamed containers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.clip_files import packets_of, plainly_decoded, write_stream

from nvila.processing import decode, planned
from nvila.processing.media import Reading, Sampling, load_clip
from nvila.processing.packets import Run

SUFFIXES = {
    "libx264": ("mp4", "mkv", "mov", "ts", "avi", "flv"),
    "libx265": ("mp4", "mkv", "ts"),
    "mpeg4": ("mp4", "mkv", "avi"),
    "mpeg2video": ("mpg", "ts"),
    "libvpx": ("webm", "mkv"),
    "libvpx-vp9": ("webm", "mp4"),
    "mjpeg": ("avi", "mov"),
}
TIMED = ("mp4", "mkv", "mov", "webm")
"""Containers that keep a variable rate."""
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}
STREAMED: dict[str, tuple[str, dict[str, str], bool]] = {
    "live.mkv": ("libx264", {"live": "1"}, True),
    "live.webm": ("libvpx", {"live": "1"}, True),
    "fragmented.mp4": ("libx264", FRAGMENTED, True),
    "raw.h264": ("libx264", {}, False),
    "raw.hevc": ("libx265", {}, False),
}
"""File: encoder, options of its container, and whether its packets tell when frames are shown."""


def check_all(path: Path, every: list[Image.Image], sampling: Sampling, reading: Reading) -> list[int]:
    """The indices of a clip whose frames are those of plain decoding."""
    clip = load_clip(path, sampling=sampling, reading=reading)
    pixels = [
        np.array_equal(np.asarray(a), np.asarray(every[i])) for a, i in zip(clip.frames, clip.indices, strict=True)
    ]
    assert pixels == [True] * len(clip.indices), (path.name, sampling, clip.indices)
    return clip.indices


def drawn_options(codec: str, rng: np.random.Generator) -> dict[str, str]:
    """Options of an encoder with groups of 1 to 30 frames, 0 to 4 B-frames, open groups half of the time."""
    gop, num_b, is_open = int(rng.integers(1, 31)), int(rng.integers(0, 5)), int(rng.integers(0, 2))
    if codec == "libx264":
        refresh = "intra-refresh=1:" if rng.random() < 0.2 else f"open-gop={is_open}:"
        pyramid = f"b-pyramid={rng.choice(['none', 'strict', 'normal'])}:b-adapt={rng.integers(0, 2)}"
        return {"x264-params": f"{refresh}keyint={gop}:bframes={num_b}:{pyramid}:ref={rng.integers(1, 5)}"}
    if codec == "libx265":
        return {"x265-params": f"log-level=none:open-gop={is_open}:keyint={gop}:bframes={num_b}"}
    if codec in ("mpeg4", "mpeg2video"):
        return {"g": str(gop), "bf": str(num_b)}
    if codec.startswith("libvpx"):
        return {"g": str(gop), "deadline": "realtime", "auto-alt-ref": str(is_open), "lag-in-frames": str(4 * num_b)}
    return {}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("codec", SUFFIXES)
def test_frames_of_random_clips_are_those_of_plain_decoding(codec: str, seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng([seed, *codec.encode()])
    suffix = str(rng.choice(SUFFIXES[codec]))
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    written: dict[str, Any] = {"options": drawn_options(codec, rng), "pix_fmt": pix_fmt}
    if suffix in TIMED and rng.random() < 0.5:
        written["pts_ms"] = np.cumsum(rng.integers(1, 90, int(rng.integers(2, 50)))).tolist()
    else:
        written["num_frames"] = int(rng.integers(2, 50))
    path = write_stream(tmp_path / f"random.{suffix}", codec, **written)
    every = [frame.to_image() for frame in plainly_decoded(path)]
    assert len(every) == written.get("num_frames", len(written.get("pts_ms", ())))
    reading = Reading(threads=int(rng.integers(1, 4)))
    for count in rng.integers(1, len(every) + 4, 5).tolist():
        expected = np.round(np.linspace(0, len(every) - 1, count)).astype(int).tolist()
        assert check_all(path, every, Sampling(num_frames=count), reading) == expected
    check_all(path, every, Sampling(fps=float(rng.uniform(1, 30))), reading)
    assert check_all(path, every, Sampling(keyframes=True), reading)[0] == 0


@pytest.mark.parametrize("name", STREAMED)
def test_files_that_were_streamed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, options, is_timed = STREAMED[name]
    path = write_stream(tmp_path / name, codec, container_options=options)
    every = [frame.to_image() for frame in plainly_decoded(path)]
    assert len(every) == 40
    if is_timed:  # then no frame is decoded twice, let alone all
        monkeypatch.delattr(decode, "_decode_throughout")
    else:
        assert packets_of(path)[0].pts is None
    for count in (1, 3, 8, 40):
        check_all(path, every, Sampling(num_frames=count), Reading())


@pytest.mark.parametrize("as_bytes", [False, True])
def test_runs_far_apart_are_decoded_side_by_side(
    as_bytes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"x264-params": "keyint=40:bframes=2"}
    path = write_stream(tmp_path / "long.mp4", "libx264", options=options, num_frames=240)
    every = [frame.to_image() for frame in plainly_decoded(path)]
    threads = []

    def spy(source: Any) -> Any:
        threads.append(source.reading.threads)
        return decode.open_video(source)

    monkeypatch.setattr(planned, "open_video", spy)
    clip = load_clip(
        path.read_bytes() if as_bytes else path, sampling=Sampling(num_frames=5), reading=Reading(threads=4)
    )
    assert clip.indices == [0, 60, 120, 179, 239]
    assert all(np.array_equal(frame, every[i]) for frame, i in zip(clip.frames, clip.indices, strict=True))
    assert threads == [2, 2]  # some 85 packets: enough for two decoders, which share the four threads


def test_shares_of_runs_are_even() -> None:
    runs = [Run(first=first, last=last, wanted=frozenset({last})) for first, last in ((0, 99), (200, 239), (400, 459))]
    assert planned.split_runs(runs, 2) == [[runs[0]], [runs[2], runs[1]]]
    assert planned.split_runs(runs, 1) == [[runs[0], runs[2], runs[1]]]
    assert planned.split_runs(runs[1:2], 2) == [[runs[1]]]
    assert planned.split_runs([], 2) == [[]]
