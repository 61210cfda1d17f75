"""A model by its name, ready to score: ours on packed rows, any other of transformers on padded batches."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from nvila.errors import CheckpointError
from nvila.layouts import resolve
from nvila.layouts.find import LEGACY_MODEL_TYPE, MODEL_TYPES, read_json
from nvila.pruning.score.batches import Scorer
from nvila.pruning.score.options import RunOptions
from nvila.pruning.score.packed import PackedScorer
from nvila.pruning.score.padded import PaddedScorer
from nvila.pruning.score.spelling import spelling_of
from nvila.utils.device import AUTO, choose_device, choose_dtype

_BLOCKS, _BLOCK_BYTES = 64, 4096
"""How much of a weights file is looked at: so many blocks of so many bytes, evenly over it."""
_LARGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""


def load_scorer(name: str, options: RunOptions) -> Scorer:
    """The model `name` (nvila-mini, a checkpoint folder, a hub id) on the device and in the dtype asked for.

    Raises CheckpointError for what cannot be loaded as an image-text-to-text model of transformers with a processor.
    """
    root = resolve(name)
    device = device_of(options)
    dtype = choose_dtype(options.dtype, device)
    if is_ours(root):
        from nvila.model import NVILAForConditionalGeneration
        from nvila.model.attention import SEGMENTS
        from nvila.processing import NVILAProcessor

        attention = SEGMENTS if device.type == "cpu" else None  # on CPUs the mask of a long row costs more than the row
        own = NVILAForConditionalGeneration.from_pretrained(root, dtype=dtype, attn_implementation=attention).to(device)
        return PackedScorer(own, NVILAProcessor.from_pretrained(root), options)
    from transformers import AutoModelForImageTextToText

    try:
        model = AutoModelForImageTextToText.from_pretrained(root, dtype=dtype, use_safetensors=True).to(device)
    except (ValueError, OSError, ImportError, KeyError) as error:
        raise CheckpointError(f"{name}: cannot be loaded as an image-text-to-text model: {_first(error)}") from error
    return PaddedScorer(model, _processor(name, root), options)


def spelling(name: str) -> str:
    """What `Encoder.spelling` of the model is, told without its weights. Raises CheckpointError as `load_scorer`."""
    root = resolve(name)
    if is_ours(root):
        from nvila.processing import NVILAProcessor

        return spelling_of(NVILAProcessor.from_pretrained(root))
    return spelling_of(_processor(name, root))


def is_ours(root: Path) -> bool:
    """Whether the checkpoint in `root` is an NVILA of any layout. Raises CheckpointError without a config.json."""
    return read_json(root / "config.json").get("model_type") in (*MODEL_TYPES, LEGACY_MODEL_TYPE)


def fingerprint(name: str) -> str:
    """16 hex digits of the weights' headers and of 64 small blocks spread evenly over each file.

    Tells apart checkpoints of one architecture without reading all of their weights. Raises CheckpointError where
    there are none.
    """
    root = resolve(name)
    files = sorted(root.rglob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{root}: holds no *.safetensors; other weights are not read")
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            size = path.stat().st_size
            digest.update(file.read(min(_LARGEST_HEADER, int.from_bytes(file.read(8), "little"))))
            for number in range(_BLOCKS):
                file.seek(number * max(0, size - _BLOCK_BYTES) // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
    digest.update(json.dumps(read_json(root / "config.json"), sort_keys=True).encode())
    return digest.hexdigest()[:16]


def device_of(options: RunOptions) -> Any:
    """The device asked for; "auto" is this process's own GPU under torchrun (LOCAL_RANK)."""
    import torch

    local = os.environ.get("LOCAL_RANK")
    if options.device == AUTO and local is not None and torch.cuda.is_available():
        return choose_device(f"cuda:{int(local) % torch.cuda.device_count()}")
    return choose_device(options.device)


def _processor(name: str, root: Path) -> Any:
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(root)
    except (ValueError, OSError, ImportError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{name}: its processor cannot be made: {_first(error)}; many processors need torchvision, which is not "
            "installed with nvila"
        ) from error
    if "tokenizer" not in vars(processor) or "image_processor" not in vars(processor):
        raise CheckpointError(f"{name}: {type(processor).__name__} takes no pictures with its text; give a VLM")
    return processor


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
