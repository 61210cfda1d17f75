"""`nvila finetune DATA --model M --out DIR`: adapt a checkpoint to a domain, and `--merge` what came of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from nvila.train.finetune.run import Prepared


class Vision(StrEnum):
    """What learns in the vision tower."""

    ln = "ln"
    lora = "lora"
    full = "full"
    frozen = "frozen"


class Language(StrEnum):
    """What learns in the decoder."""

    lora = "lora"
    qlora = "qlora"
    full = "full"
    frozen = "frozen"


class Projector(StrEnum):
    """What learns in the projector."""

    full = "full"
    frozen = "frozen"


class TooLong(StrEnum):
    """What becomes of samples over the limit."""

    error = "error"
    drop = "drop"
    truncate = "truncate"


class BestBy(StrEnum):
    """Which held-out score decides."""

    exact = "exact"
    loss = "loss"


class Layout(StrEnum):
    """Layouts of a merged checkpoint."""

    folders = "folders"
    hf = "hf"


def finetune(
    data: str | None = typer.Argument(None, help="Data in any format, or a mixture (.toml). Not with --merge."),
    model: str | None = typer.Option(None, help="nvila-mini (the default), a checkpoint folder, or a hub id."),
    out: Path | None = typer.Option(None, help="Folder of the run; a run that is there is continued."),
    vision: Vision = typer.Option(Vision.ln, help="What learns in the vision tower; ln: its layer norms."),
    language: Language = typer.Option(Language.lora, help="What learns in the decoder; qlora: LoRA on 4 bits."),
    projector: Projector = typer.Option(Projector.full, help="What learns in the projector."),
    lr: float | None = typer.Option(None, help="Learning rate of decoder and projector (default: 1e-4, full: 2e-5)."),
    lr_ratio: float = typer.Option(10.0, help="How many times smaller the vision tower's is."),
    rank: int = typer.Option(16, help="Rank of LoRA; its alpha is twice that."),
    epochs: float = typer.Option(1.0, help="How often the data are gone through."),
    batch: int = typer.Option(16, help="Samples of an optimiser step."),
    max_tiles: int | None = typer.Option(None, help="Most tiles of a picture, in training and afterwards."),
    max_tokens: int | None = typer.Option(None, help="Most tokens of a sample (default: the model's, at most 4096)."),
    too_long: TooLong = typer.Option(TooLong.error, help="Samples over it: refuse, leave out, or cut whole turns."),
    packing: bool = typer.Option(True, help="Let short samples share rows without seeing each other."),
    eval: str | None = typer.Option(None, help="Held-out data: scored before, during and after; the best is kept."),
    eval_every: int = typer.Option(0, help="Steps between held-out scores (default: a fifth of the training)."),
    eval_samples: int = typer.Option(256, help="Most held-out samples that are scored."),
    best_by: BestBy = typer.Option(BestBy.exact, help="Which held-out score decides."),
    sweep_lr_ratio: str | None = typer.Option(None, help="Try these ratios, such as 1,5,10,50, and keep the best."),
    format: str | None = typer.Option(None, help="Name of the records' format (default: told from each record)."),
    media_root: str | None = typer.Option(None, help="Where relative media paths start (default: beside the data)."),
    seed: int = typer.Option(0, help="Seed of the order of samples and of LoRA's start."),
    overrides: list[str] = typer.Option([], "--set", help="Any value of the recipe: stage.0.key=value (repeatable)."),
    plan_only: bool = typer.Option(False, "--plan", help="Look at the data, print the plan, and train nothing."),
    memory: float | None = typer.Option(None, help="Plan for so many GB of memory in place of what is free."),
    force: bool = typer.Option(False, "--force", help="Go on with broken samples left out, and where memory is short."),
    merge: Path | None = typer.Option(None, help="Merge this adapter into its base, and write that to --out."),
    layout: Layout = typer.Option(Layout.hf, help="Layout of the merged checkpoint."),
    dtype: str | None = typer.Option(None, help="Of the merged checkpoint: float32, bfloat16 (default: the base's)."),
) -> None:
    """Fine-tune a checkpoint: LoRA on the decoder, layer norms on the vision tower, unless told otherwise.

    SIGTERM and Ctrl-C save a checkpoint; the same command goes on from it.
    """
    from nvila.errors import ConfigError

    if merge is not None:
        if data is not None or out is None:
            raise ConfigError("--merge ADAPTER takes no data, and needs --out, the folder of the merged checkpoint")
        write_merged(merge, out, model=model, layout=layout.value, dtype=dtype)
        return
    if data is None:
        raise ConfigError("give the data to learn from, or --merge ADAPTER")
    if out is None:
        raise ConfigError("give --out, the folder of the run")
    from nvila.utils.logging import PLAIN, set_up

    set_up(text=PLAIN)
    # Heads that a run has no use for.
    warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
    from nvila.train.finetune.options import FinetuneOptions, parse_ratios
    from nvila.train.stages import process_state

    tell = print if process_state().is_main_process else _say_nothing
    from nvila.train.finetune.run import prepare

    options = FinetuneOptions(
        data=data,
        model=model or FinetuneOptions.model,
        format=format,
        media_root=media_root,
        vision=vision.value,
        language=language.value,
        projector=projector.value,
        lr=lr,
        lr_ratio=lr_ratio,
        rank=rank,
        epochs=epochs,
        batch=batch,
        max_tokens=max_tokens,
        max_tiles=max_tiles,
        packing=packing,
        too_long=too_long.value,
        eval=eval,
        eval_every=eval_every,
        eval_samples=eval_samples,
        best_by=best_by.value,
        seed=seed,
    )
    ratios = None if sweep_lr_ratio is None else parse_ratios(sweep_lr_ratio)
    room = None if memory is None else int(memory * 1e9)
    prepared = prepare(options, out, overrides=overrides, force=force, memory=room, tell=tell)
    if not plan_only:
        train(prepared, out, ratios, tell)


def train(prepared: Prepared, out: Path, ratios: tuple[float, ...] | None, tell: Callable[[str], None]) -> None:
    """Fine-tunes once, or with each ratio, and tells the scores and where the adapter is."""
    from nvila.train.finetune.run import run
    from nvila.train.finetune.sweep import sweep

    if ratios is not None:
        found = sweep(prepared, ratios, out, tell=tell)
        tell(found.text())
        adapter = found.adapter
    else:
        result = run(prepared, out, tell=tell)
        tell(score_text(result))
        adapter = result.adapter
    if adapter is not None:
        model = prepared.options.model
        tell(f"{adapter}\nnvila ask --model {model} --adapter {adapter} --image PICTURE QUESTION")


def score_text(result: Any) -> str:
    """The held-out scores as aligned text, the best marked; and a warning where nothing was gained."""
    if not result.scores:
        return ""
    lines = [f"{'step':>8}  {'exact':>6}  {'loss':>8}"]
    for score in result.scores:
        mark = "  kept" if score == result.best else ""
        lines.append(f"{score.step:>8,}  {score.exact:>6.3f}  {score.loss:>8.4f}{mark}")
    first = result.scores[0]
    if result.best is not None and result.best.exact < first.exact and result.best.loss > first.loss:
        lines.append("no step scored better than the model before; try a smaller --lr, or more data")
    return "\n".join(lines)


def write_merged(adapter: Path, out: Path, *, model: str | None, layout: str, dtype: str | None) -> None:
    """Merges, reports what that changed, and writes the checkpoint. Raises CheckpointError or ConfigError."""
    from nvila.adapters.export import load_merged
    from nvila.cli.convert import save_layout
    from nvila.layouts import resolve
    from nvila.train.finetune.run import disk_errors
    from nvila.utils.atomic import atomic_directory
    from nvila.utils.device import choose_device, choose_dtype

    with atomic_directory(out) as folder:
        kind = None if dtype is None else choose_dtype(dtype, choose_device("cpu"))
        merged = load_merged(adapter, base=model, dtype=kind)
        print(merged.text())
        with disk_errors(out):
            save_layout(merged.model, merged.processor, resolve(model or merged.card.base), folder, layout)
    print(out)


def _say_nothing(text: str) -> None:
    """What ranks but the first say."""
