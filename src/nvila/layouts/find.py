"""Where a checkpoint lies: a name, a path or a hub id becomes a local folder of a known layout.

Configuration files are data: nothing in them is ever evaluated, imported or followed.
"""

from __future__ import annotations

import json
import os
import re
from importlib import resources
from pathlib import Path
from typing import Any

from nvila.errors import CheckpointError, nearest
from nvila.layouts.settings import Layout

MINI = "nvila-mini"
FOLDERS = ("llm", "vision_tower", "mm_projector")
LEGACY_MODEL_TYPE = "llava_llama"
MODEL_TYPES = ("nvila", "nvila_lite")
PLACEHOLDERS = ("<vila/sentinel>", "<image>", "<vila/video>")
"""Tokens that every checkpoint's tokenizer has or is given, in the order in which they are added."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]


def resolve(name: str | os.PathLike[str], **hub_kwargs: Any) -> Path:
    """The local folder of a checkpoint: `nvila-mini`, a path, or a hub id (downloaded, or found in the local cache).

    `hub_kwargs` go to `huggingface_hub.snapshot_download` (revision, cache_dir, token, local_files_only ...).
    Only JSON, text and safetensors files are fetched. Raises CheckpointError when there is no such checkpoint.
    """
    text = os.fspath(name)
    if text == MINI:
        return Path(str(resources.files("nvila"))) / "assets" / MINI
    path = Path(text)
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{text}: is a file; give the folder of a checkpoint")
    if not _HUB_ID.fullmatch(text):
        raise CheckpointError(f"{text}: no such folder; give a checkpoint folder, a hub id (owner/name), or {MINI!r}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = {key: value for key, value in hub_kwargs.items() if value is not None}
    try:
        return Path(snapshot_download(text, allow_patterns=_HUB_FILES, **wanted))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{text}: not a folder here, and not to be had from the hub ({reason}); check the name or the network"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises CheckpointError naming the file when it is missing or no JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; a checkpoint folder needs it") from error
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error}); restore the file") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a JSON {type(value).__name__}, not an object")
    return value


def detect(root: Path) -> Layout:
    """Which layout the folder has. Raises CheckpointError when it has none of them, naming what is missing."""
    config = read_json(root / "config.json")
    model_type = config.get("model_type")
    if model_type in MODEL_TYPES:
        return "hf"
    if model_type == LEGACY_MODEL_TYPE:
        missing = [name for name in FOLDERS if not (root / name / "config.json").is_file()]
        if missing:
            raise CheckpointError(
                f"{root}: a three-folder checkpoint lacks {', '.join(f'{name}/config.json' for name in missing)}"
            )
        return "folders"
    known = (*MODEL_TYPES, LEGACY_MODEL_TYPE)
    hint = nearest(str(model_type), known)
    raise CheckpointError(f"{root / 'config.json'}: model_type is {model_type!r}, not one of {', '.join(known)}{hint}")
