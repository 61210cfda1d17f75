"""Table 1 at small scale: spatial "scale, then compress", from nvila-mini's tower and decoder and a new projector.

Six rows see the same pictures in the same order for as many steps with the same schedule of three phases:

    projector   the projector alone learns                                        (Table 7, stage 1)
    encoder     with VEP the tower learns too, without the projector goes on      (Table 7, stage 2)
    tuning      projector and decoder learn                                       (Table 7, stage 3)

The paper adds visual encoder pre-training (VEP) as one more stage; here it takes the place of as many samples in which
the projector learns alone, so that every row has the same samples, and the decoder the same training. The two learned
alternatives have VEP too, as in the paper ("even with an additional stage 1.5"), and as many tokens a tile as 3x3.

    python reproduction/table1_spatial.py                  # within an hour on two quiet cores
    python reproduction/table1_spatial.py --quick          # minutes, to see that it works; its scores mean nothing

A run that was stopped is continued by the same command; a (row, seed) that is done is kept beside `--out`.
"""

from __future__ import annotations

import argparse
from collections import ChainMap
from collections.abc import MutableMapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from corpus_columns import COLUMNS, count_columns, write_columns
from kept_features import Kept, kept_features
from small_scale import (
    PACE_STEPS,
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

from nvila.layouts import ImageMode, ProjectorType, resolve
from nvila.model import NVILAConfig, NVILAForConditionalGeneration
from nvila.model.s2 import merge_scales
from nvila.processing import NVILAProcessor
from nvila.train.export import export
from nvila.train.recipe import Part, Recipe, Run
from nvila.train.start import build_processor, calibrate_projector

PACKAGED = Path(__file__).parents[1] / "src" / "nvila" / "assets" / "corpus"
FULL = Path("~/.cache/nvila/corpus-full").expanduser()
PAPER_COLUMNS = ("AI2D", "DocVQA", "TextVQA", "IM-10")
NUM_CALIBRATED = 32
"""Training pictures that a new projector is fitted to."""
NUM_TIMED = 24
"""Held-out pictures whose prefill is timed."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: what changes, and the paper's tokens a tile, tiles an image and four scores."""

    label: str
    image_mode: ImageMode = "dynamic_s2"
    projector_type: ProjectorType = "mlp_downsample_3x3_fix"
    has_vep: bool = False
    paper_tokens: str = "121"
    paper_tiles: str = "1-12"
    paper: tuple[float, float, float, float]


ROWS = {
    "baseline": Row(
        label="Baseline, one tile, 2x2",
        image_mode="resize",
        projector_type="mlp_downsample",
        paper_tokens="256",
        paper_tiles="1",
        paper=(87.0, 61.3, 67.5, 61.2),
    ),
    "s2-2x2": Row(
        label="Scale: Dynamic-S2, 2x2",
        projector_type="mlp_downsample",
        paper_tokens="256",
        paper_tiles="9-12",
        paper=(90.1, 91.1, 77.0, 71.5),
    ),
    "s2-3x3": Row(label="Scale + compress: 3x3", paper=(87.4, 82.3, 74.1, 67.1)),
    "s2-3x3-vep": Row(label="Scale + compress + VEP", has_vep=True, paper=(89.8, 88.8, 76.1, 70.8)),
    "token-learner": Row(
        label="TokenLearner + VEP", projector_type="token_learner", has_vep=True, paper=(90.0, 86.5, 75.6, 69.8)
    ),
    "perceiver": Row(
        label="Perceiver Resampler + VEP",
        projector_type="perceiver_resampler",
        has_vep=True,
        paper=(76.8, 71.8, 65.3, 59.4),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What holds for all rows; rates are peaks of a cosine with 3 % of warm-up, without weight decay (section 3.1).

    The rates are not the paper's, whose models start from much longer training on much larger batches.
    """

    start: str = "nvila-mini"
    samples: int = 9600
    """Of all three phases of one row and seed, repetitions counted."""
    pictures: int = 4500
    """Different ones to train on, fewer where the corpus has fewer."""
    held_out: int = 200
    """Questions of each column, fewer where the corpus has fewer."""
    scales: tuple[int, ...] = (1, 2)
    """Of Dynamic-S2, in tiles."""
    max_tiles: int = 9
    """Of the last scale; the others come on top."""
    families: tuple[str, ...] = ("drawn",)
    """Of the corpus; all that the columns name where there is none."""
    batch: int = 16
    shares: tuple[float, float, float] = (0.25, 0.25, 0.5)
    """Parts of the samples that the three phases have."""
    projector_rate: float = 2e-3
    vision_rate: float = 1e-4
    llm_rate: float = 5e-4


QUICK = Settings(samples=48, pictures=48, held_out=4, batch=4)


def make_recipe(row: Row, settings: Settings, mixture: Path, init: Path, *, seed: int, run: Run) -> Recipe:
    """The three phases of one row, from the checkpoint that `write_start` made."""
    vep: tuple[Part, ...] = ("vision", "projector") if row.has_vep else ("projector",)
    parts: dict[str, tuple[Part, ...]] = {"projector": ("projector",), "encoder": vep, "tuning": ("projector", "llm")}
    stages = []
    for (name, train), share in zip(parts.items(), settings.shares, strict=True):
        rates = {"projector": settings.projector_rate, "vision": settings.vision_rate, "llm": settings.llm_rate}
        if name == "tuning":
            rates["projector"] = settings.llm_rate
        stages.append(
            phase(
                name,
                mixture,
                batch=settings.batch,
                steps=round(share * settings.samples / settings.batch),
                rate=rates["projector"],
                train=train,
                part_rates={part: rates[part] for part in train},
            )
        )
    return Recipe(
        name="table1",
        stage=tuple(stages),
        run=replace(run, seed=seed),
        model=model_recipe(row_config(row, settings), str(init)),
    )


def row_config(row: Row, settings: Settings) -> NVILAConfig:
    """The start's configuration with the row's image mode and projector."""
    config = start_config(settings.start).to_dict()
    tile = config["tile_size"]
    is_scaled = row.image_mode == "dynamic_s2"
    for key in ("model_type", "mm_hidden_size", "s2_resize_output_to_scale_idx"):
        config.pop(key, None)
    return NVILAConfig(
        **{
            **config,
            "image_mode": row.image_mode,
            "projector_type": row.projector_type,
            "s2_scales": [tile * scale for scale in settings.scales] if is_scaled else [],
            "max_tiles": settings.max_tiles if is_scaled else 1,
        }
    )


@torch.no_grad()
def write_start(row: Row, settings: Settings, folder: Path, pictures: Sequence[Path], *, seed: int) -> Path:
    """A checkpoint in `folder` with the start's tower and decoder and a new projector, fitted to these pictures."""
    if (folder / "config.json").exists():
        return folder
    torch.manual_seed(seed)
    model = NVILAForConditionalGeneration(row_config(row, settings)).eval()
    source = NVILAForConditionalGeneration.from_pretrained(settings.start, dtype=torch.float32)
    model.vision_tower.load_state_dict(source.vision_tower.state_dict())
    model.llm.load_state_dict(source.llm.state_dict())
    tokenizer = NVILAProcessor.from_pretrained(resolve(settings.start)).tokenizer
    processor = build_processor(model.config.visual, tokenizer)
    calibrate_projector(model.mm_projector, projector_input(model, processor, pictures))
    partial = folder.with_name(f"{folder.name}.part")
    export(model, tokenizer, partial)
    partial.rename(folder)
    return folder


def projector_input(
    model: NVILAForConditionalGeneration, processor: NVILAProcessor, pictures: Sequence[Path]
) -> torch.Tensor:
    """Features (N, P, C) of these pictures as the projector is given them: of all scales where there are more."""
    given = processor.image_processor([str(path) for path in pictures], return_tensors="pt")
    features = model.encode_tiles(given["pixel_values"])
    visual = model.config.visual
    if not visual.s2_scales:
        return features
    merged, first = [], 0
    for rows, cols in given["block_sizes"]:
        last = first + model.num_image_tiles((rows, cols))
        merged.append(
            merge_scales(features[first:last], visual.s2_scales, (rows, cols), visual.s2_resize_output_to_scale_idx)[0]
        )
        first = last
    return torch.cat(merged)


def start_row(row: Row, settings: Settings, data: Path, folder: Path, *, seed: int, run: Run) -> tuple[Recipe, str]:
    """A row's recipe, and the checkpoint below `folder` that it starts from."""
    pictures = sorted((data / "pictures" / "train").iterdir())[:NUM_CALIBRATED]
    init = write_start(row, settings, folder / "start", pictures, seed=seed)
    return make_recipe(row, settings, write_mixture(data), init, seed=seed, run=run), str(init)


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
    recipe, init = start_row(row, settings, data, folder, seed=seed, run=run)
    # What a tower that has learned sees is kept for its own row alone.
    seen: MutableMapping[bytes, torch.Tensor] = ChainMap({}, kept) if row.has_vep else kept
    with kept_features(seen):
        learner = trained(recipe, folder)
        model, processor = ready_to_answer(learner, init)
        found = scores(model, processor, held_out, batch_size=20)
    found |= operations(recipe, model, processor, held_out)
    found["load"]["tokens_per_tile"] = model.config.visual.tokens_per_tile
    found["losses"] = last_losses(folder)
    drop_weights(recipe, folder)
    return found


def table(rows: dict[str, Any]) -> str:
    """The paper's table and ours, side by side."""
    ours = ("| tok/tile", "tiles", "tokens", *COLUMNS, "average", *COST_COLUMNS)
    header = ("", "tok/tile", "tiles", *PAPER_COLUMNS, *ours)
    lines = []
    for name, found in rows.items():
        row, load = ROWS[name], found["load"]
        lines.append(
            (
                row.label,
                row.paper_tokens,
                row.paper_tiles,
                *(f"{value:.1f}" for value in row.paper),
                f"| {load['tokens_per_tile']}",
                f"{load['tiles']:.1f}",
                f"{load['visual_tokens']:.0f}",
                *(shown(found["scores"][column]) for column in (*COLUMNS, "average")),
                *cost_cells(found["costs"]),
            )
        )
    return side_by_side(header, lines)


def main(arguments: list[str] | None = None) -> None:
    chosen = _parser().parse_args(arguments)
    given = ("samples", "pictures", "held_out", "start", "max_tiles", "batch")
    settings = with_given(QUICK if chosen.quick else Settings(), chosen, given)
    families = () if chosen.all_families else tuple(chosen.families or settings.families)
    settings = replace(settings, scales=tuple(chosen.scales or settings.scales), families=families)
    corpus = chosen.corpus or (FULL if (FULL / "manifest.json").exists() else PACKAGED)
    work, out = places(chosen, number=1)
    seeds = seeds_of(chosen)
    results = Results(out.with_suffix(""), {**asdict(settings), "corpus": corpus.name})
    data = work / f"data-{results.key}"
    if not data.exists():
        say(f"choosing pictures of {corpus}")
        write_columns(
            corpus,
            data,
            train=settings.pictures,
            held_out=settings.held_out,
            larger_than=start_config(settings.start).tile_size,
            families=settings.families,
        )
    held_out = read_held_out(data)
    run = run_options(chosen.threads, chosen.workers)
    torch.set_num_threads(chosen.threads)

    kept: Kept = {}

    def make(name: str, seed: int) -> dict[str, Any]:
        folder = work / f"runs-{results.key}" / f"{name}-seed{seed}"
        return run_row(ROWS[name], settings, data, folder, held_out, seed=seed, run=run, kept=kept)

    def measure(name: str, seed: int) -> dict[str, float]:
        folder = work / f"runs-{results.key}" / f"{name}-times"
        recipe, init = start_row(ROWS[name], settings, data, folder, seed=seed, run=run)
        return seconds(recipe, init, folder, held_out, steps=PACE_STEPS, num_timed=NUM_TIMED)

    names = chosen.rows or list(ROWS)
    runs = results.complete(names, seeds, make)
    times = results.times(names, seeds[0], measure)
    rows = {name: summary(runs[name], times[name]) for name in names}
    result = {
        "table": 1,
        "corpus": corpus.name,
        "pictures": {split: count_columns(data / f"{split}.jsonl") for split in ("train", "heldout")},
        "settings": results.settings,
        "seeds": seeds,
        "spread": "half the range over seeds",
        "metrics": {"natural": "accepted", "charts": "relaxed", "text": "ANLS"},
        **machine(chosen.threads),
        "paper": {name: dict(zip(PAPER_COLUMNS, ROWS[name].paper, strict=True)) for name in rows},
        "rows": rows,
    }
    finish(out, table(rows), result)


def _parser() -> argparse.ArgumentParser:
    parser = table_parser(__doc__, number=1, rows=ROWS)
    add_training_options(parser)
    parser.add_argument("--samples", type=int, help=f"samples of a row and seed (default {Settings.samples})")
    parser.add_argument("--pictures", type=int, help=f"different ones to train on (default {Settings.pictures})")
    parser.add_argument("--held-out", type=int, help=f"questions of each column (default {Settings.held_out})")
    parser.add_argument("--scales", type=int, nargs="+", help="Dynamic-S2's scales in tiles (default 1 2)")
    parser.add_argument("--max-tiles", type=int, help=f"of the last scale (default {Settings.max_tiles})")
    parser.add_argument("--batch", type=int, help=f"samples of a step (default {Settings.batch})")
    parser.add_argument("--corpus", type=Path, help="a built corpus (default: the full one, else the package's)")
    parser.add_argument(
        "--families",
        nargs="+",
        choices=sorted({family for families in COLUMNS.values() for family in families}),
        help="only these families of the corpus (default drawn, which nvila-mini was trained on)",
    )
    parser.add_argument("--all-families", action="store_true", help="all of them, half of the pictures drawn")
    return parser


if __name__ == "__main__":
    main()
