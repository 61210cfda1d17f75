"""Animated pictures (GIF, WebP, PNG) as clips: sampled frames with the times that the file gives them.

Each frame is composed as viewers show it, so every one counts as a key frame. Leaves out video files (`decode`) and
how a picture's mode becomes RGB (`pictures`).
"""

from __future__ import annotations

import itertools

from PIL import Image, ImageSequence

from nvila.errors import MediaError
from nvila.processing.clip import Clip, Reading, Sampling, Timeline, choose_frames
from nvila.processing.pictures import count_frames, damage_reported, open_picture, to_rgb
from nvila.processing.policy import MediaPolicy

_UNTIMED_S = 0.1
"""How long browsers show a frame that names no duration, or 0."""


def decode_animation(data: bytes, *, name: str, sampling: Sampling, reading: Reading, policy: MediaPolicy) -> Clip:
    """Sampled frames of an animated picture; only these are kept.

    Damage is an error, or ends the clip where `reading.broken` is "readable". Raises MediaError as `media.load_clip`.
    """
    with damage_reported(name), open_picture(data, name, policy) as image:
        if count_frames(image) < 2:
            raise MediaError(f"{name}: is a still image ({image.format}), not a video; give it as an image (--image)")
        if image.format == "TIFF":
            raise MediaError(f"{name}: holds pages, not frames; save them as files in a folder and give that")
        timeline, is_partial = _read_timeline(image, name, keep_broken=reading.broken == "readable")
        chosen = choose_frames(timeline, sampling, name=name, max_frames=policy.max_frames)
        wanted = set(chosen)
        kept = {
            index: to_rgb(
                frame.copy(), name=f"{name}, frame {index}", exif_transpose=reading.exif_transpose, policy=policy
            )
            for index, frame in enumerate(itertools.islice(ImageSequence.Iterator(image), max(chosen) + 1))
            if index in wanted
        }
    return Clip(
        frames=[kept[index] for index in chosen],
        indices=chosen,
        times_s=[timeline.starts_s[index] for index in chosen],
        duration_s=timeline.duration_s,
        is_partial=is_partial,
    )


def _read_timeline(image: Image.Image, name: str, *, keep_broken: bool) -> tuple[Timeline, bool]:
    """When the frames are shown, and whether damage ended them; each is decoded once, since damage shows only then."""
    lengths_s: list[float] = []
    is_partial = False
    try:
        with damage_reported(name):
            for frame in ImageSequence.Iterator(image):
                frame.load()  # WebP tells a frame's duration only then
                lengths_s.append((float(frame.info.get("duration") or 0.0) / 1000.0) or _UNTIMED_S)
    except MediaError:
        if not keep_broken or not lengths_s:
            raise
        is_partial = True
    ends_s = list(itertools.accumulate(lengths_s))
    starts_s = [0.0, *ends_s[:-1]]
    return Timeline(starts_s=starts_s, duration_s=ends_s[-1], key_indices=list(range(len(lengths_s)))), is_partial
