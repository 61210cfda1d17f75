"""Clips to frames: `NVILAVideoProcessor`. Every frame is one plainly resized tile; sampling is even in time.

Leaves out decoding (`nvila.processing.media`), which reads only the frames that are wanted.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from transformers.image_processing_base import BatchFeature
from transformers.processing_utils import VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor

from nvila.errors import ConfigError, MediaError
from nvila.processing.image import check_options, cut_grid, normalise, side_of, to_rgb
from nvila.processing.media import load_video


class NVILAVideoProcessor(BaseVideoProcessor):
    """Samples the frames of clips and normalises them.

    size: side of a frame in pixels after resizing, as a number or {"height": S, "width": S}.
    num_frames: how many frames a longer clip is sampled down to; a shorter clip keeps the frames that it has.
    fps: frames per second read from files in place of `num_frames`; 0 reads `num_frames` evenly.

    Raises ConfigError for values out of range and for unknown options.
    """

    model_input_names: ClassVar = ["pixel_values_videos", "video_lengths"]
    valid_kwargs = VideosKwargs

    def __init__(
        self,
        size: int | Mapping[str, int] = 448,
        num_frames: int = 8,
        fps: float = 0.0,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        resample: int = int(Image.Resampling.BICUBIC),
        rescale_factor: float = 1 / 255,
        **kwargs: Any,
    ) -> None:
        check_options(kwargs, self.valid_kwargs.__annotations__)
        if num_frames < 1:
            raise ConfigError(f"num_frames is {num_frames}; give a whole number from 1")
        if fps < 0:
            raise ConfigError(f"fps is {fps}; give 0 (num_frames evenly) or a positive rate")
        self.size = {"height": side_of(size), "width": side_of(size)}
        self.num_frames = num_frames
        self.fps = fps
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.resample = int(resample)
        self.rescale_factor = rescale_factor

    def num_sampled(self, length: int, *, num_frames: int | None = None, do_sample_frames: bool | None = None) -> int:
        """How many frames of a clip of `length` decoded frames are used."""
        if do_sample_frames is False:
            return length
        return min(length, num_frames or self.num_frames)

    def preprocess(
        self,
        videos: Any,
        *,
        num_frames: int | None = None,
        do_sample_frames: bool | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Clips (lists of images, 4-d uint8 arrays (T, H, W, 3), paths, or lists of them) to frames.

        Returns `pixel_values_videos`: (sum of frames, 3, S, S) float32, and `video_lengths`: a list of frames a clip.
        `do_sample_frames=False` keeps every frame. Raises ConfigError, or MediaError for a clip without frames.
        """
        if num_frames is not None and num_frames < 1:
            raise ConfigError(f"num_frames is {num_frames}; give a whole number from 1")
        given = {key: value for key, value in kwargs.items() if key not in ("return_metadata", "video_metadata")}
        if given.get("fps") == self.fps:
            del given["fps"]
        if given.get("fps") is not None:
            raise ConfigError("fps needs a video file; decoded frames carry no times: give num_frames instead")
        check_options(given, ("num_frames", "do_sample_frames", "return_tensors"))
        resample, side = Image.Resampling(self.resample), self.size["height"]
        frames = [np.empty((0, 3, side, side), np.uint8)]
        lengths = []
        for clip in as_clips(videos):
            images = self._images(clip, num_frames or self.num_frames)
            if not len(images):
                raise MediaError("a clip has no frames; give at least 1")
            length = self.num_sampled(len(images), num_frames=num_frames, do_sample_frames=do_sample_frames)
            kept = [to_rgb(images[index]) for index in even_indices(len(images), length)]
            frames.extend(cut_grid(image, (1, 1), side, resample) for image in kept)
            lengths.append(length)
        pixel_values = normalise(np.concatenate(frames), self.rescale_factor, self.image_mean, self.image_std)
        data = {"pixel_values_videos": pixel_values, "video_lengths": lengths}
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=["video_lengths"])

    def _images(self, clip: Any, num_frames: int) -> Sequence[Any]:
        if isinstance(clip, str):
            return load_video(clip, num_frames=num_frames, fps=self.fps)
        images: Sequence[Any] = clip
        return images


def even_indices(length: int, num_frames: int) -> list[int]:
    """`num_frames` indices spread evenly over `length` frames, first and last included."""
    return [int(index) for index in np.round(np.linspace(0, length - 1, num_frames))]


def as_clips(videos: Any) -> list[Any]:
    """Single clips (a path, a list of frames or a 4-d array) from a clip or (nested) lists of clips."""
    if isinstance(videos, str):
        return [videos]
    if isinstance(videos, list | tuple):
        if videos and (isinstance(videos[0], Image.Image) or _is_frame(videos[0])):
            return [list(videos)]
        return [clip for item in videos for clip in as_clips(item)]
    if np.ndim(videos) == 5:
        return list(videos)
    return [videos]


def _is_frame(item: Any) -> bool:
    return not isinstance(item, list | tuple | str) and np.ndim(item) in (2, 3)
