"""Pictures and clips to bytes that are the same wherever they are made with the same libraries.

Flat pictures (text, charts, drawings) become PNG, which is exact and small for them; others JPEG at quality 92 without
colour subsampling. Clips become H.264 in MP4, frame times exact.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

FLAT_SHARE = 0.7
"""A picture is flat when this share of its pixels equals the pixel to the left."""

JPEG_QUALITY = 92
X264 = {"preset": "veryfast", "crf": "20", "threads": "1"}
"""One thread: how many there are changes the bytes, and the builder's workers fill the processors anyway."""


def encode_picture(image: Image.Image) -> tuple[str, bytes]:
    """The extension (png or jpg) and the file of an RGB picture."""
    assert image.mode == "RGB", f"pictures of samples are RGB; this one is {image.mode}"
    stream = io.BytesIO()
    pixels = np.asarray(image)
    if float((pixels[:, 1:] == pixels[:, :-1]).all(axis=2).mean()) >= FLAT_SHARE:
        image.save(stream, "PNG")
        return "png", stream.getvalue()
    image.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return "jpg", stream.getvalue()


def encode_clip(frames: Sequence[Image.Image], fps: float) -> bytes:
    """An MP4 of RGB frames of one size with even sides; frame i is shown from i / fps seconds on."""
    assert frames, "a clip has at least one frame"
    width, height = frames[0].size
    odd = width % 2 + height % 2
    assert odd == 0, f"H.264 needs even sides; the frames are {width} x {height}"
    rate = Fraction(fps).limit_denominator(1001)
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        track: Any = container.add_stream("libx264", rate=rate, options=X264)
        track.width, track.height, track.pix_fmt = width, height, "yuv420p"
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_image(image)
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(track.encode(frame))
        container.mux(track.encode())
    return stream.getvalue()
