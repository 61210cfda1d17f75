"""The paper's search for the ratio of the decoder's learning rate to the tower's: a run for each, the best is kept.

Each ratio has a folder of its own below the run's, with everything that a single fine-tuning leaves; the same command
goes on with those that are not done.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nvila.errors import ConfigError
from nvila.train.finetune.evaluate import Score
from nvila.train.finetune.run import ADAPTER, Prepared, Result, Tell, run
from nvila.train.plan import aligned
from nvila.utils.atomic import atomic_directory, atomic_write_text

SWEEP_FILE = "sweep.json"


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One ratio, and the best held-out score that it reached."""

    ratio: float
    before: Score
    best: Score


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """All ratios, in the order they were given; `best` is None where the search was interrupted."""

    rows: list[SweepRow]
    best: SweepRow | None
    adapter: Path | None

    def text(self) -> str:
        """As an aligned table."""
        rows = [("ratio", "exact before", "exact", "loss before", "loss", "at step", "")]
        for row in self.rows:
            first, best = row.before, row.best
            numbers = (f"{first.exact:.3f}", f"{best.exact:.3f}", f"{first.loss:.4f}", f"{best.loss:.4f}")
            rows.append((f"{row.ratio:g}", *numbers, f"{best.step:,}", "best" if row is self.best else ""))
        return aligned(rows)


def sweep(prepared: Prepared, ratios: tuple[float, ...], out: Path, *, tell: Tell = lambda text: None) -> SweepResult:
    """Fine-tunes with each ratio in `out/ratio-R`; the best adapter, by held-out score, is copied to `out/adapter`.

    Raises ConfigError without held-out data, or where the vision tower does not learn.
    """
    if prepared.held_out is None:
        raise ConfigError("--sweep-lr-ratio compares held-out scores; give --eval DATA")
    if "vision" not in prepared.options.train:
        raise ConfigError("--sweep-lr-ratio is about the vision tower's rate, and --vision is frozen; give ln or lora")
    rows: list[SweepRow] = []
    for ratio in ratios:
        tell(f"== ratio {ratio:g}")
        result = run(with_ratio(prepared, ratio), out / f"ratio-{ratio:g}", tell=tell)
        if result.best is None:
            return SweepResult(rows=rows, best=None, adapter=None)
        rows.append(_row(ratio, result))
    best = max(rows, key=lambda row: row.best.rank(prepared.options.best_by))
    with atomic_directory(out / ADAPTER, overwrite=True) as work:
        shutil.copytree(out / f"ratio-{best.ratio:g}" / ADAPTER, work, dirs_exist_ok=True)
    listed = {"rows": [asdict(row) for row in rows], "best_ratio": best.ratio, "best_by": prepared.options.best_by}
    atomic_write_text(out / SWEEP_FILE, json.dumps(listed, indent=1) + "\n")
    return SweepResult(rows=rows, best=best, adapter=out / ADAPTER)


def with_ratio(prepared: Prepared, ratio: float) -> Prepared:
    """The same fine-tuning with another rate for the vision tower."""
    (stage,) = prepared.recipe.stage
    rates = {**stage.part_learning_rates, "vision": stage.learning_rate / ratio}
    recipe = replace(prepared.recipe, stage=(replace(stage, part_learning_rates=rates),))
    return replace(prepared, recipe=recipe, options=replace(prepared.options, lr_ratio=ratio))


def _row(ratio: float, result: Result) -> SweepRow:
    assert result.best is not None
    return SweepRow(ratio=ratio, before=result.scores[0], best=result.best)
