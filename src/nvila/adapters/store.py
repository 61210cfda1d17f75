"""An adapter on disk: what a fine-tuning changed, and which checkpoint it belongs to.

    adapter_config.json, adapter_model.safetensors   LoRA, as peft writes and reads it
    tuned.safetensors                                other weights that learned (layer norms, projector, whole parts),
                                                     as they are after training, float32, under the model's own names
    nvila_adapter.json                               the base's name and fingerprint, the options, the tiling

Weights are stored as they are and not as differences: loading twice does no harm, and nothing is lost to a subtraction.
A folder is read as data alone: JSON and safetensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from nvila import __version__
from nvila import config as config_files
from nvila.adapters.options import AdapterOptions
from nvila.adapters.tune import LORA, lora_config
from nvila.errors import CheckpointError, ConfigError
from nvila.layouts import read_json, read_settings, resolve
from nvila.model.checkpoint import read_weights
from nvila.utils.atomic import atomic_directory

CARD = "nvila_adapter.json"
LORA_WEIGHTS = "adapter_model.safetensors"
TUNED_WEIGHTS = "tuned.safetensors"
FORMAT = 1
_PEFT_PREFIX = "base_model.model."
_SAMPLED = 256
"""Values of each tensor that a fingerprint looks at."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What `nvila_adapter.json` says."""

    base: str
    """The checkpoint's name: a folder, a hub id or nvila-mini."""
    fingerprint: str
    options: AdapterOptions
    train: tuple[str, ...]
    """Parts that were trained."""
    visual: dict[str, int] = field(default_factory=dict)
    """Visual settings that the fine-tuning changed, such as max_tiles."""
    scores: dict[str, float] = field(default_factory=dict)
    """Held-out scores, where there are any."""
    format: int = FORMAT
    nvila: str = __version__


def fingerprint(name: str) -> str:
    """32 hex digits that tell a checkpoint from others of its shapes; the same in any layout, and in wider dtypes.

    From names, shapes and 256 values of each tensor, evenly spaced, so that tens of gigabytes take seconds.
    """
    root = resolve(name)
    weights = read_weights(root, read_settings(root))
    digest = hashlib.blake2b(digest_size=16)
    for key in sorted(weights):
        if key == "llm.lm_head.weight":  # not stored where it is tied
            continue
        values = weights[key].flatten()
        sampled = values[:: max(1, len(values) // _SAMPLED)][:_SAMPLED].float()
        digest.update(f"{key} {list(weights[key].shape)}\n".encode() + sampled.numpy().tobytes())
    return digest.hexdigest()


def learned_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights that learn, by their names in the model."""
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def save_adapter(model: Any, card: Card, folder: Path) -> None:
    """Writes what learns in `model` into `folder`, which is replaced when everything is written.

    Raises OSError or CheckpointError when it cannot be written; nothing is changed then.
    """
    learned = learned_weights(model)
    lora = {_peft_name(name): weight for name, weight in learned.items() if LORA in name}
    tuned = {name: weight for name, weight in learned.items() if LORA not in name}
    with atomic_directory(folder, overwrite=True) as work:
        if lora:
            lora_config(model.config, card.options, base=card.base).save_pretrained(work)
            write_tensors(lora, work / LORA_WEIGHTS, folder)
        if tuned:
            write_tensors(tuned, work / TUNED_WEIGHTS, folder)
        (work / CARD).write_text(json.dumps(asdict(card), indent=2) + "\n", encoding="utf-8")


def write_tensors(tensors: Mapping[str, torch.Tensor], path: Path, called: Path) -> None:
    """safetensors at `path`; `called` names it in the CheckpointError of a full disk."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(whole, path, metadata={"format": "pt"})
    except SafetensorError as error:
        size = sum(tensor.nbytes for tensor in whole.values())
        raise CheckpointError(
            f"{called}: cannot be written ({error}); it needs {size:,} bytes, free some or give another --out"
        ) from error


def read_card(folder: Path) -> Card:
    """The card of an adapter. Raises CheckpointError for a folder that is none, or of a newer format."""
    if not (folder / CARD).is_file():
        raise CheckpointError(f"{folder}: is no adapter of ours, it has no {CARD}; give the folder OUT/adapter")
    values = read_json(folder / CARD)
    if values.get("format") != FORMAT:
        raise CheckpointError(f"{folder / CARD}: has format {values.get('format')!r}, and this version reads {FORMAT}")
    try:
        return config_files.build(Card, values, where=str(folder / CARD))
    except ConfigError as error:
        raise CheckpointError(f"{error}; restore the file") from error


def check_base(card: Card, folder: Path, base: str, *, found: str | None = None) -> None:
    """Raises CheckpointError when `base`, with the fingerprint `found`, is not what the adapter was trained on."""
    found = found or fingerprint(base)
    if found != card.fingerprint:
        raise CheckpointError(
            f"{folder}: is an adapter of {card.base} ({card.fingerprint}), but the base is {base} ({found}); "
            f"give --model {card.base}"
        )


def read_lora(folder: Path) -> dict[str, torch.Tensor]:
    """The matrices of low rank by their names in a model with LoRA."""
    return {_own_name(name): tensor for name, tensor in _read(folder / LORA_WEIGHTS).items()}


def read_tuned(folder: Path) -> dict[str, torch.Tensor]:
    """Other weights that learned, by their names in the model; none where the file is not there."""
    return _read(folder / TUNED_WEIGHTS) if (folder / TUNED_WEIGHTS).is_file() else {}


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: missing or damaged ({error}); copy the adapter again") from error


def _peft_name(name: str) -> str:
    """a.b.lora_A.default.weight as peft stores it: base_model.model.a.b.lora_A.weight."""
    return _PEFT_PREFIX + name.replace(".default.", ".")


def _own_name(name: str) -> str:
    stem, _, last = name.removeprefix(_PEFT_PREFIX).rpartition(".")
    return f"{stem}.default.{last}"
