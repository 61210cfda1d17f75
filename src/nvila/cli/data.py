"""`nvila data`: fetch the training assets, and look at what the generators draw."""

from __future__ import annotations

from pathlib import Path

import typer

from nvila.cli.data_build import add_build_commands
from nvila.cli.data_check import add_check_command

app = typer.Typer(no_args_is_help=True)
add_check_command(app)
add_build_commands(app)


@app.command("assets")
def assets(
    dest: Path | None = typer.Option(None, help="Folder to make (default: $NVILA_ASSETS or ~/.cache/nvila/assets)."),
) -> None:
    """Fetch fonts, pictures and words that may be redistributed, and prepare them for the generators."""
    from nvila.data.corpus.assets import default_asset_dir
    from nvila.data.corpus.fetch import fetch_assets

    folder = default_asset_dir() if dest is None else dest
    fetch_assets(folder)
    print(folder)


@app.command("preview")
def preview(
    task: str = typer.Argument(..., help="Name of a generator, such as word or naming."),
    out: Path = typer.Option(..., help="The contact sheet to write (PNG)."),
    split: str = typer.Option("train", help="train or heldout."),
    size: tuple[int, int] = typer.Option((112, 112), help="Width and height of each picture in pixels."),
    seed: int = typer.Option(0, help="Seed of the samples."),
    folder: Path | None = typer.Option(None, "--assets", help="Folder of the assets."),
) -> None:
    """Draw a sheet of samples with their questions and answers."""
    from nvila.data.corpus import Assets, generate
    from nvila.data.corpus.preview import cell_of, contact_sheet
    from nvila.errors import ConfigError

    source = Assets.load(folder)
    match split:
        case "train" | "heldout":
            samples = [generate(task, source, split=split, seed=seed, index=index, size=size) for index in range(24)]
        case _:
            raise ConfigError(f"--split is {split!r}; give train or heldout")
    contact_sheet([cell_of(sample) for sample in samples], columns=6).save(out)
    print(out)
