"""Media to RGB: every mode's pixels, the sampling rule, seeking against plain decoding, and limits.

What bad files get is in the table of `tests/cli/bad_inputs.py`; here are the pixels and the rules.
"""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from tests.media_files import clip_frame, noise, write_animation, write_clip, write_frames

from nvila.errors import ConfigError, MediaError
from nvila.processing.media import MediaPolicy, load_image, load_video, sample_indices
from nvila.processing.sniff import sniff

LIMIT = 1024


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def same(left: Image.Image, right: Image.Image) -> bool:
    return left.mode == right.mode == "RGB" and np.array_equal(np.asarray(left), np.asarray(right))


def plainly_decoded(path: Path) -> list[Image.Image]:
    with av.open(str(path)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def test_golden_inputs_are_plain_conversions(golden: Path) -> None:
    paths = [path for path in sorted((golden / "inputs").iterdir()) if path.is_file()]
    assert len(paths) >= 10
    for path in paths:
        with Image.open(path) as picture:
            assert same(load_image(path), picture.convert("RGB")), path.name


def test_exif_is_ignored_unless_asked_for(golden: Path) -> None:
    path = golden / "inputs" / "exif6_160x120.jpg"
    flat, turned = load_image(path), load_image(path, exif_transpose=True)
    assert (flat.size, turned.size) == ((160, 120), (120, 160))
    assert same(turned, flat.transpose(Image.Transpose.ROTATE_270))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_modes_go_by_plain_conversion(mode: str) -> None:
    picture = noise(20, 10).convert(mode)
    assert same(load_image(picture), picture.convert("RGB"))


def test_alpha_is_dropped_and_not_composited() -> None:
    picture = Image.new("RGBA", (2, 2), (10, 200, 30, 0))
    assert load_image(encoded(picture, "PNG")).getpixel((0, 0)) == (10, 200, 30)


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = np.array([[0, 128, 257, 32768, 65535]], dtype=np.uint16)
    loaded = np.asarray(load_image(encoded(Image.fromarray(values), "PNG")))
    assert loaded[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert (loaded == loaded[:, :, :1]).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], dtype=np.float32), [0, 128, 255]),
        (np.array([[0.0, 2.0, 255.0]], dtype=np.float32), [0, 2, 255]),
        (np.array([[0, 7, 255]], dtype=np.int32), [0, 7, 255]),
        (np.array([[0, 257, 65535]], dtype=np.int32), [0, 1, 255]),
    ],
)
def test_deep_modes(values: np.ndarray, expected: list[int]) -> None:
    assert np.asarray(load_image(Image.fromarray(values)))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("values", [np.array([[-1.0, 0.5]]), np.array([[0.0, np.nan]]), np.array([[0.0, 300.0]])])
def test_values_that_no_picture_has(values: np.ndarray) -> None:
    with pytest.raises(MediaError, match="pixel values run from"):
        load_image(Image.fromarray(values.astype(np.float32)))


def test_every_kind_of_source_gives_the_same_pixels(tmp_path: Path) -> None:
    picture = noise(17, 9)
    data = encoded(picture, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for source in (path, str(path), data, io.BytesIO(data), picture, Image.open(io.BytesIO(data))):
        assert same(load_image(source), picture)


def test_a_picture_that_was_opened_and_is_cut_is_an_error() -> None:
    data = encoded(noise(50, 50), "PNG")
    with pytest.raises(MediaError, match=r"^image: is damaged or cut off"):
        load_image(Image.open(io.BytesIO(data[: len(data) // 2])))


def test_warnings_of_the_decoder_stay_inside(recwarn: pytest.WarningsRecorder) -> None:
    palette = noise(20, 20).quantize(4)
    load_image(encoded(palette, "PNG", transparency=bytes(4)))
    assert list(recwarn) == []


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (MediaPolicy(max_pixels=99), "10 x 10 = 100 pixels, over the limit of 99"),
        (MediaPolicy(max_side=9), "a side may have 9 at most"),
        (MediaPolicy(max_bytes=50), "larger than the limit of 50 bytes"),
    ],
)
def test_policy_for_images(policy: MediaPolicy, words: str) -> None:
    with pytest.raises(MediaError, match=words):
        load_image(encoded(noise(10, 10), "PNG"), policy=policy)


def test_policy_checks_itself() -> None:
    with pytest.raises(ConfigError, match="max_pixels is 0"):
        MediaPolicy(max_pixels=0)


@pytest.mark.parametrize(("available", "wanted"), [(11, 4), (4, 4), (3, 8), (1, 5), (100, 8), (10, 1)])
def test_even_sampling_is_the_published_rule(available: int, wanted: int) -> None:
    expected = np.round(np.linspace(0, available - 1, wanted)).astype(int).tolist()
    assert sample_indices(available, num_frames=wanted, name="x", max_frames=LIMIT) == expected


def test_sampling_by_rate() -> None:
    starts = [index / 10 for index in range(30)]

    def take(fps: float, num_frames: int | None = None) -> list[int]:
        return sample_indices(
            30, num_frames=num_frames, fps=fps, name="x", max_frames=LIMIT, starts_s=starts, duration_s=3.0
        )

    assert take(2) == [0, 5, 10, 15, 20, 25]
    assert take(10) == list(range(30))
    assert take(20)[:4] == [0, 0, 1, 1]
    assert take(0.1) == [0]
    assert take(2, num_frames=3) == [0, 10, 25]
    assert take(2, num_frames=50) == take(2)
    with pytest.raises(MediaError, match="3000 frames, over the limit of 1024"):
        take(1000)


def test_rate_of_frames_that_have_no_times(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", 3)
    with pytest.raises(MediaError, match="have no times"):
        load_video(folder, fps=1.0)
    assert len(load_video(folder, fps=1.0, num_frames=2)) == 2


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx-vp9"),
        ("a.avi", "mpeg4"),
        ("a.mov", "mpeg4"),
        ("a.ts", "libx264"),
        ("a.mpg", "mpeg2video"),
    ],
)
def test_sampled_frames_are_those_of_plain_decoding(name: str, codec: str, tmp_path: Path) -> None:
    path = write_clip(tmp_path / name, codec=codec, num_frames=23, rate=25)
    every = plainly_decoded(path)
    assert len(every) == 23
    for wanted in (1, 4, 9, 23, 40):
        indices = np.round(np.linspace(0, 22, wanted)).astype(int)
        frames = load_video(path, num_frames=wanted)
        assert len(frames) == wanted
        assert all(same(frame, every[index]) for frame, index in zip(frames, indices, strict=True))
    assert all(same(frame, every[5 * i]) for i, frame in enumerate(load_video(path, fps=5.0)))
    assert len(load_video(path.read_bytes())) == 23


def test_files_without_times_are_decoded_in_order(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", num_frames=12)
    raw = tmp_path / "a.h264"
    with av.open(str(tmp_path / "a.mp4")) as source, av.open(str(raw), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    every = plainly_decoded(raw)
    frames = load_video(raw, num_frames=4)
    assert [any(same(frame, other) for other in every) for frame in frames] == [True] * 4
    assert same(frames[0], every[0])
    assert same(frames[-1], every[-1])


def test_a_header_that_promises_more_frames_is_not_believed(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.avi", codec="mpeg4", num_frames=10)
    data = bytearray(path.read_bytes())
    at = data.index(b"strh") + 8 + 32
    assert int.from_bytes(data[at : at + 4], "little") == 10
    data[at : at + 4] = (500).to_bytes(4, "little")
    path.write_bytes(data)
    every = plainly_decoded(path)
    frames = load_video(path, num_frames=4)
    assert [same(frame, every[index]) for frame, index in zip(frames, (0, 3, 6, 9), strict=True)] == [True] * 4


def test_rotation_is_honoured_only_when_asked_for(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", num_frames=2)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    quarter = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in quarter)
    path.write_bytes(data)
    flat, turned = load_video(path)[0], load_video(path, exif_transpose=True)[0]
    assert (flat.size, turned.size) == ((64, 48), (48, 64))
    assert same(turned, flat.transpose(Image.Transpose.ROTATE_270))


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_animated_pictures_are_videos(name: str, tmp_path: Path) -> None:
    path = write_animation(tmp_path / name)
    frames = load_video(path, num_frames=3)
    with Image.open(path) as picture:
        for frame, index in zip(frames, (0, 2, 5), strict=True):
            picture.seek(index)
            assert same(frame, picture.convert("RGB"))
    assert len(load_video(path, fps=5.0)) == 3


def test_folder_is_in_natural_order_and_hidden_files_do_not_count(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", 12)
    (folder / ".DS_Store").write_bytes(b"\0")
    frames = load_video(folder)
    assert all(same(frame, clip_frame(index)) for index, frame in enumerate(frames))
    assert len(frames) == 12


def test_golden_folder_of_frames_is_sampled_as_published(golden: Path) -> None:
    frames = load_video(golden / "inputs" / "clip11", num_frames=4)
    names = [f"frame_{index:02}.png" for index in (0, 3, 7, 10)]
    assert all(
        same(frame, load_image(golden / "inputs" / "clip11" / name)) for frame, name in zip(frames, names, strict=True)
    )


def test_list_of_frames_is_sampled_like_a_file() -> None:
    frames = [clip_frame(index) for index in range(11)]
    sampled = load_video(frames, num_frames=4)
    assert [same(a, frames[i]) for a, i in zip(sampled, (0, 3, 7, 10), strict=True)] == [True] * 4
    with pytest.raises(MediaError, match="holds 0 frames"):
        load_video([])


def test_policy_for_videos(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4")
    with pytest.raises(MediaError, match="lasts 2 s, over the limit of 1 s"):
        load_video(path, policy=MediaPolicy(max_video_seconds=1))
    with pytest.raises(MediaError, match="20 frames, over the limit of 10"):
        load_video(path, policy=MediaPolicy(max_frames=10))
    with pytest.raises(MediaError, match="64 x 48"):
        load_video(path, policy=MediaPolicy(max_pixels=1000))


@pytest.mark.parametrize("wanted", [{"num_frames": 0}, {"fps": -1.0}, {"fps": float("inf")}, {"fps": float("nan")}])
def test_requests_out_of_range(wanted: dict[str, float]) -> None:
    with pytest.raises(MediaError, match=next(iter(wanted))):
        load_video([clip_frame(0)], **wanted)


@pytest.mark.parametrize(
    ("head", "kind", "name"),
    [
        (b"RIFF\0\0\0\0WEBPVP8 ", "image", "WebP"),
        (b"RIFF\0\0\0\0AVI LIST", "video", "AVI"),
        (b"\0\0\0\x20ftypavif", "image", "AVIF"),
        (b"\0\0\0\x20ftypqt  ", "video", "MP4/QuickTime"),
        (b"G" + bytes(187) + b"G" + bytes(187) + b"G", "video", "MPEG-TS"),
        (b"Good morning", "other", "text"),
        ("früh".encode() + b"\xc3", "other", "text"),
        (b"\xff\xfb\x90\x64", "audio", "MP3/AAC"),
        (b"P6\n2 2\n255\n", "image", "PPM"),
        (b"", "other", "unknown data"),
        (b"\x00\x01\x02", "other", "unknown data"),
    ],
)
def test_sniffing(head: bytes, kind: str, name: str) -> None:
    content = sniff(head)
    assert (content.kind, content.name) == (kind, name)
