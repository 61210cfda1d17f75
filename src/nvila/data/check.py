"""Reading a whole data set before training on it: every record, every picture in full, every clip's start.

Nothing stops at the first problem: all are collected with their kind and place, in the order of the data. Worker
processes read stretches of the set and send back counts, not samples. Leaves out mending.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice, pairwise
from typing import Any, cast

import numpy as np
from torch.utils.data import DataLoader

from nvila.data.formats import ProblemKind, RecordError, SampleSource, open_source
from nvila.errors import ConfigError, DataError, MediaError
from nvila.processing import NVILAProcessor
from nvila.processing.fetch import fetch_url
from nvila.processing.media import load_image, load_video
from nvila.processing.policy import MediaPolicy
from nvila.types import ImagePart, Part, Sample, TextPart, VideoPart

CHUNK = 64
"""Samples that a worker checks at a time."""

_AHEAD = 4
"""Chunks that each worker may be ahead."""

_HELD = "\ufdd1"
"""Stands for a token of a medium while other placeholders are replaced: a character that no text may hold."""

TokenCounter = Callable[[Sample, Sequence[tuple[int, int]]], int]
"""Tokens of a sample whose pictures have the given sizes (width, height)."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong, and where."""

    kind: ProblemKind
    place: str
    message: str


@dataclass(kw_only=True)
class CheckReport:
    """What was found in a data set. `longest` is in tokens, 0 where they were not counted."""

    path: str
    num_samples: int = 0
    num_turns: int = 0
    num_images: int = 0
    num_videos: int = 0
    longest: int = 0
    problems: list[Problem] = field(default_factory=list)

    def by_kind(self) -> dict[str, int]:
        """How many problems there are of each kind, the most frequent first."""
        return dict(Counter(problem.kind for problem in self.problems).most_common())

    def as_json(self) -> dict[str, Any]:
        """The report as plain data."""
        return {**asdict(self), "num_problems": self.by_kind()}


@dataclass(kw_only=True)
class _Findings:
    """What one chunk gave; `ids` are 64-bit hashes, 0 where there was no sample."""

    report: CheckReport
    ids: list[int]


def check_data(
    path: str,
    *,
    format: str | None = None,
    media_root: str | None = None,
    workers: int | None = None,
    max_tokens: int | None = None,
    counter: TokenCounter | None = None,
    on_progress: Callable[[int, int, int], None] = lambda done, total, problems: None,
) -> CheckReport:
    """Everything that is wrong with the data set at `path`; see `open_source` for `format` and `media_root`.

    `workers` None takes one per processor for sets worth it, 0 none. Samples of more than `max_tokens` by `counter`
    (which must survive pickling) are over-long. `on_progress` is told samples done, samples in all, problems so far.
    Raises DataError where the set cannot be opened, ConfigError for options that do not go together.
    """
    if (max_tokens is None) != (counter is None):
        raise ConfigError("max_tokens needs a counter of tokens and a counter needs max_tokens; give both or neither")
    if workers is not None and workers < 0:
        raise ConfigError(f"workers is {workers}; give 0 or more")
    source = open_source(path, format=format, media_root=media_root)
    total = len(source)
    usual = 0 if total <= 2 * CHUNK else os.cpu_count() or 1
    checker = _Checker(source, max_tokens, counter)
    chunks = [range(start, min(start + CHUNK, total)) for start in range(0, total, CHUNK)]
    report = CheckReport(path=path)
    ids = array("Q")
    for findings in _run(checker, chunks, usual if workers is None else workers):
        _add(report, findings.report)
        ids.extend(findings.ids)
        on_progress(report.num_samples, total, len(report.problems))
    report.problems += _duplicates(source, ids)
    return report


class _Checker:
    """Checks stretches of a source; travels to the worker processes."""

    def __init__(self, source: SampleSource, max_tokens: int | None, counter: TokenCounter | None) -> None:
        self.name = source.name
        self._source = source
        self._max_tokens = max_tokens
        self._counter = counter
        self._policy = MediaPolicy()

    def __call__(self, indices: Iterable[int]) -> _Findings:
        findings = _Findings(report=CheckReport(path=""), ids=[])
        for index in indices:
            findings.report.num_samples += 1
            findings.ids.append(self._one(index, findings.report))
        return findings

    def _one(self, index: int, report: CheckReport) -> int:
        """Adds what sample `index` holds and what is wrong with it; returns the hash of its id."""
        place = self._source.place(index)
        try:
            sample = self._source[index]
        except DataError as error:
            kind = error.kind if isinstance(error, RecordError) else "unreadable"
            report.problems.append(Problem(kind=kind, place=place, message=str(error)))
            return 0
        parts = [part for message in sample.messages for part in message.content]
        report.num_turns += len(sample.messages)
        report.num_images += sum(isinstance(part, ImagePart) for part in parts)
        report.num_videos += sum(isinstance(part, VideoPart) for part in parts)
        sizes: list[tuple[int, int]] = []
        problems = [found for part in parts if (found := self._medium(part, place, sizes))]
        if not problems:
            problems += self._length(sample, sizes, place, report)
        report.problems += problems
        return int.from_bytes(hashlib.blake2b(sample.id.encode("utf-8", "surrogatepass"), digest_size=8).digest()) or 1

    def _medium(self, part: Part, place: str, sizes: list[tuple[int, int]]) -> Problem | None:
        """What is wrong with a picture or clip; a sound picture adds its size to `sizes`."""
        if isinstance(part, TextPart):
            return None
        try:
            source = self._at_hand(part)
        except MediaError as error:
            return Problem(kind="missing media", place=place, message=f"{place}: {error}")
        try:
            if isinstance(part, ImagePart):
                sizes.append(load_image(source, policy=self._policy, name=part.url and part.url[:100]).size)
            else:
                load_video(source, num_frames=1, policy=self._policy, name=part.url and part.url[:100])
        except MediaError as error:
            return Problem(kind="undecodable media", place=place, message=f"{place}: {error}")
        return None

    def _at_hand(self, part: ImagePart | VideoPart) -> Any:
        """What can be decoded: downloads are done, paths lead somewhere. Raises MediaError where they do not."""
        if part.url is not None:
            return fetch_url(part.url, self._policy)
        if part.path is not None and not os.path.exists(part.path):
            raise MediaError(f"{part.path}: no such file; check the path and the media root")
        return part.path if part.path is not None else part.image if isinstance(part, ImagePart) else part.video

    def _length(
        self, sample: Sample, sizes: Sequence[tuple[int, int]], place: str, report: CheckReport
    ) -> list[Problem]:
        if self._counter is None or self._max_tokens is None:
            return []
        num_tokens = self._counter(sample, sizes)
        report.longest = max(report.longest, num_tokens)
        if num_tokens <= self._max_tokens:
            return []
        message = f"{place}: has {num_tokens} tokens, over the limit of {self._max_tokens}; shorten it"
        return [Problem(kind="over-long", place=place, message=message)]


class ProcessorCounter:
    """Tokens by a checkpoint's processor, from texts and the sizes of pictures; clips have the checkpoint's frames.

    Pickles as the checkpoint's name.
    """

    def __init__(self, model: str) -> None:
        """`model`: a checkpoint folder, a hub id, or nvila-mini. Raises CheckpointError."""
        self._model = model
        self._processor: Any = NVILAProcessor.from_pretrained(model)

    def __call__(self, sample: Sample, sizes: Sequence[tuple[int, int]]) -> int:
        """Tokens of `sample` in chat form, its pictures of `sizes` (width, height) tiled as the processor does."""
        processor = self._processor
        parts = [part for message in sample.messages for part in message.content]
        images = [part for part in parts if isinstance(part, ImagePart)]
        clips = [part for part in parts if isinstance(part, VideoPart)]
        usual = None if len(images) + len(clips) == 1 else 1
        blocks = [
            processor.image_processor.choose_block(width, height, max_tiles=part.max_tiles or usual)
            for part, (width, height) in zip(images, sizes, strict=True)
        ]
        sampled = processor.video_processor.num_sampled
        lengths = [sampled(len(part.video) if part.video else processor.video_processor.num_frames) for part in clips]
        text = processor.apply_chat_template(list(sample.messages), tokenize=False)
        for index in range(len(blocks)):
            picture = processor.replace_image_token({"block_sizes": blocks}, index)
            text = text.replace(processor.image_token, picture.replace(processor.image_token, _HELD), 1)
        for index in range(len(lengths)):
            clip = processor.replace_video_token({"video_lengths": lengths}, index)
            text = text.replace(processor.video_token, clip.replace(processor.video_token, _HELD), 1)
        text = text.replace(_HELD, processor.image_token)
        return len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def __reduce__(self) -> tuple[Any, ...]:
        return ProcessorCounter, (self._model,)


class _Chunks:
    """The findings of each stretch of samples, as a data set that torch's workers read."""

    def __init__(self, checker: _Checker, chunks: Sequence[range]) -> None:
        self._checker = checker
        self._chunks = chunks

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: int) -> _Findings:
        return self._checker(self._chunks[index])


def _run(checker: _Checker, chunks: Sequence[range], workers: int) -> Iterator[_Findings]:
    """The findings of all chunks in their order. Raises DataError when a worker process dies."""
    options: dict[str, Any] = {}
    if workers:
        # Not forked from here: libraries that decode media keep threads, which a fork would tear from under them.
        # The server that is forked instead imports us once for all workers.
        context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
        context.set_forkserver_preload([__name__])
        options = {"multiprocessing_context": context, "prefetch_factor": _AHEAD}
    loader: Any = DataLoader(cast(Any, _Chunks(checker, chunks)), batch_size=None, num_workers=workers, **options)
    try:
        yield from loader
    except RuntimeError as error:
        if "exited unexpectedly" not in str(error):
            raise
        raise DataError(
            f"{checker.name}: a worker process died (out of memory, or a medium that crashes its decoder); "
            "find it with --workers 0"
        ) from error


def _add(total: CheckReport, part: CheckReport) -> None:
    total.num_samples += part.num_samples
    total.num_turns += part.num_turns
    total.num_images += part.num_images
    total.num_videos += part.num_videos
    total.longest = max(total.longest, part.longest)
    total.problems += part.problems


def _duplicates(source: SampleSource, ids: Sequence[int]) -> list[Problem]:
    """A problem for every sample whose id an earlier one has."""
    hashes = np.array(ids, dtype=np.uint64)
    order = np.argsort(hashes, kind="stable")
    ranked = hashes[order]
    groups = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])) if len(ranked) else np.zeros(0, int)
    borders = [*groups.tolist(), len(ranked)]
    found: dict[int, int] = {}
    for begin, end in pairwise(borders):
        if ranked[begin]:
            found.update(dict.fromkeys(order[begin + 1 : end].tolist(), int(order[begin])))
    return [_duplicate(source, index, found[index]) for index in sorted(found)]


def _duplicate(source: SampleSource, index: int, first: int) -> Problem:
    place = source.place(index)
    message = f"{place}: has the id of {source.place(first)}; give each sample an id of its own, or none"
    return Problem(kind="duplicate id", place=place, message=message)


def summary(report: CheckReport, *, examples: int = 3) -> str:
    """The report as text: counts, then each kind of problem with its first `examples`."""
    lines = [
        f"{report.path}: {report.num_samples:,} samples, {report.num_turns:,} turns, "
        f"{report.num_images:,} images, {report.num_videos:,} videos"
    ]
    if report.longest:
        lines.append(f"longest sample: {report.longest:,} tokens")
    if not report.problems:
        return "\n".join([*lines, "no problems"])
    kinds: Mapping[str, int] = report.by_kind()
    for kind, count in kinds.items():
        lines.append(f"{count:,} x {kind}")
        shown = islice((problem for problem in report.problems if problem.kind == kind), examples)
        lines += [f"  {problem.message}" for problem in shown]
    return "\n".join(lines)
