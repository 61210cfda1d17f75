"""`nvila quantize MODEL --vision w8a8 --language w4a16 --calib DATA --out DIR`: a checkpoint in 8 and 4 bits."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path

import typer


class Vision(StrEnum):
    """Schemes of the vision tower."""

    w8a8 = "w8a8"


class Language(StrEnum):
    """Schemes of the decoder."""

    w4a16 = "w4a16"


class Head(StrEnum):
    """Schemes of the language head."""

    int8 = "int8"


class Rounding(StrEnum):
    """How weights are rounded."""

    searched = "searched"
    nearest = "nearest"


class Activations(StrEnum):
    """What shares a scale among the tower's activations."""

    auto = "auto"
    token = "token"
    static = "static"


def quantize(
    model: str = typer.Argument("nvila-mini", help="nvila-mini, a checkpoint folder, or a hub id."),
    out: Path = typer.Option(
        ..., help="The folder to write; it must not exist. Layers that are done lie in OUT.parts."
    ),
    vision: Vision | None = typer.Option(None, help="The tower: int8 weights and activations. Default: 16 bits."),
    language: Language | None = typer.Option(None, help="The decoder: int4 weights by AWQ. Default: 16 bits."),
    head: Head | None = typer.Option(None, help="The language head: int8. Default: 16 bits."),
    calib: str | None = typer.Option(None, help="Data of the model's kind in any format, or a mixture (.toml)."),
    samples: int = typer.Option(128, help="Samples to calibrate on."),
    max_tokens: int = typer.Option(2048, help="Longer samples lose turns, or are passed over."),
    max_tiles: int = typer.Option(512, help="Tiles and frames of all samples together; bounds the memory."),
    rounding: Rounding = typer.Option(Rounding.searched, help="nearest: without any search, the baseline."),
    activations: Activations = typer.Option(Activations.auto, help="Scales: a token's, static, or what is no worse."),
    format: str | None = typer.Option(None, help="Name of the records' format (default: told from each record)."),
    media_root: str | None = typer.Option(None, help="Where relative media paths start (default: beside the data)."),
    device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:N."),
    seed: int = typer.Option(0, help="Seed of the choice of samples."),
    max_shard_size: str = typer.Option("5GB", help="Larger weight files are split and indexed."),
) -> None:
    """Quantise a checkpoint, layer by layer; the same command goes on after a stop.

    Embeddings and projector stay as they are. Without --calib, on the small corpus in the package.
    """
    from nvila.errors import ConfigError
    from nvila.quant.options import QuantiseOptions

    options = QuantiseOptions(
        vision=vision.value if vision else None,
        language=language.value if language else None,
        head=head.value if head else None,
        rounding=rounding.value,
        activations=activations.value,
        samples=samples,
        max_tokens=max_tokens,
        max_tiles=max_tiles,
        seed=seed,
    )
    if out.exists():
        raise ConfigError(f"{out}: is already there; choose another name or remove it first")
    from nvila.processing import NVILAProcessor
    from nvila.quant.calibrate import calibration_samples
    from nvila.quant.export import quantise_checkpoint
    from nvila.quant.run import open_checkpoint
    from nvila.utils.device import choose_device
    from nvila.utils.progress import status

    place = choose_device(device)
    source = open_checkpoint(model)
    processor = NVILAProcessor.from_pretrained(source.root)
    with status("reading samples") as line:
        drawn = calibration_samples(
            calib or default_calibration(), processor, options, format=format, media_root=media_root
        )
        report = quantise_checkpoint(
            source, drawn, out, options, device=place, max_shard_size=max_shard_size, on_step=line.update
        )
    before, after = report["bytes"]["before"] / 1e6, report["bytes"]["after"] / 1e6
    print(f"nvila: {out}: {after:.1f} MB, from {before:.1f} MB, on {len(drawn)} samples", file=sys.stderr)


def default_calibration() -> str:
    """The learning side of the small corpus in the package."""
    from importlib.resources import files

    return str(files("nvila") / "assets" / "corpus" / "train")
