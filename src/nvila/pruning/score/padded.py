"""Any image-text-to-text model of transformers: samples of like length in padded batches, by its own processor.

Letters: B samples, L tokens with padding, P places whose logits are asked for, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jinja2
import torch
from PIL import Image
from torch.nn import functional as F

from nvila.data.sizes import picture_size
from nvila.errors import CheckpointError, DataError, NVILAError
from nvila.processing.media import load_image, load_video
from nvila.processing.policy import MediaPolicy
from nvila.pruning.score.batches import LogP, Planned, Prepared, Ready, moved
from nvila.pruning.score.data import status_of
from nvila.pruning.score.options import RunOptions
from nvila.pruning.score.spelling import ChatMessage, Spelled, find_answers, spell, spelling_of
from nvila.types import ImagePart, Message, Sample, TextPart, VideoPart

USUAL_FRAMES = 8
"""Frames of a clip where nobody says how many."""

_PROCESSOR_ERRORS = (ValueError, TypeError, KeyError, IndexError, RuntimeError, OSError)
"""What foreign processors raise for input that they cannot take."""


class _Loaded(NamedTuple):
    """A sample as the processor takes it."""

    key: int
    spelled: Spelled
    pictures: list[Image.Image]
    clips: list[list[Image.Image]]


class PaddedEncoder:
    """Encodes with a processor of transformers and its chat template; see `spelling` for what an answer's tokens are.

    Samples share a batch where their lengths are known before their pixels are: those without media, and those with
    pictures if the processor tells how many tokens a picture takes. Others run one by one.
    """

    def __init__(self, processor: Any, options: RunOptions, *, max_positions: int) -> None:
        """Raises CheckpointError for a processor without a chat template or without a fast tokenizer."""
        if not (processor.chat_template or processor.tokenizer.chat_template):
            raise CheckpointError(
                f"{type(processor).__name__}: has no chat template, which says how an answer is asked"
            )
        if not processor.tokenizer.is_fast:
            raise CheckpointError(f"{type(processor.tokenizer).__name__}: is no fast tokenizer; add a tokenizer.json")
        if processor.tokenizer.pad_token is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token
        processor.tokenizer.padding_side = "right"
        self.max_tokens = min(max_positions, options.max_tokens or max_positions)
        self.spelling = spelling_of(processor)
        self._processor = processor
        self._num_frames = options.num_frames or USUAL_FRAMES
        self._policy = MediaPolicy()
        self._sizes_pictures = hasattr(processor, "_get_num_multimodal_tokens")

    def plan(self, key: int, sample: Sample) -> Planned:
        with _errors_name(sample):
            return self._planned(key, sample)

    def rows(self, planned: Iterable[Planned], batch_tokens: int) -> Iterator[Sequence[Planned]]:
        """Neighbours by length, so many that their number times the longest stays within `batch_tokens`."""
        row: list[Planned] = []
        for sample in sorted(planned, key=lambda sample: (sample.group, sample.num_tokens, sample.key)):
            is_like = bool(row) and sample.group == row[0].group != "alone"
            if row and not (is_like and (len(row) + 1) * sample.num_tokens <= batch_tokens):
                yield row
                row = []
            row.append(sample)
        if row:
            yield row

    def prepare(self, samples: Sequence[tuple[int, Sample]]) -> Prepared:
        prepared = Prepared()
        loaded: list[_Loaded] = []
        for key, sample in samples:
            try:
                with _errors_name(sample):
                    loaded.append(self._load(key, sample))
            except NVILAError as error:
                prepared.failed[key] = (status_of(error), str(error))
        if loaded:
            self._encode(loaded, prepared)
        return prepared

    def _encode(self, loaded: list[_Loaded], prepared: Prepared) -> None:
        """One batch of all; where the processor refuses them together, each is tried by itself."""
        try:
            prepared.ready.append(self._batch(loaded))
        except (*_PROCESSOR_ERRORS, NVILAError) as error:
            if len(loaded) == 1:
                reason = f"{type(self._processor).__name__} refuses it: {error}"
                prepared.failed[loaded[0].key] = (status_of(error), reason)
                return
            for one in loaded:
                self._encode([one], prepared)

    def _batch(self, loaded: list[_Loaded]) -> Ready:
        media: dict[str, Any] = {}
        if any(one.pictures for one in loaded):
            media["images"] = [one.pictures for one in loaded]
        if any(one.clips for one in loaded):
            media |= {"videos": [one.clips for one in loaded], "videos_kwargs": {"do_sample_frames": False}}
        texts = [one.spelled.text for one in loaded]
        inputs = dict(self._processor(text=texts, padding=True, return_tensors="pt", **media))
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        ids = [row[:length] for row, length in zip(inputs["input_ids"].tolist(), lengths, strict=True)]
        places = [find_answers(row, one.spelled.answers) for row, one in zip(ids, loaded, strict=True)]
        return Ready(keys=tuple(one.key for one in loaded), inputs=inputs, answers=places)

    def _planned(self, key: int, sample: Sample) -> Planned:
        spelled = self._spell(sample)
        media = [part for message in sample.messages for part in message.content if not isinstance(part, TextPart)]
        if not media:
            return Planned(key, spelled.num_tokens, 0, "text")
        if not self._sizes_pictures or any(isinstance(part, VideoPart) for part in media):
            return Planned(key, spelled.num_tokens, len(media), "alone")
        sizes = [
            picture_size(_source(part), exif_transpose=False, policy=self._policy)[::-1]
            for part in media
            if isinstance(part, ImagePart)
        ]
        counts = self._processor._get_num_multimodal_tokens(image_sizes=sizes).num_image_tokens
        return Planned(key, spelled.num_tokens - len(media) + sum(counts), len(media), "pictures")

    def _load(self, key: int, sample: Sample) -> _Loaded:
        parts = [part for message in sample.messages for part in message.content]
        pictures = [load_image(_source(part), policy=self._policy) for part in parts if isinstance(part, ImagePart)]
        clips = [
            load_video(_source(part), num_frames=self._num_frames, policy=self._policy)
            for part in parts
            if isinstance(part, VideoPart)
        ]
        return _Loaded(key, self._spell(sample), pictures, clips)

    def _spell(self, sample: Sample) -> Spelled:
        try:
            learned = [message.learned for message in sample.messages]
            return spell(self._processor, [_as_chat(message) for message in sample.messages], learned)
        except jinja2.TemplateError as error:
            raise DataError(f"the chat template refuses it: {error}") from error


class PaddedScorer:
    """A model of transformers that scores padded batches."""

    def __init__(self, model: Any, processor: Any, options: RunOptions) -> None:
        self.model = model.eval()
        self.device: torch.device = model.device
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31 - 1
        self.encoder = PaddedEncoder(processor, options, max_positions=positions)
        self._picks_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    @torch.inference_mode()
    def log_p(self, batch: Ready) -> list[LogP]:
        """Of each sample the sum over its answers' tokens; a sample's first token, which nothing predicts, is left out.

        Logits are made for the places alone that answers are predicted from, where the model's forward lets us say so.
        """
        inputs = moved(batch.inputs, self.device, self.model.dtype)
        wanted = [[place for place in places if place > 0] for places in batch.answers]
        kept = sorted({place - 1 for places in wanted for place in places})
        if self._picks_logits:
            inputs["logits_to_keep"] = torch.tensor(kept, device=self.device)
        logits_BPV = self.model(**inputs, use_cache=False).logits
        column = {place: number if self._picks_logits else place for number, place in enumerate(kept)}
        sums = []
        for row, places in enumerate(wanted):
            logits = logits_BPV[row, [column[place - 1] for place in places]].float()
            sums.append(F.cross_entropy(logits, inputs["input_ids"][row, places], reduction="none").double().sum())
        # The only wait for the device in a batch.
        return [LogP(-loss, len(places)) for loss, places in zip(torch.stack(sums).tolist(), wanted, strict=True)]


@contextmanager
def _errors_name(sample: Sample) -> Iterator[None]:
    """Turns errors about a sample's content into a DataError that says which sample it was."""
    try:
        yield
    except NVILAError as error:
        raise DataError(f"sample {sample.id} of {sample.source}: {error}") from error


def _as_chat(message: Message) -> ChatMessage:
    """The message as a chat template reads it, media as bare placeholders."""
    content: list[dict[str, str]] = []
    for part in message.content:
        if isinstance(part, TextPart):
            content.append({"type": "text", "text": part.text})
        else:
            content.append({"type": "image" if isinstance(part, ImagePart) else "video"})
    return {"role": message.role, "content": content}


def _source(part: ImagePart | VideoPart) -> Any:
    return part.path or part.url or (part.image if isinstance(part, ImagePart) else part.video)
