"""`nvila data check`: read a whole data set, and list everything that is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import typer

EXIT_PROBLEMS = 1


def add_check_command(app: typer.Typer) -> None:
    """Makes `check` a command of `app`."""
    app.command("check")(check)


def check(
    path: str = typer.Argument(..., help="A data file, a folder or pattern of them, or an fsspec URL."),
    format: str | None = typer.Option(None, help="Name of the records' format (default: told from each record)."),
    media_root: str | None = typer.Option(None, help="Where relative media paths start (default: beside the data)."),
    workers: int | None = typer.Option(None, min=0, help="Processes to read with (default: one per processor)."),
    max_tokens: int | None = typer.Option(None, min=1, help="Samples of more tokens than this are problems."),
    model: str = typer.Option("nvila-mini", help="The checkpoint whose tokens --max-tokens counts."),
    report: Path | None = typer.Option(None, help="Write all counts and problems here as JSON."),
) -> None:
    """Read a whole data set and list its problems; the exit status is 1 when there are any."""
    from nvila.data.check import ProcessorCounter, check_data, summary
    from nvila.utils.atomic import atomic_write_text
    from nvila.utils.progress import status

    counter = None if max_tokens is None else ProcessorCounter(model)
    with status(f"opening {path}") as line:
        found = check_data(
            path,
            format=format,
            media_root=media_root,
            workers=workers,
            max_tokens=max_tokens,
            counter=counter,
            on_progress=lambda done, total, problems: line.update(
                f"checked {done:,} of {total:,} samples, {problems:,} problems"
            ),
        )
    if report is not None:
        atomic_write_text(report, json.dumps(found.as_json(), indent=2, ensure_ascii=False) + "\n")
    print(summary(found))
    if found.problems:
        raise typer.Exit(EXIT_PROBLEMS)
