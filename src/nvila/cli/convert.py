"""`nvila convert`: the same checkpoint in another layout, with identical numbers.

Tokenizer files are copied byte for byte into the three-folder layout. A checkpoint whose settings are those of
NVILA-Lite becomes a `nvila_lite` folder, so that engines which know only the published types load it.
"""

from __future__ import annotations

import json
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Any

import typer

TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)


class LayoutName(StrEnum):
    """Layouts that can be written."""

    folders = "folders"
    hf = "hf"


def convert(
    source: str = typer.Argument(..., metavar="SRC", help="A checkpoint: nvila-mini, a folder, or a hub id."),
    target: Path = typer.Argument(..., metavar="DST", help="The folder to write; it must not exist."),
    layout: LayoutName = typer.Option(..., help="folders: llm/ vision_tower/ mm_projector/; hf: one folder."),
    max_shard_size: str = typer.Option("5GB", help="Larger weight files are split and indexed."),
) -> None:
    """Write the checkpoint SRC to DST in another layout."""
    from nvila.utils.atomic import atomic_directory

    with atomic_directory(target) as folder:
        write_layout(source, folder, layout, max_shard_size=max_shard_size)


def write_layout(source: str, folder: Path, layout: str, *, max_shard_size: str = "5GB") -> None:
    """Write the checkpoint `source` into the empty `folder` in a layout, "folders" or "hf".

    Raises CheckpointError or ConfigError for whatever is wrong with the source.
    """
    from nvila.layouts import read_settings, resolve
    from nvila.model import NVILAForConditionalGeneration, NVILALiteForConditionalGeneration
    from nvila.processing import NVILAProcessor

    root = resolve(source)
    settings = read_settings(root)
    is_lite = settings.image_mode == "dynamic" and settings.downsample == 3
    model_class = NVILALiteForConditionalGeneration if is_lite else NVILAForConditionalGeneration
    model = model_class.from_pretrained(root)
    save_layout(model, NVILAProcessor.from_pretrained(root), root, folder, layout, max_shard_size=max_shard_size)


def save_layout(
    model: Any, processor: Any, root: Path, folder: Path, layout: str, *, max_shard_size: str = "5GB"
) -> None:
    """Write a model and its processor into the empty `folder`, with the tokenizer's files of the checkpoint `root`.

    Raises CheckpointError or ConfigError for whatever is wrong with these.
    """
    from nvila.layouts import read_settings
    from nvila.model.checkpoint import save_folders

    settings = read_settings(root)
    if layout == "hf":
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        processor.save_pretrained(folder)
        return
    save_folders(model, folder, max_shard_size=max_shard_size)
    for name in TOKENIZER_FILES:
        if (settings.tokenizer_dir / name).is_file():
            shutil.copyfile(settings.tokenizer_dir / name, folder / "llm" / name)
    preprocessor = json.dumps(published_preprocessor(processor), indent=2, sort_keys=True)
    (folder / "vision_tower" / "preprocessor_config.json").write_text(preprocessor + "\n", encoding="utf-8")


def published_preprocessor(processor: Any) -> dict[str, Any]:
    """The image settings as the three-folder layout names them."""
    images = processor.image_processor
    return {
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(images.image_mean),
        "image_processor_type": "SiglipImageProcessor",
        "image_std": list(images.image_std),
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": images.tile_size, "width": images.tile_size},
    }
