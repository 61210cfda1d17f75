"""`nvila prune report`: a page and a picture of what scores say."""

from __future__ import annotations

from pathlib import Path

import typer


def add_report_command(app: typer.Typer) -> None:
    """Makes `report` a command of `app`."""
    app.command("report")(report)


def report(
    scores: Path = typer.Argument(..., help="The folder that `nvila prune score` wrote."),
    out: Path = typer.Option(..., help="The page to write (.html); a picture (.png) of the same comes beside it."),
    method: str | None = typer.Option(None, help="What to rank by (default: deltaloss where it is there)."),
    examples: int = typer.Option(6, help="Samples of each kind to show; 0 opens no data."),
    samples: int = typer.Option(200_000, help="Samples that charts are drawn from; totals are always of all."),
    memory: float = typer.Option(2.0, help="Gigabytes to read the scores with."),
) -> None:
    """Show what scores say: kinds of samples with examples, what each ratio would remove, how criteria agree."""
    from nvila.pruning.report.run import ReportOptions, write_report
    from nvila.utils.progress import status

    options = ReportOptions(method=method, num_examples=examples, most_samples=samples, memory_gb=memory)
    with status(f"reading {scores}") as line:
        written = write_report(scores, out, options, on_progress=line.update)
    for path in written:
        print(path)
