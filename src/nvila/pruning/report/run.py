"""From scores to the page and the picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nvila.errors import ConfigError
from nvila.pruning.report.data import Looked, look
from nvila.pruning.report.examples import Shown, show
from nvila.pruning.report.kinds import KINDS, Kind, examples_of, kinds_of
from nvila.pruning.report.numbers import agreements, removals
from nvila.pruning.report.page import page
from nvila.pruning.report.picture import picture
from nvila.utils.atomic import atomic_write_bytes, atomic_write_text


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What a report shows. Raises ConfigError for values out of range."""

    method: str | None = None
    """What samples are ranked by; None: deltaloss where it is there, else the first criterion by name."""
    num_examples: int = 6
    """Samples of each kind that are shown; 0 opens no data."""
    most_samples: int = 200_000
    """Samples that charts are drawn from."""
    memory_gb: float = 2.0

    def __post_init__(self) -> None:
        if self.num_examples < 0:
            raise ConfigError(f"--examples is {self.num_examples}; give 0 or more")
        if self.most_samples < 1:
            raise ConfigError(f"--samples is {self.most_samples}; give 1 or more")


def write_report(
    root: Path, out: Path, options: ReportOptions, *, on_progress: Callable[[str], None] = lambda text: None
) -> list[Path]:
    """Write the page `out` (.html) and beside it the same as a picture (.png); returns both paths.

    Raises DataError where there are no scores below `root`, ConfigError for another ending and missing packages.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out is {out}; give a file that ends in .html")
    on_progress("reading scores")
    looked = look(
        root,
        method=options.method,
        most_samples=options.most_samples,
        memory_gb=options.memory_gb,
        spill=out.absolute().parent,
    )
    kinds = None if looked.losses is None else kinds_of(looked.losses)
    gone = removals(looked, kinds, len(KINDS))
    agreed = agreements(looked.scores, looked.source)
    chosen = _examples(looked, options, on_progress)
    on_progress("drawing")
    drawn = picture(looked, kinds, gone, agreed)
    atomic_write_text(out, page(looked, kinds, chosen, gone, agreed))
    png = out.with_suffix(".png")
    atomic_write_bytes(png, drawn)
    return [out, png]


def _examples(
    looked: Looked, options: ReportOptions, on_progress: Callable[[str], None]
) -> dict[Kind, list[tuple[int, Shown]]]:
    if looked.losses is None or not options.num_examples:
        return {}
    kinds = kinds_of(looked.losses)
    wanted = {kind: examples_of(looked, looked.losses, kinds, kind, options.num_examples) for kind in KINDS}
    shown = show(looked, sorted({index for own in wanted.values() for index in own}), on_progress=on_progress)
    return {kind: [(index, shown[index]) for index in own] for kind, own in wanted.items()}
