"""Images to tiles: `NVILAImageProcessor`, and the free functions that cut and normalise pixels.

Every resize is Pillow's bicubic without keeping the aspect ratio, so that pixels equal the published ones bit for bit.
The normalisation is a table of 256 values a channel: exact, and faster than arithmetic on floats. Leaves out loading
(`nvila.processing.media`) and everything about text (`nvila.processing.processor`).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ImagesKwargs

from nvila.errors import ConfigError, MediaError, nearest
from nvila.processing.media import load_image
from nvila.tiling import choose_grid, min_tiles_of_scales

IMAGE_MODES = ("resize", "pad", "dynamic", "dynamic_s2")
Block = tuple[int, int]  # (rows, cols)
Pixels = npt.NDArray[np.uint8]

# What transformers itself writes beside our options, or what older image processors' files hold without effect here.
_SERVICE_KEYS = {
    "auto_map", "backend", "data_format", "device", "disable_grouping", "do_convert_rgb", "do_normalize", "do_rescale",
    "do_resize", "image_processor_type", "input_data_format", "processor_class", "video_processor_type",
}  # fmt: skip


class NVILAImageKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """What a call may set beside transformers' own options: see `NVILAImageProcessor`."""

    image_mode: str | None
    min_tiles: int | None
    max_tiles: int | list[int | None] | None
    s2_scales: list[int] | None


class NVILAImageProcessor(BaseImageProcessor):
    """Cuts images into normalised square tiles.

    image_mode: "resize" and "pad" give one tile an image (stretched, or padded to a square with the mean colour);
        "dynamic" a grid of tiles and, when there is more than one, the whole image as the last tile; "dynamic_s2" the
        image at every scale of `s2_scales`, squares first, the last scale in a grid that follows the aspect ratio.
    size: side of a tile in pixels, as a number or {"height": S, "width": S}.
    min_tiles, max_tiles: bounds of the grid; `max_tiles=1` is one plainly resized tile in every mode.
    s2_scales: sides in pixels, each a multiple of the first, which is `size`.

    Raises ConfigError for values out of range and for unknown options.
    """

    model_input_names: ClassVar = ["pixel_values", "block_sizes"]
    valid_kwargs = NVILAImageKwargs

    def __init__(
        self,
        image_mode: str = "resize",
        size: int | Mapping[str, int] = 448,
        min_tiles: int = 1,
        max_tiles: int = 12,
        s2_scales: Sequence[int] = (),
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        resample: int = int(Image.Resampling.BICUBIC),
        rescale_factor: float = 1 / 255,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        check_options(kwargs, self.valid_kwargs.__annotations__)
        self.image_mode = image_mode
        self.size = {"height": side_of(size), "width": side_of(size)}
        self.min_tiles = min_tiles
        self.max_tiles = max_tiles
        self.s2_scales = list(s2_scales)
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.resample = int(resample)
        self.rescale_factor = rescale_factor
        self._check()

    def _check(self) -> None:
        if self.image_mode not in IMAGE_MODES:
            hint = nearest(str(self.image_mode), IMAGE_MODES)
            raise ConfigError(f"image_mode is {self.image_mode!r}, not one of {', '.join(IMAGE_MODES)}{hint}")
        if not 1 <= self.min_tiles <= self.max_tiles:
            raise ConfigError(f"min_tiles is {self.min_tiles} and max_tiles {self.max_tiles}; need 1 <= min <= max")
        if self.image_mode == "dynamic_s2":
            scales = self.s2_scales
            if not scales or scales[0] != self.tile_size or any(scale % scales[0] for scale in scales):
                raise ConfigError(
                    f"s2_scales are {scales} for tiles of {self.tile_size}; they must be multiples of the tile size, "
                    "the first equal to it"
                )

    @property
    def tile_size(self) -> int:
        """Side of a tile in pixels."""
        return self.size["height"]

    def choose_block(self, width: int, height: int, max_tiles: int | None = None) -> Block:
        """The block (rows, cols) that an image of this size becomes; (1, 1) is untiled.

        Looks at nothing but this image's size, the options, and `max_tiles` (None: the processor's own).
        """
        limit = self.max_tiles if max_tiles is None else max_tiles
        if limit < 1:
            raise ConfigError(f"max_tiles is {limit}; give a whole number from 1 (1 leaves the image untiled)")
        if limit == 1 or self.image_mode in ("resize", "pad"):
            return (1, 1)
        fewest = min_tiles_of_scales(self.s2_scales) if self.image_mode == "dynamic_s2" else self.min_tiles
        cols, rows = choose_grid(width, height, self.tile_size, min(fewest, limit), limit)
        return (rows, cols)

    def num_tiles(self, block: Block) -> int:
        """How many rows of `pixel_values` an image with this block has."""
        rows, cols = block
        if block == (1, 1):
            return 1
        if self.image_mode == "dynamic_s2":
            return rows * cols + sum((scale // self.s2_scales[0]) ** 2 for scale in self.s2_scales[:-1])
        return rows * cols + 1

    def cut(self, image: Image.Image, block: Block) -> Pixels:
        """The tiles of an RGB image in the model's order: (num_tiles, 3, S, S) uint8."""
        if self.image_mode == "pad":
            image = pad_to_square(image, tuple(int(mean * 255) for mean in self.image_mean))
        size, resample = self.tile_size, Image.Resampling(self.resample)
        whole = cut_grid(image, (1, 1), size, resample)
        if block == (1, 1):
            return whole
        grid = cut_grid(image, block, size, resample)
        if self.image_mode == "dynamic":
            return np.concatenate([grid, whole])
        sides = [scale // self.s2_scales[0] for scale in self.s2_scales[:-1]]
        return np.concatenate([*(cut_grid(image, (side, side), size, resample) for side in sides), grid])

    def preprocess(
        self,
        images: Any,
        *,
        max_tiles: int | Sequence[int | None] | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Images (PIL, uint8 arrays, paths, or nested lists of them) to tiles.

        Returns `pixel_values`: (sum of tiles, 3, S, S) float32, and `block_sizes`: a list of (rows, cols), one an
        image. `max_tiles` is one number for all images or a list with a number or None for each; other options
        given here override the processor's for this call. Raises ConfigError, or MediaError for what is no image.
        """
        overrides = {key: value for key, value in kwargs.items() if value is not None}
        if overrides:
            own = {key: value for key, value in self.to_dict().items() if key not in overrides}
            return type(self)(**own, **overrides).preprocess(images, max_tiles=max_tiles, return_tensors=return_tensors)
        flat = [to_rgb(image) for image in flatten_images(images)]
        limits = per_image(max_tiles, len(flat))
        blocks = [self.choose_block(*image.size, max_tiles=limit) for image, limit in zip(flat, limits, strict=True)]
        tiles = [self.cut(image, block) for image, block in zip(flat, blocks, strict=True)]
        empty = np.empty((0, 3, self.tile_size, self.tile_size), np.uint8)
        pixel_values = normalise(np.concatenate([empty, *tiles]), self.rescale_factor, self.image_mean, self.image_std)
        data = {"pixel_values": pixel_values, "block_sizes": blocks}
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=["block_sizes"])

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Paths and URLs to RGB images by `nvila.processing.media`; anything else is passed through."""
        if isinstance(image_url_or_urls, list | tuple):
            return [self.fetch_images(item) for item in image_url_or_urls]
        return load_image(image_url_or_urls) if isinstance(image_url_or_urls, str) else image_url_or_urls


def check_options(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raises ConfigError for an option that has no effect here, naming the nearest known one."""
    for key, value in given.items():
        if value is not None and key not in _SERVICE_KEYS:
            raise ConfigError(f"unknown option {key!r}{nearest(key, known)}; remove it, or correct its name")


def side_of(size: int | Mapping[str, int]) -> int:
    """The side in pixels from a number or {"height": S, "width": S}. Raises ConfigError when it is no square."""
    height, width = (size, size) if isinstance(size, int) else (size.get("height"), size.get("width"))
    if not isinstance(height, int) or height != width or height < 1:
        raise ConfigError(f"size is {size!r}; tiles are square: give one number, or the same height and width")
    return height


def per_image(max_tiles: int | Sequence[int | None] | None, num_images: int) -> list[int | None]:
    """One limit an image. Raises ConfigError when a list has another length than there are images."""
    if max_tiles is None or isinstance(max_tiles, int):
        return [max_tiles] * num_images
    if len(max_tiles) != num_images:
        raise ConfigError(
            f"max_tiles has {len(max_tiles)} entries for {num_images} images; give one an image, or one number"
        )
    return list(max_tiles)


def flatten_images(images: Any) -> list[Any]:
    """Single images from an image, a 4-d array, or (nested) lists of them."""
    if isinstance(images, list | tuple):
        return [image for item in images for image in flatten_images(item)]
    if not isinstance(images, Image.Image | str) and np.ndim(images) == 4:
        return list(images)
    return [images]


def to_rgb(image: Any) -> Image.Image:
    """A PIL image or a uint8 array (H, W), (H, W, C) or (C, H, W) as a PIL image in RGB; alpha is dropped.

    Raises MediaError for other things.
    """
    if isinstance(image, str):
        return load_image(image)
    if isinstance(image, Image.Image):
        return image if image.mode == "RGB" else image.convert("RGB")
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise MediaError(
            f"an image given as {type(image).__name__} has dtype {array.dtype} and {array.ndim} dimensions; "
            "give a PIL image or a uint8 array (height, width, 3)"
        )
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 3 and array.shape[-1] not in (3, 4):
        raise MediaError(f"an image given as an array has shape {array.shape}; give (height, width, 3)")
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def pad_to_square(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """The image in the middle of a square canvas of `colour`."""
    width, height = image.size
    side = max(width, height)
    canvas = Image.new("RGB", (side, side), colour)
    canvas.paste(image, ((side - width) // 2, (side - height) // 2))
    return canvas


def cut_grid(image: Image.Image, block: Block, size: int, resample: Image.Resampling) -> Pixels:
    """The image stretched to rows x cols tiles and cut row by row: (rows*cols, 3, size, size) uint8."""
    rows, cols = block
    canvas = np.asarray(image.resize((cols * size, rows * size), resample))
    tiles: Pixels = canvas.reshape(rows, size, cols, size, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, size, size)
    return tiles


def normalise(
    tiles: Pixels, rescale_factor: float, mean: Sequence[float], std: Sequence[float]
) -> npt.NDArray[np.float32]:
    """(N, 3, S, S) uint8 to float32 of the same shape: (value * rescale_factor - mean) / std, in float32."""
    scaled = (np.arange(256, dtype=np.float64) * rescale_factor).astype(np.float32)
    table = (scaled - np.asarray(mean, np.float32)[:, None]) / np.asarray(std, np.float32)[:, None]
    pixels = np.empty(tiles.shape, np.float32)
    for channel in range(3):
        np.take(table[channel], tiles[:, channel], out=pixels[:, channel], mode="clip")
    return pixels
