"""`nvila eval`: score a model on the held-out tasks or on your own data; a table on standard output, and JSON.

The questions are asked through the engine, as `nvila ask` asks them, so that a score is of what is run: of a quantised
model or of an adapter too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nvila.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nvila.engine import Engine
    from nvila.eval.task import Task
    from nvila.types import Sample

_ADAPTER = "adapter"
"""The name by which the engine knows the one adapter that is scored."""


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """What is scored, and on which questions. Raises ConfigError for options that do not go together."""

    model: str
    adapter: str | None
    tasks: str
    data: str | None
    limit: int | None
    seed: int
    batch_size: int
    max_new_tokens: int
    assets: Path | None
    corpus: Path | None
    card: Path | None

    def __post_init__(self) -> None:
        given = {"--tasks": self.tasks, "--assets": self.assets, "--corpus": self.corpus, "--card": self.card}
        odd = [name for name, value in given.items() if value]
        if self.data is not None and odd:
            raise ConfigError(f"--data asks its own questions, and {odd[0]} belongs to the held-out tasks; give one")


def eval(
    model: str = typer.Option("nvila-mini", help="nvila-mini, a checkpoint folder, or a hub id."),
    adapter: str | None = typer.Option(None, help="What `nvila finetune` made of that model: the folder OUT/adapter."),
    tasks: str = typer.Option("", help="Names of tasks with commas between; all when left out."),
    data: str | None = typer.Option(None, help="Your own data instead, in any format, or a mixture (.toml)."),
    data_format: str | None = typer.Option(None, "--format", help="Format of --data, where it is not recognised."),
    media_root: str | None = typer.Option(None, help="Folder that the media paths of --data are relative to."),
    limit: int | None = typer.Option(None, min=1, help="At most this many samples a task, or of --data."),
    seed: int = typer.Option(0, help="Seed of the held-out samples."),
    batch_size: int = typer.Option(32, min=1, help="Samples answered at a time."),
    max_new_tokens: int = typer.Option(64, min=1, help="Most tokens of an answer to --data; tasks have their own."),
    dtype: str = typer.Option("auto", help="auto, bfloat16, float16 or float32."),
    vision: str | None = typer.Option(None, help="Number format of the vision tower: w8a8."),
    language: str | None = typer.Option(None, help="Number format of the decoder: w4a16."),
    assets: Path | None = typer.Option(
        None, help="Folder of the assets (default: where `nvila data assets` puts them)."
    ),
    corpus: Path | None = typer.Option(
        None, help="Built corpus, whose held-out side is asked about (default: the small one in the package)."
    ),
    out: Path | None = typer.Option(None, help="Write scores, seed, hardware, versions and mistakes here as JSON."),
    card: Path | None = typer.Option(None, help="Write the model card with these scores here (README.md)."),
    readers: Path | None = typer.Option(
        None, help="Results of benchmarks/bench_reading.py, to stand in the card.", exists=True, dir_okay=False
    ),
    recipe: str = typer.Option("recipes/mini/second.toml", help="The recipe that the card names."),
) -> None:
    """Score a model on held-out tasks, or on your own data."""
    settings = EvalSettings(
        model=model,
        adapter=adapter,
        tasks=tasks,
        data=data,
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        assets=assets,
        corpus=corpus,
        card=card,
    )
    samples = None if data is None else _own_questions(settings, data, data_format, media_root)
    chosen = [] if samples else _tasks(settings)
    from nvila.engine import Engine, EngineConfig
    from nvila.utils.atomic import atomic_write_text

    adapters = {} if adapter is None else {_ADAPTER: adapter}
    config = EngineConfig(max_running=batch_size)
    engine = Engine.from_pretrained(
        model, dtype=dtype, vision=vision, language=language, adapters=adapters, config=config
    )
    scores = _on_tasks(settings, engine, chosen) if samples is None else _on_data(settings, engine, samples)
    scores |= {"model": model, "adapter": adapter, "vision": vision, "language": language}
    print(score_table(scores))
    if out is not None:
        atomic_write_text(out, json.dumps(scores, indent=2, ensure_ascii=False) + "\n")
    if card is not None:
        _write_card(card, engine, scores, recipe=recipe, readers=readers, settings=settings)


def _tasks(settings: EvalSettings) -> list[Task]:
    """Those that were named, or all that the corpus has questions for."""
    from nvila.eval.held_out import default_corpus, has_family
    from nvila.eval.tasks import choose_tasks

    chosen = choose_tasks(name.strip() for name in settings.tasks.split(",") if name.strip())
    corpus = settings.corpus or default_corpus()
    return [task for task in chosen if settings.tasks or task.generator or has_family(corpus, task.family)]


def _own_questions(
    settings: EvalSettings, data: str, data_format: str | None, media_root: str | None
) -> tuple[str, Iterator[Sample]]:
    """The name of the data, and their questions."""
    from nvila.data.mixture import data_config
    from nvila.eval.own_data import questions_of

    config = data_config(data, format=data_format, media_root=media_root)
    return config.name, questions_of(config, limit=settings.limit, seed=settings.seed)


def _on_tasks(settings: EvalSettings, engine: Engine, chosen: list[Task]) -> dict[str, Any]:
    from nvila.data.corpus import Assets
    from nvila.eval.runner import engine_answerer, run_tasks

    return run_tasks(
        chosen,
        engine_answerer(engine, settings.adapter and _ADAPTER),
        Assets.load(settings.assets),
        corpus=settings.corpus,
        seed=settings.seed,
        limit=settings.limit,
        batch_size=settings.batch_size,
        on_done=_tell,
    )


def _on_data(settings: EvalSettings, engine: Engine, data: tuple[str, Iterator[Sample]]) -> dict[str, Any]:
    from nvila.eval.own_data import METRICS
    from nvila.eval.runner import circumstances, engine_answerer, score_samples

    name, samples = data
    result = score_samples(
        samples,
        engine_answerer(engine, settings.adapter and _ADAPTER),
        METRICS,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
        name=name,
    )
    return {"seed": settings.seed, "limit": settings.limit, **circumstances(), "tasks": [result]}


def _write_card(
    card: Path, engine: Engine, scores: dict[str, Any], *, recipe: str, readers: Path | None, settings: EvalSettings
) -> None:
    from nvila.data.corpus import Assets
    from nvila.train.export import model_card
    from nvila.utils.atomic import atomic_write_text

    root = Assets.load(settings.assets).root
    text = model_card(
        name=Path(settings.model).name,
        recipe=recipe,
        num_parameters=engine.model.num_parameters(),
        scores=scores,
        manifest=json.loads((root / "manifest.json").read_text(encoding="utf-8"))["sources"],
        readers=None if readers is None else json.loads(readers.read_text(encoding="utf-8")),
    )
    atomic_write_text(card, text)


def score_table(scores: Mapping[str, Any]) -> str:
    """The scores as aligned text: task, metrics, floor, number of samples."""
    lines = [f"{'task':14} {'samples':>7}  {'floor':>5}  metrics"]
    for result in scores["tasks"]:
        metrics = "  ".join(f"{name} {value:.3f}" for name, value in result["metrics"].items())
        floor = "" if result["floor"] is None else f"{result['floor']:.2f}"
        lines.append(f"{result['task']:14} {result['num_samples']:>7}  {floor:>5}  {metrics}")
    return "\n".join(lines)


def _tell(result: Mapping[str, Any]) -> None:
    metrics = "  ".join(f"{name} {value:.3f}" for name, value in result["metrics"].items())
    print(f"nvila: {result['task']}: {metrics} ({result['seconds']} s)", file=sys.stderr)
