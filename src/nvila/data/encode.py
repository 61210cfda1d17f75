"""Any sample to the model's inputs: ids, labels, and the pixels of its pictures and clips.

The processor does the work, so a training sample is spelled as a question is when the model is used. What is added is
which tokens are learned, how long a sample may be, and its size without its pixels, to plan by (`nvila.data.packing`).
Leaves out joining samples into a batch (`nvila.data.collate`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from nvila.data.sizes import num_clip_frames, picture_size
from nvila.errors import ConfigError, DataError, NVILAError
from nvila.processing import NVILAProcessor
from nvila.processing.chat import IGNORED
from nvila.processing.conversation import Conversation, Medium, limits, read_conversations
from nvila.processing.policy import MediaPolicy
from nvila.types import Message, Sample, TextPart

TURN_MARKS = ("<|im_start|>", "<|im_end|>")


class Size(NamedTuple):
    """Tokens with placeholders expanded, and tiles with the frames of clips among them."""

    num_tokens: int
    num_tiles: int


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One sample as the model takes it; media in the order of their placeholders.

    input_ids, labels: (L,) long, -100 where nothing is learned. pixel_values: (tiles, 3, S, S) float with a (rows,
    cols) a picture in block_sizes; pixel_values_videos: (frames, 3, S, S) float with the frames of each clip in
    video_lengths. Pixels are None where there are no such media.
    """

    id: str
    input_ids: torch.Tensor
    labels: torch.Tensor
    pixel_values: torch.Tensor | None = None
    block_sizes: tuple[tuple[int, int], ...] = ()
    pixel_values_videos: torch.Tensor | None = None
    video_lengths: tuple[int, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Length in tokens."""
        return len(self.input_ids)

    @property
    def num_tiles(self) -> int:
        """Tiles and frames that go through the vision tower."""
        return sum(len(pixels) for pixels in (self.pixel_values, self.pixel_values_videos) if pixels is not None)


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """Limits of a sample, and how its media are sampled. Raises ConfigError for values out of range.

    A sample over a limit is refused ("error"), or loses turns from its end until it fits and ends with an answer that
    is learned ("truncate"). A turn is kept or dropped with all its media, so no placeholder is ever cut off.
    """

    max_tokens: int | None = None
    max_num_tiles: int | None = None
    """Tiles and frames of one sample together."""
    too_long: Literal["error", "truncate"] = "error"
    max_tiles: int | None = None
    """Tiles of each picture; None: a conversation's only medium is tiled as the checkpoint says, others are not."""
    num_frames: int | None = None
    fps: float | None = None
    exif_transpose: bool = False

    def __post_init__(self) -> None:
        if self.too_long not in ("error", "truncate"):
            raise ConfigError(f"too_long is {self.too_long!r}; give 'error' or 'truncate'")
        for name in ("max_tokens", "max_num_tiles", "max_tiles", "num_frames"):
            value = vars(self)[name]
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; give a whole number from 1, or leave it out")
        if self.fps is not None and self.fps < 0:
            raise ConfigError(f"fps is {self.fps}; give 0 (frames spread evenly) or a positive rate")


class SampleEncoder:
    """Encodes samples with one processor. Media are opened within `policy`.

    Raises DataError that names the sample, for whatever is wrong with it: its turns, its media, its length.
    """

    def __init__(
        self, processor: NVILAProcessor, options: EncodeOptions | None = None, *, policy: MediaPolicy | None = None
    ) -> None:
        self.processor = processor
        self.options = options or EncodeOptions()
        self.policy = policy or MediaPolicy()

    def __call__(self, sample: Sample) -> Encoded:
        """The sample with its pixels. Every assistant turn with `learned` is learned, with the <|im_end|> behind it."""
        with _errors_name(sample):
            messages = self._fit(sample.messages)
            encoded = self._encode(sample.id, messages)
            self._check(Size(encoded.num_tokens, encoded.num_tiles))
            return encoded

    def size(self, sample: Sample) -> Size:
        """The size that `__call__` gives the sample, from its text and its media's headers.

        Exact, but for clips sampled by `fps` (see `nvila.data.sizes`).
        """
        with _errors_name(sample):
            return self._measure(self._fit(sample.messages))

    def _fit(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The turns that are kept. Raises DataError, with both numbers, when too many tokens or tiles are left."""
        options = self.options
        if options.max_tokens is None and options.max_num_tiles is None:
            return messages
        whole = self._measure(messages)
        if not self._excess(whole):
            return messages
        if options.too_long == "truncate":
            for end in range(len(messages) - 1, 0, -1):
                last = messages[end - 1]
                if last.role == "assistant" and last.learned and not self._excess(self._measure(messages[:end])):
                    return messages[:end]
        self._check(whole)
        raise AssertionError("a size over a limit passed its check")

    def _excess(self, size: Size) -> str:
        """What is over a limit, with both numbers, or an empty string."""
        allowed = (self.options.max_tokens, self.options.max_num_tiles)
        over = [
            f"{value} {unit}, over the limit of {limit}"
            for value, limit, unit in zip(size, allowed, ("tokens", "tiles"), strict=True)
            if limit is not None and value > limit
        ]
        return " and ".join(over)

    def _check(self, size: Size) -> None:
        excess = self._excess(size)
        if excess:
            kept = "; not even its first answer fits" if self.options.too_long == "truncate" else ""
            raise DataError(f"has {excess}{kept}; raise the limit, lower max_tiles or num_frames, or shorten it")

    def _measure(self, messages: Sequence[Message]) -> Size:
        """Tokens of the text with a token a placeholder, plus what the placeholders grow to."""
        processor = self.processor
        conversation = self._read(messages)
        text = processor.apply_chat_template(list(messages), max_tiles=self.options.max_tiles)
        tokens, tiles = len(processor.tokenizer(text)["input_ids"]), 0
        for medium, limit in zip(conversation.of_kind("image"), limits(conversation), strict=True):
            width, height = self._picture_size(medium)
            block = processor.image_processor.choose_block(width, height, max_tiles=limit)
            tiles += processor.image_processor.num_tiles(block)
            tokens += _growth(processor.replace_image_token({"block_sizes": [block]}, 0), processor.image_token)
        for medium in conversation.of_kind("video"):
            length = self._num_frames(medium)
            tiles += length
            tokens += _growth(processor.replace_video_token({"video_lengths": [length]}, 0), processor.video_token)
        return Size(tokens, tiles)

    def _read(self, messages: Sequence[Message]) -> Conversation:
        conversations, _ = read_conversations(list(messages), max_tiles=self.options.max_tiles)
        return conversations[0]

    def _picture_size(self, medium: Medium) -> tuple[int, int]:
        return picture_size(medium.source, exif_transpose=self.options.exif_transpose, policy=self.policy)

    def _num_frames(self, medium: Medium) -> int:
        num_frames, fps = self.options.num_frames, self.options.fps
        video_processor = self.processor.video_processor
        if not isinstance(medium.source, str | bytes | Path):
            return int(video_processor.num_sampled(len(medium.source), num_frames=num_frames))
        if not (num_frames or fps):
            num_frames, fps = video_processor.num_frames, video_processor.fps
        return num_clip_frames(medium.source, num_frames=num_frames, fps=fps, policy=self.policy)

    def _encode(self, name: str, messages: Sequence[Message]) -> Encoded:
        _refuse_turn_marks(messages)
        options = self.options
        inputs = self.processor.apply_chat_template(
            list(messages),
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            max_tiles=options.max_tiles,
            num_frames=options.num_frames,
            fps=options.fps,
            exif_transpose=options.exif_transpose,
            media_policy=self.policy,
        )
        input_ids = inputs["input_ids"][0]
        return Encoded(
            id=name,
            input_ids=input_ids,
            labels=self._labels(input_ids, messages),
            pixel_values=inputs.get("pixel_values"),
            block_sizes=tuple(tuple(block) for block in inputs.get("block_sizes", ())),
            pixel_values_videos=inputs.get("pixel_values_videos"),
            video_lengths=tuple(int(length) for length in inputs.get("video_lengths", ())),
        )

    def _labels(self, input_ids: torch.Tensor, messages: Sequence[Message]) -> torch.Tensor:
        """(L,) labels: the answers that are learned. Raises DataError when there are none."""
        labels = torch.tensor(self.processor.chat_labels(input_ids.tolist()), dtype=torch.long)
        starts = (input_ids == self.processor.token_ids.im_start).nonzero()[:, 0].tolist()
        ends = [*starts[1:], len(input_ids)]
        # The template may put a system turn of its own in front; the last turns are the messages.
        turns = list(zip(starts, ends, strict=True))[-len(messages) :]
        for message, (start, end) in zip(messages, turns, strict=True):
            if not message.learned:
                labels[start:end] = IGNORED
        if bool((labels == IGNORED).all()):
            raise DataError("has no answer that is learned; give it an assistant turn with learned=True")
        return labels


def _growth(replacement: str, token: str) -> int:
    """How many tokens a placeholder's replacement has more than the placeholder: its features and its newlines."""
    return replacement.count(token) + replacement.count("\n") - 1


def _refuse_turn_marks(messages: Sequence[Message]) -> None:
    """Raises DataError for text that would end a turn or start one, and so have other text learned than was meant."""
    for index, message in enumerate(messages):
        text = "".join(part.text for part in message.content if isinstance(part, TextPart))
        for mark in TURN_MARKS:
            if mark in text:
                raise DataError(f"message {index}: its text spells {mark}, which parts turns; remove it")


@contextmanager
def _errors_name(sample: Sample) -> Iterator[None]:
    """Turns errors about a sample's content into a DataError that says which sample it was."""
    try:
        yield
    except ConfigError:
        raise
    except NVILAError as error:
        raise DataError(f"sample {sample.id} of {sample.source}: {error}") from error
