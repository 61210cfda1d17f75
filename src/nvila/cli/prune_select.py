"""`nvila prune select`: from scores to the lists of what stays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from nvila.pruning.select import Selection


def add_select_command(app: typer.Typer) -> None:
    """Makes `select` a command of `app`."""
    app.command("select")(select)


def select(
    scores: Path = typer.Argument(..., help="The folder that `nvila prune score` wrote."),
    out: Path = typer.Option(..., help="Folder to make: a keep-list a source, one of all, a summary and a mixture."),
    method: str = typer.Option(
        "deltaloss",
        help="What to rank by: deltaloss, deltaloss_mean, image_gain, image_gain_mean, random, cluster, coverage.",
    ),
    keep: float = typer.Option(0.5, help="Share of the scored samples to keep."),
    source: list[str] = typer.Option([], help="NAME=RATIO: another share for one source; 0 leaves it out. Repeatable."),
    per_source: bool = typer.Option(
        True, "--per-source/--global", help="Take the best of each source (equation 1), or of all in one ranking."
    ),
    unscored: str = typer.Option("keep", help="keep or drop what has no score: text-only, too long, unreadable, ..."),
    memory: float = typer.Option(2.0, help="Gigabytes to stay within; what does not fit goes through files."),
    threads: int | None = typer.Option(None, help="Threads to sort with (default: one per processor)."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace the folder --out."),
) -> None:
    """Choose samples by their scores, and write the lists that a mixture's `keep` reads."""
    from nvila.pruning.select.options import SelectOptions, Unscored, parse_ratios
    from nvila.pruning.select.run import select as run
    from nvila.utils.progress import status

    rule: Unscored = unscored  # type: ignore[assignment]  # checked by SelectOptions
    options = SelectOptions(
        method=method,
        keep=keep,
        ratios=parse_ratios(source),
        per_source=per_source,
        unscored=rule,
        memory_gb=memory,
        threads=threads,
    )
    with status(f"reading {scores}") as line:
        selection = run(scores, out, options, overwrite=overwrite, on_progress=line.update)
    print(selection_table(selection))
    print(f"train on it with the mixture {out / 'mixture.toml'}")


def selection_table(selection: Selection) -> str:
    """What was kept of each source, as aligned text."""
    width = max(6, *(len(_shown(source.name)) for source in selection.sources))
    lines = [f"{'source':{width}} {'samples':>13} {'kept':>13} {'share':>6} {'unscored':>9} {'tokens':>7}  cut-off"]
    for one in selection.sources:
        cutoff = "-" if one.cutoff is None else f"{one.cutoff:.4g}"
        lines.append(
            f"{_shown(one.name):{width}} {one.num_samples:>13,} {one.num_kept:>13,} "
            f"{_share(one.num_kept, one.num_samples):>6} {one.num_kept_unscored:>9,} "
            f"{_share(one.num_tokens_kept, one.num_tokens):>7}  {cutoff}"
        )
    whole = _share(selection.num_kept, selection.num_samples)
    lines.append(f"{'all':{width}} {selection.num_samples:>13,} {selection.num_kept:>13,} {whole:>6}")
    return "\n".join(lines)


def _shown(name: str) -> str:
    """A name of the data's as it may go to a terminal: no control characters, not too long."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)[:40]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
