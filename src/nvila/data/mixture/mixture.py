"""A mixture opened: its sources, what of each takes part, how much of each an epoch holds, and reading one sample.

Leaves out the order (order.py) and following it (stream.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from nvila.data.formats import SampleSource, open_source
from nvila.data.mixture.config import MixtureConfig, SourceConfig
from nvila.data.mixture.ids import chosen_indices, hashes_of, read_id_list
from nvila.data.mixture.order import Order, Place, stand_ins
from nvila.errors import ConfigError, DataError, MediaError, PromptError
from nvila.types import ImagePart, Message, Part, Sample, TextPart
from nvila.utils.logging import get_logger

T = TypeVar("T")

logger = get_logger(__name__)

READ_ERRORS = (DataError, MediaError, PromptError)
"""What a sample may do wrong; anything else is not the sample's fault and is not caught."""
MAX_STAND_INS = 100


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A sample that could not be read: the number of its source, its index as filtered, where it is, and why."""

    source: int
    index: int
    place: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Draw(Generic[T]):
    """What one position of the stream gave: `item`, and what was found broken on the way to it.

    `item` is None where neither the sample nor any of its stand-ins could be read.
    """

    position: int
    source: int
    item: T | None
    broken: tuple[Broken, ...] = ()


class Mixture:
    """The sources of a mixture, ready to be drawn from; picklable if they are.

    `sizes`: samples of each source that take part. `counts`: samples of each that an epoch holds.
    """

    def __init__(self, config: MixtureConfig, sources: Sequence[SampleSource]) -> None:
        """`sources` stand in the order of `config.source`.

        Raises ConfigError for an empty source, a list that leaves nothing, or amounts that cannot be met.
        """
        assert len(sources) == len(config.source)
        self.config = config
        self.sources = tuple(sources)
        pairs = list(zip(sources, config.source, strict=True))
        self._kept = [filtered(source, one, root=config.root) for source, one in pairs]
        self.sizes = tuple(
            len(source) if kept is None else len(kept) for source, kept in zip(sources, self._kept, strict=True)
        )
        self.counts = share_out(config, self.sizes)

    @classmethod
    def open(cls, config: MixtureConfig) -> Mixture:
        """Open every source of `config`. Raises ConfigError as above and DataError for what cannot be opened."""
        return cls(config, [_open(one, config.root) for one in config.source])

    @property
    def samples_per_epoch(self) -> int:
        """Samples of one epoch over all ranks."""
        return sum(self.counts)

    def order(self, seed: int) -> Order:
        """The order that follows from `seed`; 10 million samples take 10 MB and about half a second."""
        return Order(counts=self.counts, sizes=self.sizes, seed=seed)

    def fingerprint(self) -> str:
        """32 hex digits that change when the order would: sources, amounts, or what the lists leave."""
        digest = hashlib.blake2b(repr((self.sizes, self.counts)).encode(), digest_size=16)
        for source, kept in zip(self.sources, self._kept, strict=True):
            digest.update(source.name.encode() + b"\0")
            if kept is not None:
                digest.update(kept.astype("<u4").tobytes())
        return digest.hexdigest()

    def sample(self, source: int, index: int) -> Sample:
        """Sample `index` (as filtered) of source number `source`, with the source's options. Raises DataError."""
        return with_options(self.sources[source][self._in_file(source, index)], self.config.source[source])

    def draw(self, place: Place, *, seed: int, transform: Callable[[Sample], T]) -> Draw[T]:
        """What `transform` makes of the sample at `place`, or of the first of its stand-ins that can be read.

        The stand-ins are samples of the same source in a random order that follows from `seed` and the broken
        sample's index alone. READ_ERRORS of the reading and of `transform` count as broken.
        """
        broken: list[Broken] = []
        number, size = place.source, self.sizes[place.source]
        others = stand_ins(seed=seed, source=number, index=place.sample, size=size, limit=MAX_STAND_INS)
        for index in itertools.chain((place.sample,), others):
            try:
                item = transform(self.sample(number, index))
            except READ_ERRORS as error:
                where = self.sources[number].place(self._in_file(number, index))
                broken.append(Broken(source=number, index=index, place=where, reason=str(error)))
            else:
                return Draw(position=place.position, source=number, item=item, broken=tuple(broken))
        return Draw(position=place.position, source=number, item=None, broken=tuple(broken))

    def _in_file(self, source: int, index: int) -> int:
        kept = self._kept[source]
        return index if kept is None else int(kept[index])


def _open(config: SourceConfig, root: str) -> SampleSource:
    media_root = None if config.media_root is None else locate(config.media_root, root)
    if config.format == "generator":
        from nvila.data.corpus.generated import GeneratedSource

        return GeneratedSource(config.path, name=config.name, sizes=config.sizes, assets=media_root)
    return open_source(locate(config.path, root), name=config.name, format=config.format, media_root=media_root)


def locate(path: str, root: str) -> str:
    """`path` below `root`, unless it is absolute or a URL."""
    if not root or path.startswith("/") or "://" in path:
        return path
    return root + path if root.endswith("/") else f"{root}/{path}"


def filtered(source: SampleSource, config: SourceConfig, *, root: str) -> NDArray[np.uint32] | None:
    """(num_kept,) uint32: indices of `source` that its lists leave; None where it has no lists.

    Raises ConfigError where the source is empty or the lists leave nothing.
    """
    if not len(source):
        place = f"source {config.name!r} ({config.path})"
        raise ConfigError(f"{place} has 0 samples; fill it, or take it out of the mixture")
    if config.keep is None and config.drop is None:
        return None
    keep = None if config.keep is None else read_id_list(locate(config.keep, root))
    drop = None if config.drop is None else read_id_list(locate(config.drop, root))
    hashes = hashes_of(source, config, path=locate(config.path, root))
    kept = chosen_indices(source, keep=keep, drop=drop, hashes=hashes)
    if not len(kept):
        lists = " and ".join(
            f"{key} = {value!r}" for key, value in (("keep", config.keep), ("drop", config.drop)) if value
        )
        raise ConfigError(
            f"source {config.name!r}: {lists} leave 0 of its {len(source)} samples; were the lists made from other ids?"
        )
    logger.info("%s: %d of %d samples take part", config.name, len(kept), len(source))
    return kept


def share_out(config: MixtureConfig, sizes: Sequence[int]) -> tuple[int, ...]:
    """Samples of each source in an epoch, from `sizes`, the samples of each that take part.

    Sources with a weight share what the others leave of `samples_per_epoch` (or as many samples as they have
    together), to the nearest whole sample. Raises ConfigError where that leaves a source nothing.
    """
    fixed = [_fixed_count(one, size) for one, size in zip(config.source, sizes, strict=True)]
    weights = [one.weight or 0.0 for one in config.source]
    total_weight, total_fixed = sum(weights), sum(fixed)
    if not total_weight:
        if config.samples_per_epoch is not None:
            raise ConfigError("samples_per_epoch is shared out by weight, but no source has a weight")
        return tuple(fixed)
    own = sum(size for size, weight in zip(sizes, weights, strict=True) if weight)
    budget = own if config.samples_per_epoch is None else config.samples_per_epoch - total_fixed
    if budget < 1:
        raise ConfigError(
            f"samples_per_epoch is {config.samples_per_epoch}, but the sources without a weight take {total_fixed}; "
            "raise it or cap them"
        )
    bounds = [round(budget * part / total_weight) for part in itertools.accumulate(weights, initial=0.0)]
    shared = [after - before for before, after in itertools.pairwise(bounds)]
    for one, count in zip(config.source, shared, strict=True):
        if one.weight is not None and count < 1:
            raise ConfigError(
                f"source {one.name!r}: weight {one.weight} of {total_weight} gives it 0 of {budget} samples"
            )
    return tuple(own_count + count for own_count, count in zip(fixed, shared, strict=True))


def _fixed_count(config: SourceConfig, size: int) -> int:
    """Samples of an epoch that a source has by itself; 0 where its weight decides."""
    if config.weight is not None:
        return 0
    if config.cap is not None:
        return min(config.cap, size)
    return size if config.repeat is None else max(1, math.floor(config.repeat * size + 0.5))


def with_options(sample: Sample, config: SourceConfig) -> Sample:
    """`sample` with the system prompt and the limit of tiles that its source asks for."""
    messages = sample.messages
    if config.max_tiles is not None:
        messages = tuple(_limit_tiles(message, config.max_tiles) for message in messages)
    if config.system_prompt is not None:
        messages = tuple(message for message in messages if message.role != "system")
    if config.system_prompt:
        messages = (Message(role="system", content=(TextPart(text=config.system_prompt),)), *messages)
    return sample if messages is sample.messages else dataclasses.replace(sample, messages=messages)


def _limit_tiles(message: Message, limit: int) -> Message:
    return dataclasses.replace(message, content=tuple(_limit_part(part, limit) for part in message.content))


def _limit_part(part: Part, limit: int) -> Part:
    if not isinstance(part, ImagePart):
        return part
    return dataclasses.replace(part, max_tiles=limit if part.max_tiles is None else min(part.max_tiles, limit))
