"""The table of bad and odd inputs to `nvila ask`: what is given, and what must come of it.

A row with `words` must end with status 2 and one line on standard error that holds each of them; a row without is odd
but legitimate, and must be answered. `{name}` in an argument is the file that the row's `make` wrote.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tests.media_files import (
    cut,
    damage,
    noise,
    png_header,
    write_animation,
    write_clip,
    write_empty_clip,
    write_frames,
    write_song,
    write_wave,
)
from tests.web import png_bytes


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a row's files go, a tiny checkpoint, and the address of the test's web server."""

    folder: Path
    checkpoint: Path
    web: str


@dataclass(frozen=True, kw_only=True)
class Call:
    """A command line after `nvila ask --model CHECKPOINT`, and what is on standard input."""

    arguments: list[str]
    stdin: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kind of input; `words` are in the error, or there is none."""

    name: str
    build: Callable[[Place], Call]
    words: tuple[str, ...] = ()


def rows() -> list[Row]:
    """The whole table."""
    return [*image_rows(), *odd_image_rows(), *path_rows(), *video_rows(), *url_rows(), *option_rows()]


def image(name: str, data: bytes | Callable[[Path], object], *words: str, title: str = "") -> Row:
    """A row whose only image is the file `name`, with the bytes `data` or written by it."""
    return Row(
        name=title or name, build=lambda place: Call(arguments=_medium("--image", place, name, data)), words=words
    )


def video(name: str, data: bytes | Callable[[Path], object], *words: str, title: str = "") -> Row:
    """A row whose only video is the file or folder `name`."""
    return Row(
        name=title or name, build=lambda place: Call(arguments=_medium("--video", place, name, data)), words=words
    )


def line(name: str, *arguments: str, words: tuple[str, ...] = (), stdin: bytes = b"") -> Row:
    """A row given by its arguments alone; `{web}` in them is the web server, `{model}` the checkpoint."""

    def build(place: Place) -> Call:
        filled = [a.replace("{web}", place.web).replace("{model}", str(place.checkpoint)) for a in arguments]
        return Call(arguments=filled, stdin=stdin)

    return Row(name=name, build=build, words=words)


def _medium_row(
    option: str, name: str, data: bytes | Callable[[Path], object], words: tuple[str, ...], title: str
) -> Row:
    def build(place: Place) -> Call:
        return Call(arguments=_medium(option, place, name, data))

    return Row(name=title or name, build=build, words=words)


def _medium(option: str, place: Place, name: str, data: bytes | Callable[[Path], object]) -> list[str]:
    path = place.folder / name
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        data(path)
    return [option, str(path), "What is it?"]


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    """`picture` as a file of this kind."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def half(data: bytes) -> bytes:
    """The first half of a file."""
    return data[: len(data) // 2]


def image_rows() -> list[Row]:
    """Images that cannot be used."""
    picture = noise(40, 30)
    png = encoded(picture, "PNG")
    bad_sum = bytearray(png)
    bad_sum[len(png) // 2] ^= 0xFF
    pages = encoded(picture, "TIFF", save_all=True, append_images=[noise(40, 30, 1)])
    depth = encoded(Image.fromarray(np.full((8, 8), 1e6, np.float32)), "TIFF")
    samples = encoded(picture, "TIFF").replace(b"\x15\x01\x03\0\1\0\0\0\3\0", b"\x15\x01\x03\0\1\0\0\0\0\x08")
    return [
        image("empty.png", b"", "empty.png", "0 bytes"),
        image("cut.png", half(png), "cut.png", "damaged or cut off", "get the file again"),
        image("cut.jpg", half(encoded(picture, "JPEG")), "cut.jpg", "cut off"),
        image("cut.gif", half(encoded(picture, "GIF")), "cut.gif", "cut off"),
        image("cut.webp", half(encoded(picture, "WEBP", lossless=True)), "cut.webp", "cut off"),
        image("cut.bmp", half(encoded(picture, "BMP")), "cut.bmp", "cut off"),
        image("cut.tiff", half(encoded(picture, "TIFF", compression="tiff_lzw")), "cut.tiff", "cut off"),
        image("header_only.png", png[:20], "header_only.png", "cut off"),
        image("checksum.png", bytes(bad_sum), "checksum.png", "damaged"),
        image("no_pixels.png", png_header(0, 0), "no_pixels.png"),
        image("bomb.png", png_header(12_000, 12_000), "bomb.png", "144000000", "100000000", "shrink"),
        image("huge_bomb.png", png_header(60_000, 60_000), "huge_bomb.png", "3600000000", "100000000"),
        image("wide.png", encoded(Image.new("L", (30_000, 1)), "PNG"), "30000 x 1", "16384", "crop or shrink"),
        image("tall.png", encoded(Image.new("L", (1, 30_000)), "PNG"), "1 x 30000", "16384"),
        image("animated.gif", write_animation, "animated.gif", "6 frames", "--video"),
        image("animated.webp", write_animation, "animated.webp", "6 frames", "--video"),
        image("animated.png", write_animation, "animated.png", "6 frames", "--video"),
        image("pages.tiff", pages, "pages.tiff", "2 pages", "file of its own"),
        image("samples.tiff", samples, "samples.tiff", "damaged"),
        image("depth.tiff", depth, "depth.tiff", "1e+06", "255", "8 or 16 bits"),
        image("text.png", b"This is a text file.\n", "text.png", "is text", "not an image"),
        image("page.html", b"<!DOCTYPE html><html></html>", "an HTML page"),
        image("drawing.svg", b'<?xml version="1.0"?><svg width="5" height="5"/>', "drawing.svg", "SVG", "PNG"),
        image("paper.pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "paper.pdf", "PDF"),
        image("photo.heic", b"\0\0\0\x18ftypheic" + bytes(64), "photo.heic", "HEIC", "not supported"),
        image("figure.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n", "figure.eps", "PostScript"),
        image("archive.zip", b"PK\x03\x04" + bytes(64), "archive.zip", "ZIP"),
        image("zeros.jpg", bytes(4096), "zeros.jpg", "unknown data"),
        image("clip.mp4", write_clip, "clip.mp4", "is a video", "--video", title="video as image"),
        image("sound.wav", write_wave, "sound.wav", "is audio", title="sound as image"),
    ]


def odd_image_rows() -> list[Row]:
    """Images that are odd, and legitimate."""
    picture = noise(40, 30)
    orientation = Image.Exif()
    orientation[0x0112] = 6
    broken_exif = encoded(picture, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    sixteen = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)
    palette = picture.quantize(8)
    return [
        image("cmyk.jpg", encoded(picture.convert("CMYK"), "JPEG")),
        image("sixteen_bit.png", encoded(sixteen, "PNG")),
        image("float.tiff", encoded(Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)), "TIFF")),
        image("one_bit.png", encoded(picture.convert("1"), "PNG")),
        image("alpha.png", encoded(picture.convert("RGBA"), "PNG")),
        image("grey_alpha.png", encoded(picture.convert("LA"), "PNG")),
        image("palette.png", encoded(palette, "PNG", transparency=bytes(range(8)))),
        image("turned.jpg", encoded(picture, "JPEG", exif=orientation)),
        image("broken_exif.jpg", broken_exif),
        image("two_lenses.jpg", encoded(picture, "MPO", save_all=True, append_images=[noise(40, 30, 1)])),
        image("really_a_jpeg.png", encoded(picture, "JPEG"), title="wrong extension"),
        image("one_pixel.png", encoded(Image.new("RGB", (1, 1)), "PNG")),
        image("still.gif", encoded(picture, "GIF")),
        image("picture.avif", encoded(picture, "AVIF")),
        image("picture.jp2", encoded(picture, "JPEG2000")),
        image("trailing.png", encoded(picture, "PNG") + b"more", title="bytes behind the image"),
        image("name with\nnew line.png", encoded(picture, "PNG")),
        image(os.fsdecode(b"caf\xe9.png"), encoded(picture, "PNG"), title="file name that is no UTF-8"),
    ]


def path_rows() -> list[Row]:
    """Paths that lead to no regular file."""
    ghost = "nowhere.png"
    return [
        image("missing.png", lambda path: None, "missing.png", "no such file", "check the path"),
        image("folder.png", lambda path: path.mkdir(), "is a folder", "--video", title="folder as image"),
        image(
            "link.png", lambda path: path.symlink_to(ghost), "link.png", ghost, "does not exist", title="broken link"
        ),
        image("loop.png", lambda path: path.symlink_to(path), "loop.png", "links", title="link to itself"),
        image("pipe.png", lambda path: os.mkfifo(path), "pipe.png", "pipe", "copy", title="named pipe"),
        image("socket.png", _make_socket, "socket.png", "socket", title="socket"),
        image("locked.png", _make_locked, "locked.png", "permission", title="no permission to read"),
        image("file.png/inner.png", _make_inner, "inner.png", "directory", title="file as folder"),
        image("x" * 300 + ".png", lambda path: None, "File name too long", title="name too long"),
        image(os.fsdecode(b"miss\xff.png"), lambda path: None, "udcff.png", title="missing name that is no UTF-8"),
        line("device", "--image", "/dev/zero", "What?", words=("/dev/zero", "device", "copy")),
        line("NUL in the name", "--image", "a\0b.png", "What?", words=("a\\x00b.png", "NUL")),
        line("empty name", "--image", "", "What?", words=("is a folder",)),
    ]


def _make_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def _make_locked(path: Path) -> None:
    path.write_bytes(png_bytes())
    path.chmod(0)


def _make_inner(path: Path) -> None:
    path.parent.write_bytes(png_bytes())


def video_rows() -> list[Row]:
    """Videos that cannot be used, and odd ones that can."""
    return [
        video("missing.mp4", lambda path: None, "missing.mp4", "no such file"),
        video("empty.mp4", b"", "empty.mp4", "0 bytes"),
        video("text.mp4", b"This is a text file.\n", "text.mp4", "is text", "not a video"),
        video("list.m3u8", b"#EXTM3U\nfile:///etc/passwd\n", "list.m3u8", "is text"),
        video("garbage.mp4", b"\0\0\0\x18ftypisom" + os.urandom(500), "garbage.mp4", "header cannot be read"),
        video("no_frames.mp4", write_empty_clip, "no_frames.mp4", "no video stream"),
        video("no_frames.avi", write_empty_clip, "no_frames.avi", "0 frames"),
        video("sound.wav", write_wave, "sound.wav", "is audio", title="sound as video"),
        video("song.mp4", write_song, "song.mp4", "no video stream", "audio"),
        video("cut.mp4", lambda path: cut(write_clip(path)), "cut.mp4", "cut off"),
        video("cut.webm", lambda path: cut(write_clip(path, codec="libvpx", num_frames=60)), "cut off at", "of 6.0 s"),
        video("damaged.mp4", lambda path: damage(write_clip(path)), "damaged.mp4", "damaged at about", "re-encode"),
        video("codec.mp4", _unknown_codec, "codec.mp4", "re-encode", title="unknown codec"),
        video("still.png", png_bytes(), "still.png", "still image", "--image", title="image as video"),
        video("no_frames", lambda path: path.mkdir(), "no_frames", "0 frames", title="empty folder of frames"),
        video("mixed", _frames_and_notes, "notes.txt", "is text", title="folder with a file that is no frame"),
        video("nested", _nested_frames, "inner", "is a folder", title="folder in a folder of frames"),
        video("cut_frame", _cut_frame, "frame_1.png", "cut off", title="folder with a damaged frame"),
        line("video from standard input", "--video", "-", "What?", words=("standard input", "give a file")),
        video("one_frame.mp4", lambda path: write_clip(path, num_frames=1)),
        video("short.mkv", lambda path: write_clip(path, num_frames=3)),
        video("really_a_webm.mp4", _misnamed_clip, title="video with the wrong extension"),
        video("animated.gif", write_animation, title="animated GIF as video"),
        video("animated.webp", write_animation, title="animated WebP as video"),
        video("frames", lambda path: write_frames(path, 4), title="folder of frames"),
        video("sizes", _frames_of_sizes, title="frames of different sizes"),
        Row(name="more frames than the limit", build=_too_many_frames, words=("5000", "1024", "fewer")),
        Row(name="more frames than the clip", build=_repeated_frames),
    ]


def _unknown_codec(path: Path) -> None:
    path.write_bytes(write_clip(path).read_bytes().replace(b"avc1", b"zzzz"))


def _misnamed_clip(path: Path) -> None:
    write_clip(path.with_suffix(".webm"), codec="libvpx")
    shutil.move(path.with_suffix(".webm"), path)


def _frames_and_notes(path: Path) -> None:
    write_frames(path, 3)
    (path / "notes.txt").write_text("seen on Monday")


def _nested_frames(path: Path) -> None:
    write_frames(path, 3)
    (path / "inner").mkdir()


def _cut_frame(path: Path) -> None:
    cut(write_frames(path, 3) / "frame_1.png")


def _frames_of_sizes(path: Path) -> None:
    write_frames(path, 2)
    noise(30, 90).save(path / "frame_2.png")


def _too_many_frames(place: Place) -> Call:
    return Call(arguments=[*_medium("--video", place, "clip.mp4", write_clip), "--num-frames", "5000"])


def _repeated_frames(place: Place) -> Call:
    return Call(arguments=[*_medium("--video", place, "clip.mp4", write_clip), "--num-frames", "24"])


def url_rows() -> list[Row]:
    """URLs: refused, broken, slow, and fine."""
    private = "is not a public address"
    return [
        _url("{web}/image", "127.0.0.1", private, "--allow-private-urls", allowed=False),
        _url("http://localhost:1/image", private, allowed=False),
        _url("http://2130706433/image", "127.0.0.1", private, allowed=False),
        _url("http://[::1]/image", "::1", private, allowed=False),
        _url("http://[::ffff:10.0.0.1]/image", private, allowed=False),
        _url("http://10.0.0.1/image", "10.0.0.1", private, allowed=False),
        _url("http://169.254.169.254/latest/meta-data", "169.254.169.254", private, allowed=False),
        _url("http://0.0.0.0/image", private, allowed=False),
        _url("{web}/to?file:///etc/passwd", "file URLs", "plain path"),
        _url("{web}/to?ftp://127.0.0.1/a.png", "'ftp'", "not supported"),
        _url("{web}/loop/0", "more than 3 times"),
        _url("{web}/status/404", "404", "check the URL"),
        _url("{web}/status/500", "500"),
        _url("{web}/stall", "limit of 0.3 s"),
        _url("{web}/drip", "limit of 0.3 s"),
        _url("{web}/huge", "1000000000000 bytes", "268435456"),
        _url("{web}/cut", "cannot be fetched"),
        _url("{web}/gzip", "compressed"),
        _url("{web}/page", "an HTML page"),
        _url("{web}/nothing", "0 bytes"),
        _url("http://127.0.0.1:1/image", "cannot be fetched"),
        _url("http:///image", "names no host"),
        _url("http://[broken/image", "not found", "check the URL"),
        _url("file:///etc/hostname", "file:///etc/hostname", "plain path"),
        _url("ftp://example.org/a.png", "'ftp'", "http"),
        _url("data:image/png;base64", "no comma"),
        _url("data:image/png;base64,@@@", "base64"),
        _url("data:text/plain,hello", "is text"),
        _url("{web}/image", title="URL of an image"),
        _url("{web}/to?/image", title="URL with one redirect"),
        _url(f"data:,{''.join(f'%{byte:02x}' for byte in png_bytes())}"),
    ]


def _url(url: str, *words: str, allowed: bool = True, title: str = "") -> Row:
    options = ["--allow-private-urls", "--url-timeout", "0.3" if words and "limit" in words[0] else "10"]
    return line(title or f"URL {url[:50]}", "--image", url, "What?", *(options if allowed else []), words=words)


def option_rows() -> list[Row]:
    """Options, prompts, standard input and checkpoints."""
    stdin = ("--image", "-", "What?")
    return [
        line("no prompt", words=("no prompt", "--interactive")),
        line("empty prompt", "", words=("prompt is empty", "write a question")),
        line("blank prompt", " \n\t", words=("prompt is empty",)),
        line("prompt that is no UTF-8", os.fsdecode(b"caf\xe9"), words=("UTF-8", "3")),
        line("prompt too long", "word " * 300, words=("tokens", "512", "shorten")),
        line("two prompts", "What?", "Where?", words=("unexpected extra argument",)),
        line("empty system prompt", "--system", "", "What?", words=("empty",)),
        line("0 frames", "--num-frames", "0", "What?", words=("--num-frames", "is 0")),
        line("-3 frames", "--num-frames", "-3", "What?", words=("--num-frames", "-3")),
        line("frames that are no number", "--num-frames", "many", "What?", words=("--num-frames", "valid integer")),
        line("0 tiles", "--max-tiles", "0", "What?", words=("--max-tiles", "is 0")),
        line("a million tiles", "--max-tiles", "1000000", "What?", words=("1000000", "256")),
        line("0 new tokens", "--max-new-tokens", "0", "What?", words=("--max-new-tokens", "is 0")),
        line("0 seconds", "--url-timeout", "0", "What?", words=("--url-timeout", "is 0")),
        line("unknown option", "--imagee", "a.png", "What?", words=("--imagee",)),
        line("unknown device", "--device", "tpux", "What?", words=("tpux", "cuda")),
        line("device that is not there", "--device", "cuda:63", "What?", words=("cuda:63",)),
        line("unknown number format", "--dtype", "bfloat61", "What?", words=("bfloat61", "bfloat16")),
        line("empty standard input", *stdin, words=("standard input", "0 bytes")),
        line("text on standard input", *stdin, words=("standard input", "is text"), stdin=b"hello\n"),
        line("standard input twice", "--image", "-", *stdin, words=("2 images", "files"), stdin=png_bytes()),
        line("standard input and a conversation", "--interactive", *stdin, words=("conversation",)),
        line("missing model", "--model", "./no/such/model", "What?", words=("no/such/model", "nvila-mini")),
        line("file as model", "--model", "{model}/config.json", "What?", words=("config.json", "is a file")),
        Row(name="model without a configuration", build=_empty_model, words=("config.json", "missing")),
        Row(name="model with a broken configuration", build=_broken_config, words=("config.json", "JSON")),
        Row(name="model with cut weights", build=_cut_weights, words=("model.safetensors", "cut")),
        line("image on standard input", *stdin, stdin=png_bytes()),
        line("image tag in the prompt", "--image", "{web}/image", "--allow-private-urls", "an <image> or two"),
        line("no image at all", "Hello?"),
        line("unicode prompt", "\u00bfQu\u00e9 es? \U0001f600"),
    ]


def _copied_model(place: Place) -> Path:
    return Path(shutil.copytree(place.checkpoint, place.folder / "model"))


def _empty_model(place: Place) -> Call:
    return Call(arguments=["--model", str(place.folder), "What?"])


def _broken_config(place: Place) -> Call:
    model = _copied_model(place)
    (model / "config.json").write_text("{")
    return Call(arguments=["--model", str(model), "What?"])


def _cut_weights(place: Place) -> Call:
    model = _copied_model(place)
    cut(model / "model.safetensors")
    return Call(arguments=["--model", str(model), "What?"])
