"""Video files: the frames of every codec and container against plain decoding, times, seeking, damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from tests.clip_files import blank_packet, cut_inside, is_unreferenced, packets_of, plainly_decoded, write_stream
from tests.media_files import cut, write_animation, write_empty_clip, write_frames, write_song

from nvila.errors import MediaError
from nvila.processing import NVILAProcessor
from nvila.processing.media import Clip, Reading, Sampling, load_clip, load_video
from nvila.processing.packets import PacketTable, plan_runs, read_packets

OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0:keyint=12:min-keyint=12"}
B_FRAMES = {"bf": "3", "x264-params": "b-adapt=0:scenecut=0"}
MATRIX = {
    "h264.mp4": ("libx264", B_FRAMES),
    "h264.mkv": ("libx264", B_FRAMES),
    "h264.mov": ("libx264", B_FRAMES),
    "h264.avi": ("libx264", B_FRAMES),
    "h264.ts": ("libx264", B_FRAMES),
    "h264.flv": ("libx264", B_FRAMES),
    "h264_open_gop.mp4": ("libx264", OPEN_GOP),
    "h264_open_gop.mkv": ("libx264", OPEN_GOP),
    "h264_intra_refresh.mp4": ("libx264", {"x264-params": "intra-refresh=1:bframes=0"}),
    "h264_intra_only.mp4": ("libx264", {"g": "1"}),
    "h264_interlaced.mkv": ("libx264", {"x264-params": "tff=1:bframes=2"}),
    "h264_one_key.mp4": ("libx264", {"g": "1000", **B_FRAMES}),
    "hevc.mp4": ("libx265", {"x265-params": "log-level=none:open-gop=0:bframes=3"}),
    "hevc_open_gop.mkv": ("libx265", {"x265-params": "log-level=none:open-gop=1:bframes=3:keyint=12"}),
    "hevc_open_gop.mp4": ("libx265", {"x265-params": "log-level=none:open-gop=1:bframes=3:keyint=12"}),
    "mpeg4.mp4": ("mpeg4", {"bf": "2"}),
    "mpeg4.avi": ("mpeg4", {"bf": "2"}),
    "mpeg4.mov": ("mpeg4", {}),
    "mpeg2.mpg": ("mpeg2video", {"bf": "2"}),
    "mpeg2.ts": ("mpeg2video", {"bf": "2"}),
    "vp8.webm": ("libvpx", {"deadline": "realtime"}),
    "vp8_hidden.webm": ("libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16", "b:v": "60k"}),
    "vp9.webm": ("libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "realtime"}),
    "vp9.mp4": ("libvpx-vp9", {"deadline": "realtime"}),
    "av1.mkv": ("libsvtav1", {"preset": "12", "svtav1-params": "lp=1"}),
    "mjpeg.avi": ("mjpeg", {"pix_fmt": "yuvj420p"}),
    "mjpeg.mov": ("mjpeg", {"pix_fmt": "yuvj420p"}),
    "wmv2.wmv": ("wmv2", {}),
    "ffv1.mkv": ("ffv1", {}),
}


def made(folder: Path, name: str) -> Path:
    """The clip of MATRIX with that name."""
    codec, options = MATRIX[name]
    rest = {key: value for key, value in options.items() if key != "pix_fmt"}
    return write_stream(folder / name, codec, options=rest, pix_fmt=options.get("pix_fmt", "yuv420p"))


def same(left: Image.Image, right: Image.Image) -> bool:
    return left.size == right.size and np.array_equal(np.asarray(left), np.asarray(right))


def check_against(clip: Clip, every: list[Image.Image]) -> None:
    assert len(clip.frames) == len(clip.indices)
    wrong = [i for frame, i in zip(clip.frames, clip.indices, strict=True) if not same(frame, every[i])]
    assert wrong == []


@pytest.mark.parametrize("name", MATRIX)
def test_frames_and_indices_are_those_of_plain_decoding(name: str, tmp_path: Path) -> None:
    path = made(tmp_path, name)
    frames = plainly_decoded(path)
    every = [frame.to_image() for frame in frames]
    assert len(every) == 40
    assert len({frame.tobytes() for frame in every}) == 40
    for wanted in (1, 2, 3, 7, 19, 40, 50):
        clip = load_clip(path, sampling=Sampling(num_frames=wanted))
        assert clip.indices == np.round(np.linspace(0, 39, wanted)).astype(int).tolist()
        assert not clip.is_partial
        check_against(clip, every)
    clip = load_clip(path, sampling=Sampling(fps=5.0))
    assert clip.indices == [0, 5, 10, 15, 20, 25, 30, 35]
    check_against(clip, every)
    assert clip.times_s == pytest.approx([index / 25 for index in clip.indices], abs=1.1e-3)
    assert clip.duration_s == pytest.approx(1.6, abs=2e-3)


@pytest.mark.parametrize("name", ["h264.mp4", "h264_open_gop.mkv", "hevc_open_gop.mp4", "mpeg4.mp4", "vp9.webm"])
def test_every_number_of_frames(name: str, tmp_path: Path) -> None:
    path = made(tmp_path, name)
    every = [frame.to_image() for frame in plainly_decoded(path)]
    for wanted in range(2, 40):
        check_against(load_clip(path, sampling=Sampling(num_frames=wanted)), every)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(threads: int, tmp_path: Path) -> None:
    path = made(tmp_path, "h264_open_gop.mp4")
    every = [frame.to_image() for frame in plainly_decoded(path)]
    check_against(load_clip(path, sampling=Sampling(num_frames=9), reading=Reading(threads=threads)), every)


def test_times_of_a_variable_rate(tmp_path: Path) -> None:
    times = [0, 40, 45, 300, 301, 1000, 1500, 1510, 4000, 4040]
    for suffix in ("mp4", "mkv"):
        path = write_stream(tmp_path / f"vfr.{suffix}", pts_ms=times, options=B_FRAMES)
        clip = load_clip(path)
        assert clip.times_s == pytest.approx([time / 1000 for time in times], abs=1e-6)
        assert clip.duration_s == pytest.approx(4.04 * 10 / 9)
        assert load_clip(path, sampling=Sampling(fps=2.0)).indices == [0, 4, 5, 6, 7, 7, 7, 7, 8]
        assert load_clip(path, sampling=Sampling(num_frames=4)).indices == [0, 3, 6, 9]


def test_times_count_from_the_first_frame(tmp_path: Path) -> None:
    clip = load_clip(write_stream(tmp_path / "late.mkv", pts_ms=[700, 800, 900]))
    assert clip.times_s == pytest.approx([0.0, 0.1, 0.2])


def test_an_edit_list_hides_frames_that_others_need(tmp_path: Path) -> None:
    whole = write_stream(tmp_path / "whole.mp4", options=B_FRAMES)
    path = tmp_path / "trimmed.mp4"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                shift = round(0.2 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                target.mux(packet)
    frames = plainly_decoded(path)
    assert len(frames) == 35
    every = [frame.to_image() for frame in frames]
    clip = load_clip(path, sampling=Sampling(num_frames=6))
    assert clip.indices == [0, 7, 14, 20, 27, 34]
    assert clip.times_s is not None
    assert clip.times_s[0] == 0.0
    check_against(clip, every)


@pytest.mark.parametrize("name", ["h264.mp4", "mpeg2.ts", "vp8.webm"])
def test_key_frames(name: str, tmp_path: Path) -> None:
    path = made(tmp_path, name)
    frames = plainly_decoded(path)
    keys = [index for index, frame in enumerate(frames) if frame.key_frame]
    assert len(keys) > 2
    clip = load_clip(path, sampling=Sampling(keyframes=True))
    assert clip.indices == keys
    check_against(clip, [frame.to_image() for frame in frames])
    assert load_clip(path, sampling=Sampling(keyframes=True, num_frames=2)).indices == [keys[0], keys[-1]]
    assert load_clip(path, sampling=Sampling(keyframes=True, num_frames=99)).indices == keys


def test_rotation_turns_frames_only_when_asked_for(tmp_path: Path) -> None:
    path = made(tmp_path, "h264.mp4")
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    half = [-(1 << 16), 0, 0, 0, -(1 << 16), 0, 0, 0, 1 << 30]
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in half)
    flat = load_clip(bytes(data)).frames[3]
    turned = load_clip(bytes(data), reading=Reading(exif_transpose=True)).frames[3]
    assert same(turned, flat.transpose(Image.Transpose.ROTATE_180))


def test_damage_where_no_frame_is_wanted_is_not_met(tmp_path: Path) -> None:
    path = made(tmp_path, "h264.mp4")
    every = [frame.to_image() for frame in plainly_decoded(path)]
    blank_packet(path, packets_of(path)[13])
    check_against(load_clip(path, sampling=Sampling(num_frames=2)), every)
    with pytest.raises(MediaError, match=r"h264\.mp4: is damaged at about 0\.\d s.*re-encode"):
        load_clip(path, sampling=Sampling(num_frames=40))


def test_frames_that_nothing_refers_to_are_left_out(tmp_path: Path) -> None:
    path = made(tmp_path, "h264_one_key.mp4")
    every = [frame.to_image() for frame in plainly_decoded(path)]
    packets = packets_of(path)
    unreferenced = next(packet for packet in packets if is_unreferenced(packet))
    blank_packet(path, unreferenced)
    check_against(load_clip(path, sampling=Sampling(num_frames=2)), every)
    with pytest.raises(MediaError, match="is damaged"):
        load_clip(path)


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "h264.ts", "mpeg4.avi", "vp9.webm", "mjpeg.avi"])
def test_the_readable_part_of_a_damaged_file(name: str, tmp_path: Path) -> None:
    path = made(tmp_path, name)
    every = [frame.to_image().tobytes() for frame in plainly_decoded(path)]
    shutil.copy(path, tmp_path / f"whole_{name}")
    packets = packets_of(path)
    blank_packet(path, packets[16])
    clip = load_clip(path, reading=Reading(broken="readable"))
    good = [every.index(frame.tobytes()) for frame in clip.frames if frame.tobytes() in every]
    assert good[:10] == list(range(10))
    assert good[-1] == 39
    assert clip.times_s == sorted(clip.times_s or [])
    if clip.is_partial:
        assert len(clip.frames) < 40


def test_frames_that_are_only_referred_to_do_not_count(tmp_path: Path) -> None:
    path = made(tmp_path, "vp8.webm")
    data = bytearray(path.read_bytes())
    for packet in packets_of(path)[5::9]:
        assert not packet.is_keyframe
        data[data.index(bytes(packet))] &= ~0x10  # VP8: not shown
    path.write_bytes(data)
    every = [frame.to_image() for frame in plainly_decoded(path)]
    assert len(every) == 36
    clip = load_clip(path, sampling=Sampling(num_frames=8))
    assert clip.indices == [0, 5, 10, 15, 20, 25, 30, 35]
    check_against(clip, every)


@pytest.mark.parametrize("name", ["h264.ts", "vp8.webm", "mpeg4.avi", "h264.mkv"])
def test_the_readable_part_of_a_cut_file(name: str, tmp_path: Path) -> None:
    path = made(tmp_path, name)
    every = [frame.to_image() for frame in plainly_decoded(path)]
    cut_inside(path, packets_of(path)[22])
    clip = load_clip(path, reading=Reading(broken="readable"))
    assert 8 <= len(clip.frames) <= 30
    assert same(clip.frames[0], every[0])
    assert all(same(frame, every[i]) for i, frame in enumerate(clip.frames[:-1]))


def test_a_cut_file_whose_index_comes_first(tmp_path: Path) -> None:
    path = write_stream(tmp_path / "cut.mp4", options=B_FRAMES, container_options={"movflags": "faststart"})
    every = [frame.to_image() for frame in plainly_decoded(path)]
    cut(path, 0.5)
    with pytest.raises(MediaError, match=r"cut\.mp4: is cut off at .* s, inside a frame"):
        load_clip(path)
    clip = load_clip(path, reading=Reading(broken="readable"), sampling=Sampling(num_frames=5))
    assert clip.is_partial
    assert clip.indices[-1] < 39
    shown = [round(time * 25) for time in clip.times_s or []]
    assert all(same(frame, every[i]) for frame, i in zip(clip.frames, shown, strict=True))


def test_an_index_that_is_lost_leaves_nothing_to_read(tmp_path: Path) -> None:
    path = cut(made(tmp_path, "h264.mp4"), 0.5)
    for broken in ("error", "readable"):
        with pytest.raises(MediaError, match="header cannot be read"):
            load_clip(path, reading=Reading(broken=broken))


def test_files_without_a_frame(tmp_path: Path) -> None:
    for broken in ("error", "readable"):
        with pytest.raises(MediaError, match=r"none\.avi: holds 0 frames"):
            load_clip(write_empty_clip(tmp_path / "none.avi"), reading=Reading(broken=broken))
    with pytest.raises(MediaError, match=r"song\.mp4: has no video stream \(streams: audio\)"):
        load_clip(write_song(tmp_path / "song.mp4"))


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_times_of_animated_pictures(name: str, tmp_path: Path) -> None:
    clip = load_clip(write_animation(tmp_path / name), sampling=Sampling(num_frames=3))
    assert clip.indices == [0, 2, 5]
    assert clip.times_s == pytest.approx([0.0, 0.2, 0.5])
    assert clip.duration_s == pytest.approx(0.6)


@pytest.mark.parametrize("name", ["a.gif", "a.png"])
def test_the_readable_part_of_a_cut_animation(name: str, tmp_path: Path) -> None:
    every = load_clip(write_animation(tmp_path / name)).frames
    path = cut(tmp_path / name, 0.8)
    with pytest.raises(MediaError, match="is damaged or cut off"):
        load_clip(path)
    clip = load_clip(path, reading=Reading(broken="readable"))
    assert (clip.indices, clip.is_partial) == ([0, 1, 2, 3], True)
    check_against(clip, every)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_uneven_times_of_animated_pictures(name: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), (60 * index, 0, 0)) for index in range(4)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=[100, 300, 50, 150])
    clip = load_clip(tmp_path / name)
    assert clip.times_s == pytest.approx([0.0, 0.1, 0.4, 0.45])
    assert load_clip(tmp_path / name, sampling=Sampling(fps=5.0)).indices == [0, 1, 2]


def test_folders_have_indices_and_no_times(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "frames", 12)
    clip = load_clip(folder, sampling=Sampling(num_frames=3))
    assert (clip.indices, clip.times_s, clip.duration_s) == ([0, 6, 11], None, None)
    assert load_clip(folder, sampling=Sampling(keyframes=True, num_frames=20)).indices == list(range(12))
    cut(folder / "frame_4.png")
    with pytest.raises(MediaError, match=r"frame_4\.png: is damaged"):
        load_clip(folder)
    clip = load_clip(folder, reading=Reading(broken="readable"))
    assert clip.is_partial
    assert len(clip.frames) == 11


def test_load_video_gives_the_frames_of_load_clip(tmp_path: Path) -> None:
    path = made(tmp_path, "h264.mp4")
    clip = load_clip(path, sampling=Sampling(num_frames=5))
    assert all(same(a, b) for a, b in zip(load_video(path, num_frames=5), clip.frames, strict=True))


def test_the_readable_part_through_a_processor(tmp_path: Path, make_processor: Callable[..., NVILAProcessor]) -> None:
    path = write_stream(tmp_path / "cut.mp4", container_options={"movflags": "faststart"})
    cut(path, 0.5)
    part = {"type": "video", "path": str(path), "num_frames": 4}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "What is this?"}]}]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    processor = make_processor()
    with pytest.raises(MediaError, match=r"cut\.mp4: is cut off"):
        processor.apply_chat_template(messages, **options)
    inputs = processor.apply_chat_template(messages, broken="readable", **options)
    frames = load_video(path, num_frames=4, broken="readable")
    again = processor.video_processor([frames], return_tensors="pt")
    assert inputs["video_lengths"] == [4]
    assert np.array_equal(inputs["pixel_values_videos"], again["pixel_values_videos"])


def test_options_that_contradict_or_are_out_of_range() -> None:
    with pytest.raises(MediaError, match="threads is 0; give at least 1"):
        Reading(threads=0)
    with pytest.raises(MediaError, match="broken is 'ignore'"):
        Reading(broken="ignore")  # type: ignore[arg-type]
    with pytest.raises(MediaError, match="fps is 2 and keyframes is true"):
        Sampling(fps=2.0, keyframes=True)


def test_runs_begin_at_key_frames_and_neighbours_share_one(tmp_path: Path) -> None:
    path = made(tmp_path, "h264_open_gop.mp4")
    with av.open(str(path)) as container:
        table, is_partial = read_packets(container, container.streams.video[0], name="x", keep_broken=False)
    assert isinstance(table, PacketTable)
    assert not is_partial
    assert len(table.keys) > 2
    second = table.keys[1]
    leading = second + 1
    assert table.pts[leading] < table.pts[second]
    assert [(r.first, r.last) for r in plan_runs(table, [second], can_seek=True)] == [(second, second)]
    assert [(r.first, r.last) for r in plan_runs(table, [leading], can_seek=True)] == [(0, leading)]
    runs = plan_runs(table, [second, leading, 2, 39], can_seek=True)
    assert [(r.first, r.last) for r in runs] == [(0, leading), (table.keys[-1], 39)]
    assert [(r.first, r.last) for r in plan_runs(table, [2, 39], can_seek=False)] == [(0, 39)]
