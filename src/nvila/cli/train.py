"""`nvila train RECIPE --out DIR`: train by a recipe, or go on with a training that stopped."""

from __future__ import annotations

from pathlib import Path

import typer


def train(
    recipe: Path = typer.Argument(..., help="A recipe (TOML), such as recipes/mini/first.toml."),
    out: Path | None = typer.Option(None, help="Folder of the run; a run that is there is continued."),
    overrides: list[str] = typer.Option(
        [], "--set", help="section.key=value, such as stage.0.seconds=60 (repeatable)."
    ),
    assets: Path | None = typer.Option(
        None, help="Folder of the training assets (default: where `nvila data assets` puts them)."
    ),
    stop_after: str | None = typer.Option(None, help="Name of the stage behind which to stop."),
    export: Path | None = typer.Option(None, help="Write the checkpoint here when the last stage is done."),
    plan_only: bool = typer.Option(
        False, "--plan", help="Print parameters, memory, operations and time of every stage, and train nothing."
    ),
    gpus: int = typer.Option(1, min=1, help="GPUs that --plan plans for."),
    gpu: str = typer.Option("h100", help="Which GPU: a100, h100, h200, b200, l40s, l4, rtx4090, rtx3090."),
) -> None:
    """Train by a recipe. SIGTERM and Ctrl-C save a checkpoint; the same command goes on from it.

    Start it with torchrun or accelerate for several processes.
    """
    from nvila.config import load
    from nvila.data.corpus import Assets
    from nvila.errors import ConfigError, nearest
    from nvila.train.recipe import Recipe

    plan = load(Recipe, recipe, overrides)
    if plan_only:
        from nvila.train.plan.recipes import plan_text

        print(plan_text(plan, num_gpus=gpus, gpu=gpu), end="")
        return
    if out is None:
        raise ConfigError("give --out, the folder of the run; or --plan, which trains nothing")
    names = [stage.name for stage in plan.stage]
    if stop_after is not None and stop_after not in names:
        raise ConfigError(
            f"--stop-after {stop_after!r} is no stage{nearest(stop_after, names)}; stages: {', '.join(names)}"
        )
    from nvila.utils.logging import PLAIN, set_up

    set_up(text=PLAIN)
    from nvila.train.export import export as write_checkpoint
    from nvila.train.stages import is_finished, process_state, run_recipe
    from nvila.train.start import load_or_build_tokenizer

    needs_assets = assets is not None or any(stage.source for stage in plan.stage)
    source = Assets.load(assets) if needs_assets else None
    learner = run_recipe(plan, out, source, stop_after=stop_after)
    if export is not None and is_finished(plan, out) and process_state().is_main_process:
        size = write_checkpoint(learner.model, load_or_build_tokenizer(out / "tokenizer", source, plan.model), export)
        print(f"{export}: {size / 1e6:.1f} MB of weights")
