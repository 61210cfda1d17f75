"""Bytes of one picture to RGB pixels: limits first, then the whole file decoded, then every mode brought to 8-bit RGB.

Each mode has one documented way to RGB. Alpha is dropped as plain `convert("RGB")` does, not composited.
Leaves out animations (`animation`), where bytes come from (`media`), and resizing and tiling (`image`).
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nvila.errors import MediaError
from nvila.processing.policy import MediaPolicy, check_size

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF", "QOI")
"""Decoders that may run: no format that starts other programs (EPS) or follows references."""

_PHOTOGRAPH = "MPO"
"""JPEGs of phones carry a preview or a second lens in the same file; they are one picture for all that."""

_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, OverflowError, TypeError)
_DAMAGE_BELOW = (struct.error, zlib.error, MemoryError, RuntimeError)
"""What Pillow's decoders raise on damaged files, across formats."""

_ORIENTATION = 0x0112


def decode_image(data: bytes, *, name: str, exif_transpose: bool, policy: MediaPolicy) -> Image.Image:
    """The picture in `data`, RGB. Raises MediaError as `media.load_image` does, calling the picture `name`."""
    with damage_reported(name):
        with open_picture(data, name, policy) as image:
            if image.format == "PNG":
                image.verify()  # the checksums of pixel data, which decoding skips; it leaves the file used up
        with open_picture(data, name, policy) as image:
            num_frames = count_frames(image)
            if num_frames > 1:
                unit, remedy = (
                    ("pages", "save the page you mean as a file of its own")
                    if image.format == "TIFF"
                    else ("frames", "give it as a video (--video), or save one frame")
                )
                raise MediaError(f"{name}: holds {num_frames} {unit}, and an image is 1; {remedy}")
            return to_rgb(image, name=name, exif_transpose=exif_transpose, policy=policy)


def to_rgb(image: Image.Image, *, name: str, exif_transpose: bool, policy: MediaPolicy) -> Image.Image:
    """`image` decoded to its end and brought to 8-bit RGB.

    Bilevel, grey, palette, CMYK, YCbCr, HSV and alpha modes go by `convert("RGB")`; 16-bit grey is scaled by 255/65535;
    32-bit integers count as 8-bit up to 255 and as 16-bit up to 65,535; floats as 0..1, or else as 0..255.
    Raises MediaError for values out of these ranges, for damage, and over `policy`.
    """
    check_size(image.width, image.height, name=name, policy=policy)
    with damage_reported(name):
        image.load()
        if exif_transpose and _orientation(image) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode == "RGB":
            return image.copy() if type(image) is not Image.Image else image
        if image.mode.startswith("I") or image.mode == "F":
            return _scale_deep(image, name).convert("RGB")
        if image.mode in ("La", "RGBa"):
            return image.convert(image.mode.upper()).convert("RGB")
        return image.convert("RGB")


def open_picture(data: bytes, name: str, policy: MediaPolicy) -> Image.Image:
    """The opened, not yet decoded image; its declared size is within `policy`."""
    Image.init()  # lists the decoders that this Pillow was built with
    try:
        image = Image.open(io.BytesIO(data), formats=[kind for kind in FORMATS if kind in Image.OPEN])
    except UnidentifiedImageError as error:
        raise MediaError(
            f"{name}: looks like an image but its header cannot be read (damaged or cut off); get the file again"
        ) from error
    except Image.DecompressionBombError as error:
        declared = re.search(r"\d+", str(error))
        raise MediaError(
            f"{name}: is {declared.group() if declared else 'very many'} pixels, "
            f"over the limit of {policy.max_pixels}; shrink it"
        ) from error
    check_size(image.width, image.height, name=name, policy=policy)
    return image


def count_frames(image: Image.Image) -> int:
    """Frames or pages; a still format has no such attribute in Pillow."""
    return 1 if image.format == _PHOTOGRAPH else int(getattr(image, "n_frames", 1))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none or the EXIF block is unreadable, as viewers have it."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except (*_DAMAGE, *_DAMAGE_BELOW):
        return 1


def _scale_deep(image: Image.Image, name: str) -> Image.Image:
    """A grey image of more than 8 bits as an 8-bit one (mode "L")."""
    values = np.asarray(image)
    if image.mode == "F":
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        factor = 255.0 if high <= 1.0 else 1.0
        top = 255.0
        finite = bool(np.isfinite(values).all())
    else:
        low, high = float(values.min()), float(values.max())
        factor = 1.0 if image.mode == "I" and high <= 255 else 255.0 / 65535.0
        top = 65535.0
        finite = True
    if low < 0 or high > top or not finite:
        raise MediaError(
            f"{name}: pixel values run from {low:g} to {high:g}, and 0 to {top:g} can be shown; "
            "save it with 8 or 16 bits"
        )
    return Image.fromarray(np.rint(values.astype(np.float64) * factor).astype(np.uint8))


@contextmanager
def damage_reported(name: str) -> Iterator[None]:
    """Turns what decoders raise into a MediaError naming the file, and keeps their warnings off standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except MediaError:
            raise
        except (*_DAMAGE, *_DAMAGE_BELOW) as error:
            reason = str(error) or type(error).__name__
            raise MediaError(f"{name}: is damaged or cut off ({reason}); get the file again") from error
