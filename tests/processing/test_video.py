"""Clips: sampling, values, what a clip may be, saving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from nvila.errors import ConfigError, MediaError
from nvila.processing import NVILAImageProcessor, NVILAVideoProcessor

S = 28


def clip(length: int) -> list[Image.Image]:
    """Frames that tell their index by their colour."""
    return [Image.new("RGB", (40, 30), (10 * index, 0, 0)) for index in range(length)]


def indices(pixels: np.ndarray) -> list[int]:
    return [round(float(frame[0, 0, 0] * 0.5 + 0.5) * 25.5) for frame in pixels]


def test_a_longer_clip_is_sampled_evenly() -> None:
    result = NVILAVideoProcessor(size=S, num_frames=4)(clip(11))
    assert result["video_lengths"] == [4]
    assert indices(result["pixel_values_videos"]) == [0, 3, 7, 10]


def test_a_shorter_clip_keeps_its_frames() -> None:
    result = NVILAVideoProcessor(size=S, num_frames=8)(clip(3))
    assert result["video_lengths"] == [3]
    assert indices(result["pixel_values_videos"]) == [0, 1, 2]


def test_sampling_of_one_call() -> None:
    processor = NVILAVideoProcessor(size=S, num_frames=4)
    assert indices(processor(clip(11), num_frames=2)["pixel_values_videos"]) == [0, 10]
    assert indices(processor(clip(5), do_sample_frames=False)["pixel_values_videos"]) == [0, 1, 2, 3, 4]


def test_frames_are_plainly_resized_tiles() -> None:
    frames = [Image.effect_noise((50, 31), 60).convert("RGB") for _ in range(2)]
    expected = NVILAImageProcessor(size=S)(frames)["pixel_values"]
    assert np.array_equal(NVILAVideoProcessor(size=S)(frames)["pixel_values_videos"], expected)


def test_what_clips_may_be() -> None:
    processor = NVILAVideoProcessor(size=S, num_frames=3)
    array = np.stack([np.asarray(frame) for frame in clip(3)])
    expected = processor(clip(3))["pixel_values_videos"]
    for same in (array, [array], [clip(3)], [[clip(3)]], list(array), array[None]):
        result = processor(same)
        assert result["video_lengths"] == [3]
        assert np.array_equal(result["pixel_values_videos"], expected)
    assert processor([clip(2), array])["video_lengths"] == [2, 3]


def test_a_path(tmp_path: Path) -> None:
    for index, frame in enumerate(clip(5)):
        frame.save(tmp_path / f"{index}.png")
    result = NVILAVideoProcessor(size=S, num_frames=3)(str(tmp_path), return_tensors="pt")
    assert indices(result["pixel_values_videos"].numpy()) == [0, 2, 4]
    assert result["video_lengths"] == [3]


def test_errors() -> None:
    processor = NVILAVideoProcessor(size=S)
    with pytest.raises(MediaError, match="no frames"):
        processor([np.zeros((0, 4, 4, 3), np.uint8)])
    with pytest.raises(ConfigError, match="num_frames is 0"):
        processor(clip(3), num_frames=0)
    with pytest.raises(ConfigError, match="fps needs a video file"):
        processor(clip(3), fps=2)
    with pytest.raises(ConfigError, match="did you mean 'num_frames'"):
        processor(clip(3), num_frame=2)
    with pytest.raises(ConfigError, match="num_frames is 0"):
        NVILAVideoProcessor(num_frames=0)
    with pytest.raises(ConfigError, match="fps is -1"):
        NVILAVideoProcessor(fps=-1)


def test_saving(tmp_path: Path) -> None:
    processor = NVILAVideoProcessor(size=S, num_frames=5, fps=2.0)
    processor.save_pretrained(tmp_path)
    for cls in (NVILAVideoProcessor, AutoVideoProcessor):
        assert cls.from_pretrained(tmp_path).to_dict() == processor.to_dict()
