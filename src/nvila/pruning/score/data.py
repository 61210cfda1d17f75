"""The samples that are scored, by one number each: sources end to end, in chunks that are the same in every process.

Reading never raises for what is wrong with a sample: it says so in a status, because every sample gets its row.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from nvila.config import load
from nvila.data.formats import RecordError, SampleSource, open_source
from nvila.data.mixture import MixtureConfig, SourceConfig
from nvila.data.mixture.mixture import filtered, locate, with_options
from nvila.errors import DataError, MediaError
from nvila.pruning.score.options import DataOptions
from nvila.pruning.scores import ScoredSource
from nvila.types import ImagePart, Sample, TextPart, VideoPart

_STATUS_OF_KIND = {
    "empty answer": "no_answer",
    "missing media": "broken_media",
    "undecodable media": "broken_media",
    "over-long": "too_long",
}
"""The data layer's kinds of problems as statuses; other kinds are `unreadable`."""

_FEWEST, _MOST, _CHUNKS = 16, 1024, 64


@dataclass(frozen=True, kw_only=True)
class Read:
    """What was found under a number: the sample with its id, or a status and the reason why there is none."""

    id: str
    source: str
    sample: Sample | None = None
    status: str = ""
    reason: str = ""


class Corpus:
    """All samples of a data set or a mixture. Can be pickled."""

    def __init__(self, options: DataOptions) -> None:
        """Opens the sources. Raises ConfigError and DataError as opening a mixture does."""
        config = _as_mixture(options)
        self._configs = config.source
        self._sources = [_open(one, config.root) for one in config.source]
        self._kept: list[NDArray[np.uint32] | None] = [
            filtered(source, one, root=config.root) for source, one in zip(self._sources, config.source, strict=True)
        ]
        sizes = [
            len(source) if kept is None else len(kept) for source, kept in zip(self._sources, self._kept, strict=True)
        ]
        self._borders = [0, *accumulate(sizes)]
        self.sources = tuple(_scored(one, size, config.root) for one, size in zip(config.source, sizes, strict=True))
        usual = min(_MOST, max(_FEWEST, -(-len(self) // _CHUNKS)))
        self.chunk_samples = usual if options.chunk_samples is None else options.chunk_samples

    def __len__(self) -> int:
        return self._borders[-1]

    @property
    def num_chunks(self) -> int:
        """Chunks of all samples; the last may hold fewer."""
        return -(-len(self) // self.chunk_samples)

    def chunk(self, number: int) -> range:
        """The numbers of a chunk's samples."""
        start = number * self.chunk_samples
        return range(start, min(start + self.chunk_samples, len(self)))

    def read(self, number: int) -> Read:
        """The sample with this number.

        Its id is its own, so that it survives re-ordering, and that of a record that is no sample is the one that its
        sample would have. Only what cannot be read as a record at all is named by its place.
        """
        which = bisect_right(self._borders, number) - 1
        source, kept = self._sources[which], self._kept[which]
        index = number - self._borders[which]
        index = index if kept is None else int(kept[index])
        try:
            sample = with_options(source[index], self._configs[which])
        except DataError as error:
            known = error if isinstance(error, RecordError) else RecordError(str(error), kind="unreadable")
            return Read(
                id=known.id or f"at {source.place(index)}",
                source=source.name,
                status=_STATUS_OF_KIND.get(known.kind, "unreadable"),
                reason=str(error),
            )
        if not num_answer_bytes(sample):
            reason = f"{source.place(index)}: has no answer that is learned"
            return Read(id=sample.id, source=source.name, status="no_answer", reason=reason)
        return Read(id=sample.id, source=source.name, sample=sample)


def num_answer_bytes(sample: Sample) -> int:
    """UTF-8 bytes of the answers that are learned, a length that does not depend on a tokenizer."""
    return sum(
        len(part.text.encode("utf-8", "replace"))
        for message in sample.messages
        if message.role == "assistant" and message.learned
        for part in message.content
        if isinstance(part, TextPart)
    )


def has_media(sample: Sample) -> bool:
    """Whether any turn shows a picture or a clip."""
    return any(isinstance(part, ImagePart | VideoPart) for message in sample.messages for part in message.content)


def without_media(sample: Sample) -> Sample:
    """The sample with nothing in the place of its pictures and clips."""
    messages = tuple(
        replace(message, content=tuple(part for part in message.content if isinstance(part, TextPart)))
        for message in sample.messages
    )
    return replace(sample, messages=messages)


def status_of(error: BaseException) -> str:
    """The status of a sample whose encoding raised: media are to blame where a MediaError is among the causes."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MediaError):
            return "broken_media"
        cause = cause.__cause__
    return "unreadable"


def _as_mixture(options: DataOptions) -> MixtureConfig:
    if options.is_mixture:
        return load(MixtureConfig, options.data)
    name = PurePath(options.data.rstrip("/")).stem or options.data
    source = SourceConfig(name=name, path=options.data, format=options.format, media_root=options.media_root)
    return MixtureConfig(name=name, source=(source,))


def _open(config: SourceConfig, root: str) -> SampleSource:
    media_root = None if config.media_root is None else locate(config.media_root, root)
    return open_source(locate(config.path, root), name=config.name, format=config.format, media_root=media_root)


def _scored(config: SourceConfig, num_samples: int, root: str) -> ScoredSource:
    return ScoredSource(
        name=config.name,
        path=locate(config.path, root),
        num_samples=num_samples,
        format=config.format,
        media_root=None if config.media_root is None else locate(config.media_root, root),
    )
