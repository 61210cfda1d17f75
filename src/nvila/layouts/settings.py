"""The settings of a checkpoint, checked: how pixels become tokens, and where the parts lie.

The one place that knows which values go together; what reads them from files is beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from nvila.errors import ConfigError, nearest

Layout = Literal["folders", "hf"]
ImageMode = Literal["resize", "pad", "dynamic", "dynamic_s2"]
ProjectorType = Literal["mlp_downsample", "mlp_downsample_3x3_fix", "token_learner", "perceiver_resampler"]


@dataclass(frozen=True, kw_only=True)
class VisualSettings:
    """How pixels become tokens: all that the model and the processor must agree on. Sizes are in pixels.

    Raises ConfigError for values out of range or contradicting each other, with both values.
    """

    image_mode: ImageMode = "dynamic_s2"
    tile_size: int = 448
    patch_size: int = 14
    s2_scales: tuple[int, ...] = ()
    """Side of the square (of the last scale: of its nominal square) at each Dynamic-S2 scale; empty without S2."""
    s2_resize_output_to_scale_idx: int = -1
    min_tiles: int = 1
    max_tiles: int = 12
    projector_type: ProjectorType = "mlp_downsample"
    temporal_pool: int = 1
    """How many consecutive frames are averaged into one; the last group averages the frames that are left."""
    num_video_frames: int = 8
    fps: float = 0.0
    """Frames per second to sample; 0 samples `num_video_frames` evenly."""

    def __post_init__(self) -> None:
        _one_of("image_mode", self.image_mode, get_args(ImageMode))
        _one_of("projector_type", self.projector_type, get_args(ProjectorType))
        for name in ("tile_size", "patch_size", "min_tiles", "max_tiles", "temporal_pool", "num_video_frames"):
            _positive(name, getattr(self, name))
        if self.fps < 0:
            raise ConfigError(f"fps is {self.fps}; give 0 (sample num_video_frames evenly) or a positive rate")
        if self.max_tiles < self.min_tiles:
            raise ConfigError(f"max_tiles is {self.max_tiles}, below min_tiles, which is {self.min_tiles}")
        if self.image_mode == "dynamic_s2" and not self.s2_scales:
            raise ConfigError("image_mode 'dynamic_s2' needs s2_scales, such as [448, 896, 1344]; found none")
        if self.s2_scales:
            self._check_scales()

    def _check_scales(self) -> None:
        scales = self.s2_scales
        if scales[0] != self.tile_size:
            raise ConfigError(
                f"the first of s2_scales is {scales[0]}, but the tile size is {self.tile_size}; they must agree"
            )
        if list(scales) != sorted(set(scales)) or any(scale % scales[0] for scale in scales):
            raise ConfigError(f"s2_scales are {list(scales)}; they must grow, each a multiple of the first")
        if not -len(scales) <= self.s2_resize_output_to_scale_idx < len(scales):
            raise ConfigError(
                f"s2_resize_output_to_scale_idx is {self.s2_resize_output_to_scale_idx}, "
                f"but there are {len(scales)} s2_scales"
            )

    @property
    def num_scales(self) -> int:
        """How many feature maps are concatenated on channels: the number of S2 scales, or 1."""
        return len(self.s2_scales) or 1

    @property
    def downsample(self) -> int:
        """Side of the patch block that one token stands for: 2 for the 2x2 projector, else 3.

        The two learned projectors give as many tokens as the 3x3 one, as in Table 1 of the paper.
        """
        return 2 if self.projector_type == "mlp_downsample" else 3

    @property
    def tokens_per_tile(self) -> int:
        """Tokens that the projector gives for one tile."""
        return (-(-(self.tile_size // self.patch_size) // self.downsample)) ** 2


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings(VisualSettings):
    """`VisualSettings` as a checkpoint's files give them, and where its parts lie."""

    layout: Layout
    model_type: str
    root: Path
    tokenizer_dir: Path
    preprocessor_dir: Path
    vision_select_layer: int = -2
    num_time_tokens: int = 0
    time_token_format: str = "<t{t}>"
    soft_ce_std: float = 1.0

    @property
    def visual(self) -> dict[str, Any]:
        """The fields of `VisualSettings` alone."""
        return {field.name: getattr(self, field.name) for field in fields(VisualSettings)}


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} is {value!r}, not one of {', '.join(known)}{nearest(str(value), known)}")


def _positive(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number from 1")
