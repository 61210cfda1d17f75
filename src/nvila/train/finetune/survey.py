"""The data before anything is loaded: what is wrong with it, how large its samples are, which are too long.

The rule for samples over the limit is one of three. error: none is trained on, the run is refused with their number.
drop: they are left out. truncate: turns go from the end, each with all its media, until the sample fits and ends with
an answer that is learned; where not even the first answer fits, it is left out. No rule ever cuts inside a turn, so the
placeholders of a picture are there as a whole or not at all. Plain text alone is cut between tokens.

Every record is read, every picture decoded, once; the result is kept beside the run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, Dataset

from nvila.data.check import CheckReport, check_data, summary
from nvila.data.encode import EncodeOptions, SampleEncoder
from nvila.data.mixture import Mixture, MixtureConfig
from nvila.data.mixture.mixture import READ_ERRORS, locate
from nvila.data.mixture.tally import MIN_READ
from nvila.data.text_pairs import TextAndChatEncoder
from nvila.errors import ConfigError, DataError
from nvila.processing import NVILAProcessor
from nvila.train.finetune.options import FinetuneOptions, TooLong
from nvila.utils.atomic import atomic_write_text

_FEW = 256
"""Samples up to which no worker processes are worth their start."""
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Survey:
    """An epoch of a data set as it will be trained on. Sizes are of what is left of the samples."""

    num_samples: int
    num_tokens: int
    num_tiles: int
    longest: int
    most_tiles: int
    """Of one sample."""
    densest: float
    """Most tiles a token of any sample."""
    num_too_long: int = 0
    num_truncated: int = 0
    num_dropped: int = 0
    num_broken: int = 0

    @property
    def mean_tokens(self) -> float:
        """Of a sample."""
        return self.num_tokens / self.num_samples

    def text(self, limit: int) -> str:
        """As lines for people."""
        lines = [
            f"{self.num_samples:,} samples an epoch, {self.mean_tokens:,.0f} tokens each (longest {self.longest:,}), "
            f"{self.num_tiles / self.num_samples:.1f} tiles each (most {self.most_tiles:,})"
        ]
        if self.num_too_long:
            lines.append(
                f"{self.num_too_long:,} samples over {limit:,} tokens: {self.num_truncated:,} lose turns from their "
                f"end, {self.num_dropped:,} are left out"
            )
        if self.num_broken:
            lines.append(f"{self.num_broken:,} broken samples, replaced by others of their source")
        return "\n".join(lines)


def check_sources(
    config: MixtureConfig, *, force: bool, tell: Callable[[str], None], epochs: float | None = None
) -> None:
    """Reads every record and medium. Raises DataError that lists what is wrong, unless `force`.

    `epochs` of training on them: `force` does not help where more of a source is broken than such a run puts up with.
    Ids that are given twice are told and no fault.
    """
    for source in config.source:
        if source.format == "text":
            continue
        root = None if source.media_root is None else locate(source.media_root, config.root)
        report = check_data(locate(source.path, config.root), format=source.format, media_root=root)
        if not report.num_samples:
            raise DataError(f"{report.path}: has 0 samples; give a file with some")
        _judge(report, None if epochs is None else config.max_broken_share, epochs or 1.0, force=force, tell=tell)


def _judge(
    report: CheckReport, max_share: float | None, epochs: float, *, force: bool, tell: Callable[[str], None]
) -> None:
    faults = [problem for problem in report.problems if problem.kind != "duplicate id"]
    num_broken = len({problem.place for problem in faults})
    is_much = max_share is not None and num_broken * epochs > max_share * max(report.num_samples * epochs, MIN_READ)
    if faults and (is_much or not force):
        remedy = (
            f"mend them, a run leaves out at most {max_share:.0%}"
            if is_much
            else "mend them, or give --force to leave them out"
        )
        raise DataError(
            f"{report.path}: {num_broken:,} of {report.num_samples:,} samples cannot be trained on. "
            + "; ".join(problem.message for problem in faults[:_SHOWN])
            + f". `nvila data check {report.path}` lists all; {remedy}"
        )
    if report.problems:
        tell(summary(report))


class Measured(NamedTuple):
    """One sample: its size as trained on, or why it is not."""

    num_tokens: int = 0
    num_tiles: int = 0
    is_too_long: bool = False
    is_dropped: bool = False
    id: str = ""
    fault: str = ""


class _Measurer(Dataset[Measured]):
    """Measures the samples of a mixture, one source after the other; works in forked processes."""

    def __init__(self, mixture: Mixture, processor: NVILAProcessor, options: EncodeOptions, rule: TooLong) -> None:
        self._mixture = mixture
        self._borders = [0, *accumulate(mixture.sizes)]
        self._limit = options.max_tokens
        self._rule = rule
        self._whole: SampleEncoder = TextAndChatEncoder(processor, replace(options, max_tokens=None))
        self._cut: SampleEncoder = TextAndChatEncoder(processor, replace(options, too_long="truncate"))

    def __len__(self) -> int:
        return self._borders[-1]

    def __getitem__(self, place: int) -> Measured:
        number = next(n for n, border in enumerate(self._borders[1:]) if place < border)
        index = place - self._borders[number]
        try:
            sample = self._mixture.sample(number, index)
            if not any(message.role == "assistant" and message.learned for message in sample.messages):
                return Measured(fault=f"sample {sample.id} of {sample.source}: has no answer that is learned")
            size = self._whole.size(sample)
        except READ_ERRORS as error:
            return Measured(fault=str(error))
        if self._limit is None or size.num_tokens <= self._limit:
            return Measured(*size)
        if self._rule != "truncate":
            return Measured(*size, is_too_long=True, is_dropped=True, id=sample.id)
        try:
            return Measured(*self._cut.size(sample), is_too_long=True, id=sample.id)
        except DataError:
            return Measured(*size, is_too_long=True, is_dropped=True, id=sample.id)


def measure_samples(
    mixture: Mixture, processor: NVILAProcessor, options: EncodeOptions, rule: TooLong
) -> list[list[Measured]]:
    """The size of every sample of every source, from texts and headers."""
    measurer = _Measurer(mixture, processor, options, rule)
    workers = 0 if len(measurer) <= _FEW else os.cpu_count() or 1
    loader: Any = DataLoader(
        measurer,
        batch_size=64,
        collate_fn=list,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
    )
    found = [one for part in loader for one in part]
    borders = [0, *accumulate(mixture.sizes)]
    return [found[start:stop] for start, stop in pairwise(borders)]


def summed(
    mixture: Mixture, measured: Sequence[Sequence[Measured]], options: FinetuneOptions, limit: int, *, force: bool
) -> Survey:
    """The survey of an epoch. Raises DataError where the rule refuses over-long samples, nothing is left, or, unless
    `force`, a sample cannot be measured or answers nothing."""
    every = [one for source in measured for one in source]
    long = [one for one in every if one.is_too_long]
    if long and options.too_long == "error":
        largest = max(long, key=lambda one: one.num_tokens)
        raise DataError(
            f"{options.data}: {len(long):,} of {len(every):,} samples have more than {limit:,} tokens, sample "
            f"{largest.id} has {largest.num_tokens:,}; give --too-long truncate or drop, lower --max-tiles, or raise "
            "--max-tokens"
        )
    kept = [one for one in every if not one.fault and not one.is_dropped]
    if not kept:
        first = next((one.fault for one in every if one.fault), "all are too long")
        raise DataError(f"{options.data}: none of {len(every):,} samples can be trained on ({first}); mend the data")
    faults = [one.fault for one in every if one.fault]
    if faults and not force:
        raise DataError(
            f"{options.data}: {len(faults):,} of {len(every):,} samples cannot be trained on. "
            + "; ".join(faults[:_SHOWN])
            + ". Mend them, or leave them out with --force"
        )
    sums = dict.fromkeys(("num_samples", "num_tokens", "num_tiles"), 0.0)
    for count, size, source in zip(mixture.counts, mixture.sizes, measured, strict=True):
        rate = count / size
        left = [one for one in source if not one.fault and not one.is_dropped]
        sums["num_samples"] += rate * len(left)
        sums["num_tokens"] += rate * sum(one.num_tokens for one in left)
        sums["num_tiles"] += rate * sum(one.num_tiles for one in left)
    return Survey(
        **{name: max(round(total), name == "num_samples") for name, total in sums.items()},
        longest=max(one.num_tokens for one in kept),
        most_tiles=max(one.num_tiles for one in kept),
        densest=max(one.num_tiles / one.num_tokens for one in kept),
        num_too_long=len(long),
        num_truncated=sum(not one.is_dropped for one in long),
        num_dropped=sum(one.is_dropped for one in long),
        num_broken=sum(bool(one.fault) for one in every),
    )


def without_dropped(
    config: MixtureConfig, measured: Sequence[Sequence[Measured]], folder: Path
) -> tuple[MixtureConfig, dict[Path, str]]:
    """The mixture with a list of ids to leave out where samples are too long, and these lists' texts, to be written.

    Raises ConfigError for a source with a drop list of its own, which would have to be joined with ours.
    """
    sources, lists = [], {}
    for number, (source, found) in enumerate(zip(config.source, measured, strict=True)):
        ids = [one.id for one in found if one.is_dropped]
        if ids and source.drop is not None:
            raise ConfigError(
                f"source {source.name!r}: {len(ids)} samples are too long, such as {ids[0]}, and it has a drop list "
                f"already; add them to {source.drop}"
            )
        if ids:
            path = folder / f"too_long.{number}.txt"
            lists[path] = "".join(f"{one}\n" for one in ids)
            source = replace(source, drop=str(path.absolute()))
        sources.append(source)
    return replace(config, source=tuple(sources)), lists


def survey_key(mixture: Mixture, *settings: Any) -> str:
    """Changes when the survey would: the data that take part, or how they are measured."""
    return hashlib.blake2b(f"{mixture.fingerprint()} {settings}".encode(), digest_size=16).hexdigest()


def read_survey(path: Path, key: str) -> Survey | None:
    """The survey that an earlier start of the same run left, None where there is none of this key."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["key"] == key:
            return Survey(**{field.name: values["survey"][field.name] for field in fields(Survey)})
    except (OSError, ValueError, KeyError, TypeError):
        return None  # nothing is lost but the time to look again
    return None


def write_survey(path: Path, key: str, survey: Survey) -> None:
    """Keeps the survey for the next start."""
    atomic_write_text(path, json.dumps({"key": key, "survey": asdict(survey)}, indent=2) + "\n")
