"""What a file is, told by its first bytes: names and extensions are not believed.

Knows the containers that images and videos come in, and enough of what people give by mistake (documents, archives,
sound, text) to say what it is instead. Decodes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HEAD_BYTES = 1024
"""How many first bytes `sniff` wants."""

Kind = Literal["image", "video", "audio", "other"]


@dataclass(frozen=True, kw_only=True)
class Content:
    """What some bytes are: a `kind`, and the format's `name` as people say it."""

    kind: Kind
    name: str


_PREFIXES: tuple[tuple[bytes, Kind, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image", "PNG"),
    (b"\xff\xd8\xff", "image", "JPEG"),
    (b"GIF87a", "image", "GIF"),
    (b"GIF89a", "image", "GIF"),
    (b"II*\x00", "image", "TIFF"),
    (b"MM\x00*", "image", "TIFF"),
    (b"II+\x00", "image", "TIFF"),
    (b"MM\x00+", "image", "TIFF"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "image", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "image", "JPEG2000"),
    (b"qoif", "image", "QOI"),
    (b"\x00\x00\x01\x00", "image", "ICO"),
    (b"\x1a\x45\xdf\xa3", "video", "Matroska/WebM"),
    (b"FLV\x01", "video", "FLV"),
    (b"OggS", "video", "Ogg"),
    (b"DKIF", "video", "IVF"),
    (b"YUV4MPEG2", "video", "Y4M"),
    (b"\x00\x00\x01\xba", "video", "MPEG"),
    (b"\x00\x00\x01\xb3", "video", "MPEG"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video", "WMV"),
    (b"ID3", "audio", "MP3"),
    (b"fLaC", "audio", "FLAC"),
    (b"%PDF-", "other", "a PDF document"),
    (b"%!PS", "other", "a PostScript document"),
    (b"8BPS", "other", "a Photoshop document"),
    (b"PK\x03\x04", "other", "a ZIP archive or an office document"),
    (b"\x1f\x8b", "other", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "other", "a 7z archive"),
    (b"\x7fELF", "other", "a program"),
    (b"\xff\x0a", "other", "a JPEG XL image, which is not supported"),
    (b"\x00\x00\x00\x0cJXL ", "other", "a JPEG XL image, which is not supported"),
)

_RIFF: dict[bytes, Content] = {
    b"WEBP": Content(kind="image", name="WebP"),
    b"AVI ": Content(kind="video", name="AVI"),
    b"WAVE": Content(kind="audio", name="WAV"),
}

_BRANDS: dict[bytes, Content] = {
    b"avif": Content(kind="image", name="AVIF"),
    b"avis": Content(kind="image", name="AVIF"),
    b"heic": Content(kind="other", name="a HEIC image, which is not supported"),
    b"heix": Content(kind="other", name="a HEIC image, which is not supported"),
    b"hevc": Content(kind="other", name="a HEIC image, which is not supported"),
    b"mif1": Content(kind="other", name="a HEIF image, which is not supported"),
    b"msf1": Content(kind="other", name="a HEIF image, which is not supported"),
    b"M4A ": Content(kind="audio", name="M4A"),
    b"M4B ": Content(kind="audio", name="M4A"),
}
"""Major brands of the ISO container that are no plain video."""

_ATOMS = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
"""First atoms of QuickTime files written before there were brands."""


def sniff(head: bytes) -> Content:
    """What a file is whose first bytes (up to HEAD_BYTES) are `head`; never fails, and says "unknown data" at worst."""
    for prefix, kind, name in _PREFIXES:
        if head.startswith(prefix):
            return Content(kind=kind, name=name)
    if head[:4] == b"RIFF" and head[8:12] in _RIFF:
        return _RIFF[head[8:12]]
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], Content(kind="video", name="MP4/QuickTime"))
    if head[4:8] in _ATOMS:
        return Content(kind="video", name="QuickTime")
    return _sniff_weak(head)


def _sniff_weak(head: bytes) -> Content:
    """Formats whose mark is short or deep, tried last so that they steal nothing."""
    if head[:1] == b"\x47" and len(head) > 376 and head[188:189] == head[376:377] == b"\x47":
        return Content(kind="video", name="MPEG-TS")
    if head[:4] == b"\x00\x00\x00\x01" and len(head) > 4 and head[4] & 0x80 == 0:
        return Content(kind="video", name="raw H.264/H.265")
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return Content(kind="audio", name="AIFF")
    if head[:2] == b"BM" and head[14:18] in (b"\x28\0\0\0", b"\x0c\0\0\0", b"\x6c\0\0\0", b"\x7c\0\0\0"):
        return Content(kind="image", name="BMP")
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in b" \t\r\n#" and len(head) > 2:
        return Content(kind="image", name="PPM")
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return Content(kind="audio", name="MP3/AAC")
    return _sniff_text(head)


def _sniff_text(head: bytes) -> Content:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:512].lower()
    if b"<svg" in start:
        return Content(kind="other", name="an SVG drawing, which is not supported")
    if start.startswith((b"<!doctype html", b"<html")):
        return Content(kind="other", name="an HTML page")
    control = sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head)
    if head and control == 0 and _is_utf8(head):
        return Content(kind="other", name="text")
    return Content(kind="other", name="unknown data")


def _is_utf8(head: bytes) -> bool:
    """Whether `head` is UTF-8; its last character may be cut."""
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4 and error.reason == "unexpected end of data"
    return True
