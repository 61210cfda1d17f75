"""`NVILAProcessor`: conversations, or text with placeholders and media, to the model's inputs.

A placeholder is replaced by one image (or video) token for every feature that the model computes, so that nothing is
inserted later. The trade: long token lists, for positions and masks that are right from the start and for engines that
know nothing of us. What decides tiling is passed down explicitly: `apply_chat_template`, which sees the conversation,
applies the rule that only a conversation's single picture is tiled; `__call__` never looks at the other images.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from transformers.image_processing_base import BatchFeature
from transformers.processing_utils import (
    ImagesKwargs,
    MultiModalData,
    ProcessingKwargs,
    ProcessorMixin,
    TextKwargs,
    VideosKwargs,
)

from nvila.errors import ConfigError, PromptError, nearest
from nvila.processing.chat import IGNORED, IMAGE_TOKEN, VIDEO_TOKEN, chat_labels, chat_template
from nvila.processing.conversation import Conversation, Medium, limits, read_conversations
from nvila.processing.image import Block, NVILAImageKwargs, NVILAImageProcessor, flatten_images, per_image
from nvila.processing.loading import load_parts
from nvila.processing.media import Broken, MediaPolicy, load_image, load_video
from nvila.processing.tokens import NEWLINE, prepare_tokenizer
from nvila.processing.video import NVILAVideoProcessor, as_clips, even_indices


class NVILAProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """Options of a call, by the part that takes them."""

    images_kwargs: NVILAImageKwargs
    # Read by transformers 5.17; an annotation would make it one of the options.
    _defaults = {}  # type: ignore[var-annotated]  # noqa: RUF012


class NVILAProcessor(ProcessorMixin):
    """Image processor, video processor, tokenizer and chat template of one checkpoint.

    patch_size, downsample: a token stands for `downsample` x `downsample` patches of `patch_size` pixels.
    temporal_pool: how many consecutive frames become one.
    s2_resize_output_to_scale_idx: which Dynamic-S2 scale gives the number of tokens; -1 is the last.
    strip_final_newline: whether the newline behind a tiled picture is lost at the end of a turn, as in the published
        three-folder checkpoints; see `nvila.processing.chat`.

    Raises ConfigError for values out of range, CheckpointError for a tokenizer that cannot serve.
    """

    valid_processor_kwargs = NVILAProcessorKwargs
    skip_tensor_conversion: ClassVar = ["video_metadata", "text_replacement_offsets", "block_sizes", "video_lengths"]

    def __init__(
        self,
        image_processor: NVILAImageProcessor,
        tokenizer: Any,
        video_processor: NVILAVideoProcessor,
        chat_template: str | dict[str, str] | None = None,
        patch_size: int = 14,
        downsample: int = 2,
        temporal_pool: int = 1,
        s2_resize_output_to_scale_idx: int = -1,
        strip_final_newline: bool = True,
    ) -> None:
        counts = {"patch_size": patch_size, "downsample": downsample, "temporal_pool": temporal_pool}
        for name, value in counts.items():
            if value < 1:
                raise ConfigError(f"{name} is {value}; give a whole number from 1")
        self.patch_size = patch_size
        self.downsample = downsample
        self.temporal_pool = temporal_pool
        self.s2_resize_output_to_scale_idx = s2_resize_output_to_scale_idx
        self.strip_final_newline = strip_final_newline
        self.token_ids = prepare_tokenizer(tokenizer)
        self.image_token, self.image_token_id = IMAGE_TOKEN, self.token_ids.image
        self.video_token, self.video_token_id = VIDEO_TOKEN, self.token_ids.video
        if chat_template is None:
            tile_newline = image_processor.image_mode == "dynamic"
            chat_template = _template(tile_newline=tile_newline, keep_final_newline=not strip_final_newline)
        super().__init__(image_processor, tokenizer, video_processor, chat_template=chat_template)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> "NVILAProcessor":
        """The processor of a checkpoint of any layout: `nvila-mini`, a folder, or a hub id.

        Settings of the processor, the image and the video processor may be given as keywords, as may the parts
        themselves (`tokenizer=`, `image_processor=`, `video_processor=`, `chat_template=`) and the hub's options.
        Raises CheckpointError for missing files, ConfigError for wrong or unknown settings.
        """
        return cls(**load_parts(pretrained_model_name_or_path, _known_options(), **kwargs))

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """transformers' check of the parts' classes, less the one that needs torchvision for video processors."""
        if argument_name == "video_processor":
            return type(argument)
        return super().check_argument_for_proper_class(argument_name, argument)

    @property
    def tokens_per_tile(self) -> int:
        """Tokens of one tile or one (pooled) frame."""
        patches = self.image_processor.tile_size // self.patch_size
        side = -(-patches // self.downsample)
        return int(side * side)

    def num_image_tokens(self, block: Block) -> int:
        """Image tokens of a picture with this block (rows, cols); newlines are not among them."""
        if block == (1, 1):
            return self.tokens_per_tile
        if self.image_processor.image_mode == "dynamic_s2":
            rows, cols = self._merged_block(block)
            return rows * cols * self.tokens_per_tile
        return int(self.image_processor.num_tiles(block)) * self.tokens_per_tile

    def _merged_block(self, block: Block) -> Block:
        scales, index = self.image_processor.s2_scales, self.s2_resize_output_to_scale_idx
        if index in (-1, len(scales) - 1):
            return block
        return (scales[index] // scales[0],) * 2

    def num_pooled_frames(self, num_frames: int) -> int:
        """Frames after temporal pooling; the last group pools the frames that are left."""
        return -(-num_frames // self.temporal_pool)

    def prepare_inputs_layout(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> tuple[Any, Any, Any, Any]:
        """Text as a list, images and clips as flat lists (None when there are none)."""
        text = [text] if isinstance(text, str) else text if text is None else list(text)
        flat_images = [] if images is None else flatten_images(images)
        clips = [] if videos is None else as_clips(videos)
        flat_images = self.image_processor.fetch_images(flat_images)
        return flat_images or None, text, clips or None, audio

    def validate_inputs(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> None:
        """Raises PromptError when placeholders and media disagree in number, with both."""
        if audio is not None:
            raise PromptError("audio was given; the model takes text, images and videos")
        if text is None:
            if images is None and videos is None:
                raise PromptError("nothing was given; give text, images or videos")
            return
        if not all(isinstance(sample, str) for sample in text):
            raise PromptError("text must be a string or a list of strings")
        for token, kind, media in ((self.image_token, "images", images), (self.video_token, "videos", videos)):
            placeholders, given = sum(sample.count(token) for sample in text), len(media or ())
            if placeholders != given:
                raise PromptError(
                    f"the text holds {placeholders} {token} placeholders for {given} {kind}; give one each"
                )

    def _process_images(self, images: Any, **kwargs: Any) -> tuple[Any, list[str]]:
        processed = self.image_processor(images, **kwargs)
        return processed, [self.replace_image_token(processed, index) for index in range(len(images))]

    def _process_videos(self, videos: Any, **kwargs: Any) -> tuple[Any, list[str]]:
        processed = self.video_processor(videos, **kwargs)
        return processed, [self.replace_video_token(processed, index) for index in range(len(videos))]

    def replace_image_token(self, image_inputs: Mapping[str, Any], image_idx: int, **kwargs: Any) -> str:
        """The text that image `image_idx`'s placeholder becomes.

        A newline that never merges ends every run of features; between a grid's tiles stands one more, of text. The
        text newline behind the last tile belongs to the chat template.
        """
        block = tuple(image_inputs["block_sizes"][image_idx])
        if self.image_processor.image_mode == "dynamic":
            tile = self.image_token * self.tokens_per_tile + NEWLINE
            return "\n".join([tile] * self.image_processor.num_tiles(block))
        return self.image_token * self.num_image_tokens(block) + NEWLINE

    def replace_video_token(self, video_inputs: Mapping[str, Any], video_idx: int, **kwargs: Any) -> str:
        """The text that clip `video_idx`'s placeholder becomes: a newline that never merges ends every pooled frame."""
        num_frames = self.num_pooled_frames(int(video_inputs["video_lengths"][video_idx]))
        return (self.video_token * self.tokens_per_tile + NEWLINE) * num_frames

    def _get_num_multimodal_tokens(
        self,
        image_sizes: Sequence[Sequence[int]] | None = None,
        video_sizes: Sequence[Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> MultiModalData:
        """Counts from sizes alone, for serving engines: images (height, width), clips (frames, height, width).

        `num_image_tokens` and `num_video_tokens` count placeholder tokens, one an embedding, and not the newlines
        between them: vLLM budgets its encoder by them, matches them with the positions that `mm_token_type_ids`
        marks, and takes the replacement's length from the replacement itself. `num_image_patches` are the rows of
        `pixel_values`. Heeds `max_tiles`, `num_frames` and `do_sample_frames` like the call itself.
        """
        data: dict[str, list[int]] = {}
        if image_sizes is not None:
            max_tiles = per_image(kwargs.get("max_tiles"), len(image_sizes))
            blocks = [
                self.image_processor.choose_block(width, height, max_tiles=limit)
                for (height, width), limit in zip(image_sizes, max_tiles, strict=True)
            ]
            data["num_image_tokens"] = [self.num_image_tokens(block) for block in blocks]
            data["num_image_patches"] = [self.image_processor.num_tiles(block) for block in blocks]
        if video_sizes is not None:
            options = {key: kwargs.get(key) for key in ("num_frames", "do_sample_frames")}
            lengths = [self.video_processor.num_sampled(size[0], **options) for size in video_sizes]
            data["num_video_tokens"] = [self.num_pooled_frames(length) * self.tokens_per_tile for length in lengths]
        return MultiModalData(**data)

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = None,
        return_assistant_tokens_mask: bool = False,
        max_tiles: int | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        exif_transpose: bool = False,
        broken: Broken = "error",
        media_policy: MediaPolicy | None = None,
        padding_side: str | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """A conversation, or a batch of them, to text, token ids, or all of the model's inputs.

        conversation: messages with role and content, the content a string or parts: text; image by path, url or
            image (PIL); video by path, url or video (frames); in any order and number. `nvila.types.Message` works too.
        max_tiles: upper limit of tiles for every picture; without it a conversation's only medium, if a picture, is
            tiled as the checkpoint says and all others are not. A part's own "max_tiles" goes first.
        num_frames, fps: how clips are sampled; without them as the checkpoint says. A part's own go first.
        exif_transpose: turn photographs as their camera noted; off by default, as in training.
        broken: "readable" samples what can be decoded of a damaged clip, which is an error by default.
        padding_side: "left" by default when a generation prompt is added, else the tokenizer's.
        processor_kwargs and other keywords go to `__call__` (padding, truncation, return_mm_token_type_ids ...).

        Returns the text (`tokenize=False`), ids (`return_dict=False`), or a BatchFeature with input_ids and
        attention_mask (conversations, tokens), pixel_values (tiles, 3, S, S), block_sizes, pixel_values_videos
        (frames, 3, S, S), video_lengths. Raises PromptError with the place of what is wrong, and MediaError.
        """
        options = {**(processor_kwargs or {}), **kwargs}
        _check_known(options)
        conversations, batched = read_conversations(conversation, max_tiles=max_tiles)
        texts = self.tokenizer.apply_chat_template(
            [item.messages for item in conversations],
            chat_template=self._resolve_template(chat_template),
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tokenize=False,
        )
        if not tokenize:
            return texts if batched else texts[0]
        opening = _Opening(
            exif_transpose=exif_transpose, broken=broken, policy=media_policy, num_frames=num_frames, fps=fps
        )
        options["padding_side"] = padding_side or ("left" if add_generation_prompt else self.tokenizer.padding_side)
        options["return_tensors"] = None if return_tensors == "auto" else return_tensors
        options.setdefault("padding", batched and options["return_tensors"] is not None)
        inputs = self._encode(conversations, texts, opening, options)
        if not return_dict:
            return inputs["input_ids"] if batched or options["return_tensors"] else inputs["input_ids"][0]
        if return_assistant_tokens_mask:
            masks = [self._assistant_mask(ids) for ids in inputs["input_ids"]]
            inputs["assistant_masks"] = torch.tensor(masks) if options["return_tensors"] == "pt" else masks
        return inputs

    def _assistant_mask(self, ids: Iterable[Any]) -> list[int]:
        """1 for each token that an assistant's turn teaches, else 0."""
        return [int(label != IGNORED) for label in self.chat_labels([int(token) for token in ids])]

    def _encode(
        self, conversations: list[Conversation], texts: list[str], opening: "_Opening", options: dict[str, Any]
    ) -> BatchFeature:
        """The inputs of rendered conversations: opens their media and passes the tiling of each down."""
        images = [opening.image(medium) for item in conversations for medium in item.of_kind("image")]
        clips = [
            opening.clip(medium, self.video_processor) for item in conversations for medium in item.of_kind("video")
        ]
        media = {
            "images": images or None,
            "videos": clips or None,
            "max_tiles": [limit for item in conversations for limit in limits(item)],
            "do_sample_frames": False,
        }
        return self(text=texts, **{**options, **media})

    def chat_labels(self, input_ids: Sequence[int]) -> list[int]:
        """Labels of one tokenised conversation: answers with their <|im_end|>, -100 elsewhere."""
        ids = self.token_ids
        return chat_labels(input_ids, im_start=ids.im_start, im_end=ids.im_end, assistant_header=ids.assistant_header)

    def _resolve_template(self, chosen: str | None) -> str:
        templates = self.chat_template if isinstance(self.chat_template, dict) else {"default": self.chat_template}
        return str(templates.get(chosen or "default", chosen))


def _template(*, tile_newline: bool, keep_final_newline: bool) -> str:
    return chat_template(tile_newline=tile_newline, keep_final_newline=keep_final_newline)


def _known_options() -> set[str]:
    """Every keyword that some part of transformers' own processors takes."""
    kinds = (TextKwargs, ImagesKwargs, NVILAImageKwargs, VideosKwargs, ProcessingKwargs)
    return {name for kind in kinds for name in kind.__annotations__}


def _check_known(options: Mapping[str, Any]) -> None:
    known = _known_options()
    for key, value in options.items():
        if key not in known and value is not None:
            raise ConfigError(f"unknown option {key!r}{nearest(key, known)}; remove it, or correct its name")


@dataclass(frozen=True, kw_only=True)
class _Opening:
    """How a request's media are opened; a part's own `num_frames` or `fps` goes before the request's."""

    exif_transpose: bool
    broken: Broken
    policy: MediaPolicy | None
    num_frames: int | None
    fps: float | None

    def image(self, medium: Medium) -> Any:
        """The picture of a part."""
        return self._picture(_given(medium), medium.place)

    def _picture(self, source: Any, place: str) -> Any:
        """A picture by whatever names or holds it; arrays are left to the image processor."""
        if isinstance(source, Image.Image):
            return load_image(source, exif_transpose=self.exif_transpose, policy=self.policy, name=place)
        if isinstance(source, str | Path | bytes):
            return load_image(source, exif_transpose=self.exif_transpose, policy=self.policy)
        return source

    def clip(self, medium: Medium, processor: NVILAVideoProcessor) -> list[Any]:
        """The sampled frames of a part: by its own rule, else the request's, else the checkpoint's."""
        source = _given(medium)
        own = medium.num_frames or medium.fps
        num_frames, fps = (medium.num_frames, medium.fps) if own else (self.num_frames, self.fps)
        if isinstance(source, str | Path | bytes):
            if not (num_frames or fps):
                num_frames, fps = processor.num_frames, processor.fps
            return load_video(
                source,
                num_frames=num_frames,
                fps=fps,
                exif_transpose=self.exif_transpose,
                broken=self.broken,
                policy=self.policy,
            )
        if fps:
            raise PromptError(f"{medium.place}: fps is {fps}, but a list of frames carries no times; give num_frames")
        clips = as_clips(source)
        if len(clips) != 1 or not len(clips[0]):
            raise PromptError(f"{medium.place}: video holds {len(clips)} clips; give a list of at least 1 frame")
        frames = clips[0]
        chosen = even_indices(len(frames), processor.num_sampled(len(frames), num_frames=num_frames))
        return [self._picture(frames[index], medium.place) for index in chosen]


def _given(medium: Medium) -> Any:
    if medium.source is None:
        names = f"path, url, {medium.kind}"
        raise PromptError(f"{medium.place}: a bare {medium.kind} placeholder has nothing to open; give one of {names}")
    return medium.source
