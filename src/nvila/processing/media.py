"""Pictures and clips from wherever they are to RGB images, or a clear error: files, folders, URLs, bytes, PIL images.

By default the pixels are what the reference's plain `convert("RGB")` gives: transparency is dropped, not composited,
and EXIF orientation is ignored. Two things differ on purpose: 16-bit images are scaled to 8 bits instead of clipped,
and frames in a folder are taken in natural order (`f2` before `f10`; the same order where numbers are zero-padded).
Leaves out decoding videos (`decode`) and animations (`animation`), downloads (`fetch`), and everything after pixels
(`image`, `video`).
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, TypeAlias

from PIL import Image

from nvila.errors import MediaError
from nvila.processing.animation import decode_animation
from nvila.processing.clip import Broken, Clip, Reading, Sampling, sample_indices
from nvila.processing.decode import decode_clip
from nvila.processing.fetch import fetch_url, is_url, shown_url
from nvila.processing.pictures import decode_image, to_rgb
from nvila.processing.policy import MediaPolicy
from nvila.processing.sniff import HEAD_BYTES, Content, sniff

__all__ = [
    "Broken",
    "Clip",
    "ImageSource",
    "MediaPolicy",
    "Reading",
    "Sampling",
    "VideoSource",
    "load_clip",
    "load_image",
    "load_video",
    "sample_indices",
]

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO | Image.Image
VideoSource: TypeAlias = str | os.PathLike[str] | bytes | Sequence[Image.Image]


def load_image(
    source: ImageSource, *, exif_transpose: bool = False, policy: MediaPolicy | None = None, name: str | None = None
) -> Image.Image:
    """The picture at `source` as a fully decoded RGB image, every byte of it read.

    `source` is a path, a URL (http, https, data), the file's bytes, a binary stream, or a PIL image. With
    `exif_transpose` a photograph is turned upright as its EXIF orientation says. `name` is what errors call it.
    Raises MediaError when it is missing, no picture, animated or of several pages, damaged, or over `policy`.
    """
    limits = policy or MediaPolicy()
    if isinstance(source, Image.Image):
        return to_rgb(source, name=name or "image", exif_transpose=exif_transpose, policy=limits)
    data, called = _read_all(source, limits, wanted="image", name=name)
    content = sniff(data[:HEAD_BYTES])
    if content.kind == "video":
        raise MediaError(f"{called}: is a video ({content.name}), not an image; give it as a video (--video)")
    _refuse_unless(content, "image", called)
    return decode_image(data, name=called, exif_transpose=exif_transpose, policy=limits)


def load_video(
    source: VideoSource,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    exif_transpose: bool = False,
    broken: Broken = "error",
    policy: MediaPolicy | None = None,
    name: str | None = None,
) -> list[Image.Image]:
    """Frames of the clip at `source`, sampled in time, as RGB images.

    `num_frames` are spread evenly from the first frame to the last (frames repeat in a shorter clip); with `fps` above
    0 one frame every 1/fps seconds is taken instead, and `num_frames` is the most there may be. With neither, every
    frame. `exif_transpose` also turns a video as its rotation says; `broken="readable"` takes the frames that can be
    decoded where a clip is damaged or cut off. Sources and errors are those of `load_clip`.
    """
    sampling, reading = Sampling(num_frames=num_frames, fps=fps), Reading(exif_transpose=exif_transpose, broken=broken)
    return load_clip(source, sampling=sampling, reading=reading, policy=policy, name=name).frames


def load_clip(
    source: VideoSource,
    *,
    sampling: Sampling | None = None,
    reading: Reading | None = None,
    policy: MediaPolicy | None = None,
    name: str | None = None,
) -> Clip:
    """Frames of the clip at `source` with their times: by default every frame, and an error for damage.

    `source` is a video file, an animated picture (GIF, WebP, PNG), a folder of frames, a URL, the file's bytes, or a
    list of frames. In folders and lists each frame is a key frame and none has a time. `name` is what errors call it.
    Raises MediaError when there is no such clip, it has no picture or no frame, is damaged, or is over `policy`.
    """
    wanted, how, limits = sampling or Sampling(), reading or Reading(), policy or MediaPolicy()
    if wanted.num_frames is not None and wanted.num_frames > limits.max_frames:
        raise MediaError(f"num_frames is {wanted.num_frames}, over the limit of {limits.max_frames}; ask for fewer")
    if isinstance(source, Sequence) and not isinstance(source, str | bytes):
        return _sample_stills(source, name or "list of frames", wanted, how, limits)
    if not isinstance(source, bytes) and not _is_url(source):
        path = Path(source)
        called = name or shown(path)
        if _exists(path, called).is_dir():
            return _load_folder(path, called, wanted, how, limits)
        with _open_regular(path, called, wanted="video") as file:
            head = file.read(HEAD_BYTES)
            file.seek(0)
            if sniff(head).kind == "video":
                return decode_clip(file, name=called, sampling=wanted, reading=how, policy=limits)
    data, called = _read_all(source, limits, wanted="video", name=name)
    content = sniff(data[:HEAD_BYTES])
    if content.kind == "image":
        return decode_animation(data, name=called, sampling=wanted, reading=how, policy=limits)
    _refuse_unless(content, "video", called)
    return decode_clip(io.BytesIO(data), name=called, sampling=wanted, reading=how, policy=limits)


def shown(path: str | os.PathLike[str]) -> str:
    """`path` as an error may print it: control characters and bytes that are no UTF-8 are written as escapes."""
    text = os.fsdecode(path)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _load_folder(folder: Path, name: str, sampling: Sampling, reading: Reading, policy: MediaPolicy) -> Clip:
    """Frames of a folder in natural order; hidden files do not count, anything else that is no picture is an error.

    Where broken media are read as far as they are readable, all pictures are opened and damaged ones do not count.
    """
    files = sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=_natural_key)
    if not files:
        raise MediaError(f"{name}: the folder holds 0 frames; give a folder of image files, or a video file")
    for path in files:
        _check_frame_file(path)
    readable = files
    if reading.broken == "readable":
        readable = [path for path in files if _is_readable(path, policy)]
    clip = _sample_stills(readable, name, sampling, reading, policy)
    return replace(clip, is_partial=len(readable) < len(files))


def _check_frame_file(path: Path) -> None:
    if path.is_dir():
        raise MediaError(f"{shown(path)}: is a folder; a folder of frames holds image files only")
    with _open_regular(path, shown(path), wanted="image") as file:
        content = sniff(file.read(HEAD_BYTES))
    if content.kind != "image":
        raise MediaError(
            f"{shown(path)}: is {_described(content)}; a folder of frames holds image files only: move it away"
        )


def _is_readable(path: Path, policy: MediaPolicy) -> bool:
    try:
        load_image(path, policy=policy)
    except MediaError:
        return False
    return True


def _sample_stills(
    stills: Sequence[Path] | Sequence[Image.Image], name: str, sampling: Sampling, reading: Reading, policy: MediaPolicy
) -> Clip:
    """Frames that are pictures of their own and have no times."""
    wanted = sampling.num_frames
    if sampling.keyframes and wanted is not None:
        wanted = min(wanted, max(len(stills), 1))
    chosen = sample_indices(len(stills), num_frames=wanted, fps=sampling.fps, name=name, max_frames=policy.max_frames)
    frames = [load_image(stills[i], exif_transpose=reading.exif_transpose, policy=policy) for i in chosen]
    return Clip(frames=frames, indices=chosen, times_s=None, duration_s=None)


def _natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Digits compare as numbers, the rest as text; the plain name decides between equals such as f1 and f01."""
    pieces = re.split(r"([0-9]+)", path.name)
    return [(1, int(p), "") if p.isdecimal() and p.isascii() else (0, 0, p) for p in pieces], path.name


def _is_url(source: object) -> bool:
    return isinstance(source, str) and is_url(source)


def _read_all(
    source: str | os.PathLike[str] | bytes | BinaryIO, policy: MediaPolicy, *, wanted: str, name: str | None
) -> tuple[bytes, str]:
    """All bytes at `source` and what to call it. Raises MediaError over `policy.max_bytes`, or when there are none."""
    if isinstance(source, bytes):
        data, called = source, name or f"{wanted} data"
    elif isinstance(source, str) and is_url(source):
        data, called = fetch_url(source, policy), name or shown_url(source)
    elif isinstance(source, str | os.PathLike):
        called = name or shown(source)
        with _open_regular(Path(source), called, wanted=wanted) as file:
            data = file.read(policy.max_bytes + 1)
    else:
        data, called = source.read(policy.max_bytes + 1), name or f"{wanted} stream"
    if not data:
        raise MediaError(f"{called}: is empty (0 bytes); give {'an image' if wanted == 'image' else 'a video'} file")
    if len(data) > policy.max_bytes:
        raise MediaError(
            f"{called}: is larger than the limit of {policy.max_bytes} bytes; make it smaller, or raise max_bytes"
        )
    return data, called


def _exists(path: Path, name: str) -> Path:
    """`path`, if anything is there that can be looked at."""
    if "\0" in os.fspath(path):
        raise MediaError(f"{name}: a file name cannot hold a NUL character; correct the name")
    try:
        path.stat()
    except FileNotFoundError as error:
        if path.is_symlink():
            raise MediaError(
                f"{name}: is a link to {shown(path.readlink())}, which does not exist; mend the link"
            ) from error
        raise MediaError(f"{name}: no such file; check the path (relative paths start at {os.getcwd()})") from error
    except OSError as error:
        raise MediaError(f"{name}: cannot be read: {error.strerror}; check the path and its permissions") from error
    return path


def _open_regular(path: Path, name: str, *, wanted: str) -> BinaryIO:
    """An open file, never a folder, pipe or device (which could block or never end)."""
    mode = _exists(path, name).stat().st_mode
    if stat.S_ISDIR(mode):
        hint = "give a folder of frames as a video (--video)" if wanted == "image" else "give a file"
        raise MediaError(f"{name}: is a folder, not an image file; {hint}")
    if not stat.S_ISREG(mode):
        raise MediaError(f"{name}: is no regular file but a pipe, socket or device; copy its contents to a file")
    try:
        return path.open("rb")
    except OSError as error:
        raise MediaError(f"{name}: cannot be opened: {error.strerror}; check its permissions") from error


def _refuse_unless(content: Content, wanted: str, name: str) -> None:
    if content.kind == wanted:
        return
    formats = {
        "image": "give a PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF file",
        "video": "give an MP4, MOV, WebM, MKV or AVI file, an animated GIF, or a folder of frames",
    }
    article = "an" if wanted == "image" else "a"
    raise MediaError(f"{name}: is {_described(content)}, not {article} {wanted}; {formats[wanted]}")


def _described(content: Content) -> str:
    return f"{content.kind} ({content.name})" if content.kind != "other" else content.name
