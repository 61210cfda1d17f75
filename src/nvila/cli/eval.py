"""`nvila eval`: score a model on the held-out tasks; a table on standard output, and JSON with all circumstances."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer


def eval(
    model: str = typer.Option("nvila-mini", help="nvila-mini, a checkpoint folder, or a hub id."),
    tasks: str = typer.Option("", help="Names of tasks with commas between; all when left out."),
    limit: int | None = typer.Option(None, min=1, help="At most this many samples a task."),
    seed: int = typer.Option(0, help="Seed of the held-out samples."),
    batch_size: int = typer.Option(32, min=1, help="Samples answered at a time."),
    dtype: str = typer.Option("auto", help="auto, bfloat16, float16 or float32."),
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
    """Score a model on held-out tasks."""
    from nvila.eval.tasks import choose_tasks

    chosen = choose_tasks(name.strip() for name in tasks.split(",") if name.strip())
    from nvila.data.corpus import Assets
    from nvila.eval.held_out import default_corpus, has_family
    from nvila.eval.runner import model_answerer, run_tasks
    from nvila.model import NVILAForConditionalGeneration
    from nvila.processing import NVILAProcessor
    from nvila.utils.atomic import atomic_write_text
    from nvila.utils.device import choose_device, choose_dtype

    corpus = corpus or default_corpus()
    if not tasks:
        chosen = [task for task in chosen if task.generator or has_family(corpus, task.family)]
    device = choose_device()
    processor = NVILAProcessor.from_pretrained(model)
    loaded = NVILAForConditionalGeneration.from_pretrained(model, dtype=choose_dtype(dtype, device)).to(device).eval()
    source = Assets.load(assets)
    scores = run_tasks(
        chosen,
        model_answerer(loaded, processor),
        source,
        model_name=model,
        corpus=corpus,
        seed=seed,
        limit=limit,
        batch_size=batch_size,
        on_done=_tell,
    )
    print(score_table(scores))
    if out is not None:
        atomic_write_text(out, json.dumps(scores, indent=2, ensure_ascii=False) + "\n")
    if card is not None:
        from nvila.train.export import model_card

        manifest = json.loads((source.root / "manifest.json").read_text(encoding="utf-8"))["sources"]
        text = model_card(
            name=Path(model).name,
            recipe=recipe,
            num_parameters=loaded.num_parameters(),
            scores=scores,
            manifest=manifest,
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
