"""Table 2 at small scale: temporal "scale, then compress", from nvila-mini with its tower frozen.

Four rows see the same clips in the same order for as many steps; projector and decoder learn. The clips are made here
(`made_clips`): what is asked about is seen for four frames, so that whoever looks at few frames of a long clip cannot
know it. A frame's features are computed once and kept for all rows, seeds and epochs (`kept_features`); seconds are
taken apart, without kept features, and the operations count every frame.

    python reproduction/table2_temporal.py                  # within half an hour on two quiet cores
    python reproduction/table2_temporal.py --quick          # a minute or two, to see that it works

A run that was stopped is continued by the same command; a (row, seed) that is done is kept beside `--out`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from kept_features import Kept, kept_features
from made_clips import EVENT_FRAMES, LENGTHS, write_clips
from small_scale import (
    HeldOut,
    drop_weights,
    last_losses,
    model_recipe,
    operations,
    phase,
    read_held_out,
    ready_to_answer,
    run_options,
    scores,
    seconds,
    start_config,
    trained,
    write_mixture,
)
from tables import (
    COST_COLUMNS,
    Results,
    add_training_options,
    cost_cells,
    finish,
    machine,
    places,
    say,
    seeds_of,
    shown,
    side_by_side,
    summary,
    table_parser,
    with_given,
)

from nvila.model.temporal import num_groups
from nvila.train.recipe import Recipe, Run

PAPER_COLUMNS = ("short", "medium", "long", "overall")
PACE_STEPS = 5
"""Of a training that is only timed."""
NUM_TIMED = 6
"""Held-out clips whose prefill is timed."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: frames and pooling, and the paper's tokens a video and four scores."""

    label: str
    num_frames: int
    pool: int
    paper_tokens: int
    paper: tuple[float, float, float, float]


ROWS = {
    "8": Row(label="Baseline", num_frames=8, pool=1, paper_tokens=2048, paper=(65.4, 53.8, 47.7, 55.7)),
    "32": Row(label="Scale", num_frames=32, pool=1, paper_tokens=8192, paper=(73.2, 58.9, 50.9, 61.0)),
    "32-pool4": Row(label="Scale + compress", num_frames=32, pool=4, paper_tokens=2048, paper=(73.7, 56.7, 50.0, 60.1)),
    "256-pool8": Row(
        label="Scale + compress", num_frames=256, pool=8, paper_tokens=8192, paper=(75.0, 62.2, 54.8, 64.0)
    ),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What holds for all rows; the rate is the peak of a cosine with 3 % of warm-up, without weight decay."""

    start: str = "nvila-mini"
    clips: int = 200
    """Of each length, to train on."""
    epochs: float = 1.5
    held_out: int = 50
    """Clips of each length, one question each."""
    batch: int = 8
    rate: float = 3e-4
    lengths: Mapping[str, int] = field(default_factory=lambda: dict(LENGTHS))


QUICK = Settings(clips=4, epochs=1.0, held_out=2)


def make_recipe(row: Row, settings: Settings, mixture: Path, *, seed: int, run: Run) -> Recipe:
    """One phase from the start itself, with the row's frames and pooling."""
    config = start_config(settings.start)
    stage = phase(
        "clips",
        mixture,
        batch=settings.batch,
        steps=round(settings.epochs * settings.clips * len(settings.lengths) / settings.batch),
        rate=settings.rate,
        train=("projector", "llm"),
    )
    model = replace(model_recipe(config, settings.start), temporal_pool=row.pool, num_video_frames=row.num_frames)
    return Recipe(name="table2", stage=(stage,), run=replace(run, seed=seed), model=model)


def tokens_per_clip(row: Row, tokens_per_frame: int) -> int:
    """Visual tokens of a clip; one with fewer frames than the row's has them repeated."""
    return num_groups(row.num_frames, row.pool) * tokens_per_frame


def run_row(
    row: Row,
    settings: Settings,
    data: Path,
    folder: Path,
    held_out: Sequence[HeldOut],
    *,
    seed: int,
    run: Run,
    kept: Kept,
) -> dict[str, Any]:
    """Trains and scores one row with one seed."""
    recipe = make_recipe(row, settings, write_mixture(data), seed=seed, run=run)
    with kept_features(kept):
        learner = trained(recipe, folder)
        model, processor = ready_to_answer(learner, settings.start)
        found = scores(model, processor, held_out, batch_size=10)
    found |= operations(recipe, model, processor, held_out)
    found["load"]["tokens_per_clip"] = tokens_per_clip(row, model.config.visual.tokens_per_tile)
    found["losses"] = last_losses(folder)
    drop_weights(recipe, folder)
    return found


def table(rows: Mapping[str, Any]) -> str:
    """The paper's table and ours, side by side."""
    header = ("", "frames", "pool", "tok/video", *PAPER_COLUMNS, "| tok/clip", *LENGTHS, "average", *COST_COLUMNS)
    lines = []
    for name, found in rows.items():
        row = ROWS[name]
        lines.append(
            (
                row.label,
                str(row.num_frames),
                f"{row.pool}x",
                str(row.paper_tokens),
                *(f"{value:.1f}" for value in row.paper),
                f"| {found['load']['tokens_per_clip']}",
                *(shown(found["scores"][column]) for column in (*LENGTHS, "average")),
                *cost_cells(found["costs"]),
            )
        )
    return side_by_side(header, lines)


def main(arguments: list[str] | None = None) -> None:
    chosen = _parser().parse_args(arguments)
    given = ("clips", "epochs", "held_out", "start", "batch")
    settings = with_given(QUICK if chosen.quick else Settings(), chosen, given)
    if chosen.lengths:
        settings = replace(settings, lengths=dict(zip(LENGTHS, chosen.lengths, strict=True)))
    work, out = places(chosen, number=2)
    seeds = seeds_of(chosen)
    data = work / f"data-{settings.clips}-{settings.held_out}-{'-'.join(map(str, settings.lengths.values()))}"
    if not data.exists():
        say("drawing clips")
        side = start_config(settings.start).tile_size
        write_clips(data, train=settings.clips, held_out=settings.held_out, side=side, lengths=settings.lengths)
    held_out = read_held_out(data)
    results = Results(out.with_suffix(""), asdict(settings))
    run = run_options(chosen.threads, chosen.workers)
    torch.set_num_threads(chosen.threads)
    kept: Kept = {}

    def make(name: str, seed: int) -> dict[str, Any]:
        folder = work / f"runs-{results.key}" / f"{name}-seed{seed}"
        return run_row(ROWS[name], settings, data, folder, held_out, seed=seed, run=run, kept=kept)

    def measure(name: str, seed: int) -> dict[str, float]:
        recipe = make_recipe(ROWS[name], settings, write_mixture(data), seed=seed, run=run)
        folder = work / f"runs-{results.key}" / f"{name}-times"
        return seconds(recipe, settings.start, folder, held_out, steps=PACE_STEPS, num_timed=NUM_TIMED)

    names = chosen.rows or list(ROWS)
    runs = results.complete(names, seeds, make)
    times = results.times(names, seeds[0], measure)
    rows = {name: summary(runs[name], times[name]) for name in names}
    result = {
        "table": 2,
        "settings": results.settings,
        "event_frames": EVENT_FRAMES,
        "seeds": seeds,
        "spread": "half the range over seeds",
        "metrics": dict.fromkeys(settings.lengths, "accepted"),
        **machine(chosen.threads),
        "paper": {name: dict(zip(PAPER_COLUMNS, ROWS[name].paper, strict=True)) for name in rows},
        "rows": rows,
    }
    finish(out, table(rows), result)


def _parser() -> argparse.ArgumentParser:
    parser = table_parser(__doc__, number=2, rows=ROWS)
    add_training_options(parser)
    parser.add_argument("--clips", type=int, help=f"clips of each length to train on (default {Settings.clips})")
    parser.add_argument("--epochs", type=float, help=f"times that each is seen (default {Settings.epochs})")
    parser.add_argument("--held-out", type=int, help=f"held-out clips of each length (default {Settings.held_out})")
    parser.add_argument(
        "--lengths", type=int, nargs=3, metavar="FRAMES", help="short, medium, long (default 16 64 256)"
    )
    parser.add_argument("--batch", type=int, help=f"clips of a step (default {Settings.batch})")
    return parser


if __name__ == "__main__":
    main()
