"""A fine-tuned checkpoint whole again: the adapter merged into its base, checked, and written in any layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nvila.adapters import nf4, store, tune
from nvila.adapters.merge import Difference, attach_saved, difference, merge_in_place, probe_inputs, probe_logits
from nvila.adapters.store import Card
from nvila.errors import ConfigError
from nvila.layouts import read_settings, resolve
from nvila.model import NVILAForConditionalGeneration, NVILALiteForConditionalGeneration
from nvila.processing import NVILAProcessor


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A merged model with its processor, and what merging changed."""

    model: Any
    processor: Any
    card: Card
    dtype: torch.dtype
    change: Difference
    """From the model with the adapter beside its weights, as it was trained, to the merged one."""
    nf4_error: float | None = None
    """What rounding to 4 bits had changed in the decoder's matrices before the training; None without."""

    def text(self) -> str:
        """As a line for people."""
        name = str(self.dtype).removeprefix("torch.")
        lines = [f"merging in {name} changed logits by: {self.change.text()}"]
        if self.nf4_error is not None:
            lines.append(
                f"the decoder's matrices are those of the training, rounded to 4 bits: {self.nf4_error:.1%} (root mean "
                "square) from the base's"
            )
        return "\n".join(lines)


def load_merged(folder: Path, *, base: str | None = None, dtype: torch.dtype | None = None) -> Merged:
    """The adapter in `folder` merged into its base (default: the one that it names) in `dtype` (default: the base's).

    Raises CheckpointError for another base, ConfigError for a dtype that is none of 16 or 32 bits.
    """
    card = store.read_card(folder)
    name = base or card.base
    store.check_base(card, folder, name)
    settings = read_settings(resolve(name))
    is_lite = settings.image_mode == "dynamic" and settings.downsample == 3
    model_class = NVILALiteForConditionalGeneration if is_lite else NVILAForConditionalGeneration
    model = model_class.from_pretrained(name, dtype="auto")
    kind = model.get_input_embeddings().weight.dtype if dtype is None else dtype
    if kind not in (torch.float32, torch.bfloat16, torch.float16):
        raise ConfigError(f"{name}: is stored in {kind}; give --dtype float32 or bfloat16")
    rounding = nf4_error(model) if card.options.language == "qlora" else None
    attach_saved(model, folder)
    processor = load_processor(name, card)
    inputs = probe_inputs(processor, model)
    if kind == torch.float32:
        for parameter in model.parameters():
            parameter.data = parameter.data.float()
    before = probe_logits(model, inputs, kind)
    merge_in_place(model, kind)
    after = probe_logits(model, inputs, kind)
    change = difference(before, after)
    return Merged(model=model, processor=processor, card=card, dtype=kind, change=change, nf4_error=rounding)


def load_processor(base: str, card: Card) -> Any:
    """The base's processor with the visual settings that the fine-tuning changed."""
    changed = {"num_frames" if name == "num_video_frames" else name: value for name, value in card.visual.items()}
    return NVILAProcessor.from_pretrained(base, **changed)


def nf4_error(model: Any) -> float:
    """Root mean square of what rounding the decoder's matrices to NF4 changes, as a part of their own; the mean."""
    errors = [nf4.relative_error(model.get_submodule(name)) for name in tune.matching(model, tune.LANGUAGE_LINEARS)]
    return sum(errors) / len(errors)
