"""Several fine-tuned variants of one base, served beside each other by name.

What an adapter adds to the decoder's matrices is computed beside them (`low_rank`), so that requests with different
adapters share every step. What it changed in the tower and in the projector takes the base's place while its pictures
are encoded: layer norms and a projector are small, so each adapter holds its own.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nvila.adapters import store
from nvila.adapters.export import load_processor
from nvila.engine.low_rank import PLACES, DecoderAdapter, LayerAdapter, LowRankPart
from nvila.errors import CheckpointError, ConfigError, nearest

_LOG = logging.getLogger(__name__)
_DECODER_LAYER = re.compile(r"llm\.model\.layers\.(\d+)\.(.+)")

Pair = tuple[torch.Tensor, torch.Tensor]
"""LoRA's two matrices of one linear layer, (r, H) and (O, r), the scale in the second."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """One adapter, ready to serve."""

    decoder: DecoderAdapter
    vision: Mapping[str, torch.Tensor]
    """Weights of the tower and the projector that replace the base's, by their names in the model."""
    processor: Any
    salt: bytes
    """Keeps what is remembered of its requests apart from that of others."""


class Adapters:
    """The adapters of one engine by name. Changing them does not touch requests that are under way."""

    def __init__(self, model: Any, processor: Any, lock: threading.RLock) -> None:
        self._model = model
        self._processor = processor
        self._lock = lock
        self._found: dict[str, Adapter] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._found))

    def __len__(self) -> int:
        return len(self._found)

    def add(self, name: str, folder: str | Path) -> None:
        """Serve the adapter in `folder`, the OUT/adapter of `nvila finetune`, by `name`; one of that name is replaced.

        Raises CheckpointError for a folder that is no adapter, or one of another base; ConfigError where it changed
        what an engine does not hold twice: the decoder's own weights, or matrices that were rounded to 8 bits.
        """
        folder, base = Path(folder), self._model.name_or_path
        card = store.read_card(folder)
        if not base:
            raise ConfigError(f"{folder}: the engine's model comes from no checkpoint; use Engine.from_pretrained")
        store.check_base(card, folder, base, found=self._fingerprint)
        if card.options.language == "qlora":
            _LOG.warning("%s: learned beside matrices in 4 bits, and is added to those of %s itself", folder, base)
        with self._lock, torch.no_grad():
            scale = card.options.alpha / card.options.rank
            pairs = _pairs(store.read_lora(folder), scale) if card.options.has_lora else {}
            adapter = Adapter(
                decoder=_decoder_adapter(self._model, pairs, folder),
                vision=_vision_weights(self._model, pairs, store.read_tuned(folder), folder),
                processor=load_processor(base, card) if card.visual else self._processor,
                salt=secrets.token_bytes(16),
            )
            self._found[name] = adapter

    def remove(self, name: str) -> None:
        """Serve no new requests by `name`. Raises ConfigError for a name that is not known."""
        self.get(name)
        with self._lock:
            del self._found[name]

    def get(self, name: str) -> Adapter:
        """The adapter of that name. Raises ConfigError for a name that is not known."""
        found = self._found.get(name)
        if found is None:
            known = ", ".join(self._found) or "none"
            raise ConfigError(f"there is no adapter {name!r}{nearest(name, self._found)}; known are: {known}")
        return found

    @contextmanager
    def encoding(self, adapter: Adapter | None) -> Iterator[None]:
        """Within it the model's tower and projector are those of `adapter`; the engine's lock is held."""
        changed = {} if adapter is None else adapter.vision
        weights = {name: self._parameters[name] for name in changed}
        originals = {name: weight.data for name, weight in weights.items()}
        try:
            for name, weight in weights.items():
                weight.data = changed[name]
            yield
        finally:
            for name, weight in weights.items():
                weight.data = originals[name]

    @cached_property
    def _parameters(self) -> dict[str, nn.Parameter]:
        return dict(self._model.named_parameters())

    @cached_property
    def _fingerprint(self) -> str:
        return store.fingerprint(self._model.name_or_path)


def _pairs(lora: Mapping[str, torch.Tensor], scale: float) -> dict[str, Pair]:
    """By the names of linear layers."""
    ends = (".lora_A.default.weight", ".lora_B.default.weight")
    names = [name.removesuffix(ends[0]) for name in lora if name.endswith(ends[0])]
    return {name: (lora[name + ends[0]], lora[name + ends[1]] * scale) for name in names}


def _decoder_adapter(model: Any, pairs: Mapping[str, Pair], folder: Path) -> DecoderAdapter:
    layers: list[dict[str, Pair]] = [{} for _ in model.llm.model.layers]
    for name, pair in pairs.items():
        match = _DECODER_LAYER.fullmatch(name)
        if match and int(match[1]) < len(layers):
            layers[int(match[1])][match[2]] = pair
    return DecoderAdapter(
        tuple(_layer_adapter(layer, found, folder) for layer, found in zip(model.llm.model.layers, layers, strict=True))
    )


def _layer_adapter(layer: Any, pairs: Mapping[str, Pair], folder: Path) -> LayerAdapter:
    """The pairs of one layer where the fused layers have their outputs."""
    norm = layer.input_layernorm.weight
    added: dict[Any, list[LowRankPart]] = {}
    for place, names in PLACES.items():
        begin = 0
        for name in names:
            linear = layer.get_submodule(name)
            if name in pairs:
                down, up = (matrix.to(norm.device, norm.dtype) for matrix in pairs[name])
                if (down.shape[1], up.shape[0]) != (linear.in_features, linear.out_features):
                    raise _misfit(folder, name)
                added.setdefault(place, []).append(LowRankPart(begin, down, up))
            begin += linear.out_features
    return added


def _vision_weights(
    model: Any, pairs: Mapping[str, Pair], tuned: Mapping[str, torch.Tensor], folder: Path
) -> dict[str, torch.Tensor]:
    """What replaces weights of the tower and the projector, in their dtypes."""
    own = next((name for name in tuned if name.startswith("llm.")), None)
    if own is not None:
        raise ConfigError(
            f"{folder}: trained the decoder's own weights ({own}), which an engine holds once; make a checkpoint of "
            f"it by nvila finetune --merge {folder} --out DIR, and serve that"
        )
    parameters = dict(model.named_parameters())
    given = dict(tuned)
    for name, (down, up) in pairs.items():
        if not name.startswith("llm."):
            weight = parameters.get(f"{name}.weight")
            if weight is None:
                raise _rounded(folder, name)
            given[f"{name}.weight"] = weight.detach().float().cpu() + up.float() @ down.float()
    for name, weight in given.items():
        if name not in parameters:
            raise _rounded(folder, name)
        if weight.shape != parameters[name].shape:
            raise _misfit(folder, name)
    return {name: weight.to(parameters[name].device, parameters[name].dtype) for name, weight in given.items()}


def _rounded(folder: Path, name: str) -> ConfigError:
    return ConfigError(
        f"{folder}: changes {name}, which this engine does not hold as it was trained; open the engine without "
        "vision='w8a8', or merge the adapter first (nvila finetune --merge)"
    )


def _misfit(folder: Path, name: str) -> CheckpointError:
    return CheckpointError(f"{folder}: {name} has not the shape of its base's; copy the adapter again")
