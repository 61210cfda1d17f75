"""Quantising a checkpoint layer after layer: memory holds one layer, its copy in few bits, and what flows through it.

Weights stay in their memory-mapped files until their layer's turn. What a layer becomes is written beside the result at
once, so a run that was stopped goes on at the layer where it was; what flows into that layer is computed again through
the layers that are done. Layers see what the quantised layers before them give.

Letters: N tiles, P patches of a tile, C the tower's width, L tokens, H the decoder's width.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from nvila.data.encode import Encoded
from nvila.errors import ConfigError
from nvila.layouts import CheckpointSettings, read_settings, resolve
from nvila.model import NVILAConfig, NVILAForConditionalGeneration, NVILALiteForConditionalGeneration
from nvila.model.checkpoint import check_weights, read_config, read_weights
from nvila.model.fusion import fuse
from nvila.quant.awq import quantise_decoder_layer
from nvila.quant.options import QuantiseOptions
from nvila.quant.w8a8 import int8_layer, quantise_vision_layer, quantised_head
from nvila.utils.atomic import atomic_write_bytes, atomic_write_text

TOWER = "vision_tower.vision_model."
DECODER = "llm.model."
HEAD = "llm.lm_head."
TILES_A_CALL = 8

OnStep = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Source:
    """An unquantised checkpoint, its tensors memory-mapped under their full names."""

    root: Path
    settings: CheckpointSettings
    model_class: Any
    config: NVILAConfig
    weights: dict[str, torch.Tensor]

    @property
    def dtype(self) -> torch.dtype:
        """What its weights are stored in."""
        return self.weights[f"{DECODER}embed_tokens.weight"].dtype

    def skeleton(self) -> Any:
        """The model without any numbers."""
        with torch.device("meta"):
            return self.model_class(self.config).eval()


def open_checkpoint(name: str) -> Source:
    """Opens `nvila-mini`, a folder or a hub id. Raises CheckpointError or ConfigError for whatever is wrong with it,
    and ConfigError where it is quantised already."""
    root = resolve(name)
    settings = read_settings(root)
    is_lite = settings.image_mode == "dynamic" and settings.downsample == 3
    model_class = NVILALiteForConditionalGeneration if is_lite else NVILAForConditionalGeneration
    config = read_config(settings, model_class.config_class)
    if "quantization_config" in vars(config):
        raise ConfigError(f"{root}: is quantised already; give the checkpoint that it was made from")
    weights = read_weights(root, settings)
    config.vision_config.vision_use_head = any(key.startswith(f"{TOWER}head.") for key in weights)
    check_weights(model_class, config, weights, root)
    return Source(root=root, settings=settings, model_class=model_class, config=config, weights=weights)


@torch.no_grad()
def quantise_layers(
    source: Source,
    samples: Sequence[Encoded],
    parts: Parts,
    options: QuantiseOptions,
    *,
    device: torch.device | str = "cpu",
    on_step: OnStep = lambda text: None,
) -> None:
    """Fills `parts` with everything that `options` quantise, going on where they stop."""
    place = torch.device(device)
    model = source.skeleton()
    if options.vision or options.language:
        features = _through_tower(source, model, samples, parts, options, place, on_step)
        if options.language:
            _through_decoder(source, _embedded(source, model, samples, features, place), model, parts, options, on_step)
    if options.head and not parts.has("head"):
        on_step("the head")
        tied = f"{HEAD}weight" not in source.weights
        weight = source.weights[f"{DECODER}embed_tokens.weight" if tied else f"{HEAD}weight"]
        parts.write("head", {HEAD + name: tensor for name, tensor in quantised_head(weight).items()}, {})


class Parts:
    """The folder of layers that are done: a file of tensors by full names for each, and what they belong to."""

    def __init__(self, folder: Path, belongs_to: dict[str, Any]) -> None:
        """Raises ConfigError where the folder belongs to another run."""
        self.folder = folder
        text = json.dumps(belongs_to, indent=2, sort_keys=True) + "\n"
        note = folder / "run.json"
        if note.is_file() and note.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"{folder}: belongs to a run with another model, data or options; remove it, or repeat the old command"
            )
        if not note.is_file():
            atomic_write_text(note, text)

    def has(self, name: str) -> bool:
        return self._path(name).is_file()

    def write(self, name: str, tensors: dict[str, torch.Tensor], notes: dict[str, Any]) -> None:
        """Writes a layer's tensors by full names, whole or not at all."""
        plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        atomic_write_bytes(self._path(name), save(plain, metadata={"notes": json.dumps(notes)}))

    def read(self, name: str) -> dict[str, torch.Tensor]:
        """A layer's tensors, memory-mapped."""
        with safe_open(self._path(name), framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def notes(self) -> dict[str, Any]:
        """What was noted of each layer."""
        found = {}
        for path in self._files():
            with safe_open(path, framework="pt") as file:
                found[path.stem] = json.loads((file.metadata() or {}).get("notes", "{}"))
        return found

    def all_tensors(self) -> dict[str, torch.Tensor]:
        """All layers' tensors by full names, memory-mapped."""
        return {key: tensor for path in self._files() for key, tensor in self.read(path.stem).items()}

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def belongs_to(source: Source, samples: Sequence[Encoded], options: QuantiseOptions) -> dict[str, Any]:
    """What the layers of a run depend on: the options, the samples, and the checkpoint's sizes and config."""
    digest = blake2b(digest_size=16)
    for sample in samples:
        digest.update(sample.input_ids.numpy().tobytes())
        digest.update(_tiles(sample).numpy().tobytes())
    files = sorted(path for path in source.root.rglob("*") if path.suffix in (".safetensors", ".json"))
    sizes = {str(path.relative_to(source.root)): path.stat().st_size for path in files}
    return {"options": asdict(options), "samples": digest.hexdigest(), "files": sizes}


def _restored(empty: nn.Module, weights: dict[str, torch.Tensor], prefix: str, device: torch.device) -> nn.Module:
    """A layer like `empty` with the weights below `prefix`, quantised where they are, and other floats in float32."""
    layer = copy.deepcopy(empty)
    tensors = {name[len(prefix) :]: tensor for name, tensor in weights.items() if name.startswith(prefix)}
    for name, linear in [item for item in layer.named_modules() if type(item[1]) is nn.Linear]:
        replacement = _stored_linear(linear, {key: tensors.get(f"{name}.{key}") for key in _STORED})
        if replacement is not None:
            parent, _, child = name.rpartition(".")
            setattr(layer.get_submodule(parent), child, replacement)
    moved = {
        name: tensor.to(device, torch.float32 if _is_plain_float(name, tensor) else tensor.dtype)
        for name, tensor in tensors.items()
    }
    layer.load_state_dict(moved, assign=True)
    return layer


_STORED = ("weight", "weight_scale", "weight_packed", "weight_zero_point", "bias", "input_scale")


def _is_plain_float(name: str, tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and not name.endswith(("weight_scale", "input_scale"))


def _stored_linear(linear: Any, stored: dict[str, Any]) -> nn.Module | None:
    """An empty quantised layer for these tensors; None for a plain one."""
    from nvila.ops.int4_linear import Int4Linear

    has_bias = linear.bias is not None
    if stored["weight_packed"] is not None:
        group_size = linear.in_features // stored["weight_scale"].shape[1]
        with torch.device("meta"):
            return Int4Linear(linear.in_features, linear.out_features, bias=has_bias, group_size=group_size)
    if stored["weight"] is not None and stored["weight"].dtype == torch.int8:
        return int8_layer(stored["weight"], stored["weight_scale"][:, 0], linear.bias, stored["input_scale"])
    return None


def _within(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _stored_state(layer: nn.Module, prefix: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A layer's tensors by full names, with plain floats in the checkpoint's dtype."""
    state = layer.state_dict()
    return {
        prefix + name: tensor.to(dtype) if _is_plain_float(name, tensor) else tensor for name, tensor in state.items()
    }


def _through_tower(
    source: Source,
    model: Any,
    samples: Sequence[Encoded],
    parts: Parts,
    options: QuantiseOptions,
    device: torch.device,
    on_step: OnStep,
) -> list[torch.Tensor]:
    """Quantises the tower where asked for, and gives the features (n_i, P, C) of each sample's tiles."""
    pixels = [_tiles(sample) for sample in samples]
    whole = [tiles for tiles in pixels if len(tiles)]
    if not whole:
        if options.vision:
            raise ConfigError("no sample that was drawn has a picture or a clip; the vision tower needs some")
        return pixels
    tower = model.vision_tower.vision_model
    embeddings = type(tower.embeddings)(source.config.vision_config)
    embeddings.load_state_dict(
        {k: v.float() for k, v in _within(source.weights, f"{TOWER}embeddings.").items()}, strict=False
    )
    embeddings.to(device).eval()
    interpolate = whole[0].shape[-1] != source.config.vision_config.image_size
    states = [
        embeddings(part.float().to(device), interpolate_pos_encoding=interpolate)
        for part in torch.cat(whole).split(TILES_A_CALL)
    ]
    count = len(tower.encoder.layers)
    select = source.config.vision_select_layer
    last = select if select >= 0 else count + 1 + select
    features = states
    for number in range(count if options.vision else last):
        name, prefix = f"vision-{number:03d}", f"{TOWER}encoder.layers.{number}."
        on_step(f"vision layer {number + 1} of {count}")
        empty = tower.encoder.layers[number]
        if options.vision and not parts.has(name):
            layer = _restored(empty, source.weights, prefix, device)
            notes = quantise_vision_layer(layer, states, options, dtype=source.dtype)
            parts.write(name, _stored_state(layer, prefix, source.dtype), notes)
        layer = _restored(empty, parts.read(name) if options.vision else source.weights, prefix, device)
        for place, x in enumerate(states):
            states[place] = layer(x, None)
        if number == last - 1:
            features = list(states)
    found = torch.cat(features).split([len(tiles) for tiles in pixels])
    return list(found)


def _tiles(sample: Encoded) -> torch.Tensor:
    """(n, 3, S, S): the pictures' tiles and then the clips' frames; (0,) without any."""
    given = [pixels for pixels in (sample.pixel_values, sample.pixel_values_videos) if pixels is not None]
    return torch.cat(given) if given else torch.empty(0)


def _embedded(
    source: Source, model: Any, samples: Sequence[Encoded], features: Sequence[torch.Tensor], device: torch.device
) -> list[torch.Tensor]:
    """What the decoder reads: (1, L, H) of each sample, in float32."""
    projector = _within(source.weights, "mm_projector.")
    model.mm_projector.load_state_dict({name: x.to(device).float() for name, x in projector.items()}, assign=True)
    table = source.weights[f"{DECODER}embed_tokens.weight"]
    found = []
    for sample, tiles in zip(samples, features, strict=True):
        ids = sample.input_ids[None]
        media = (source.config.image_token_id, source.config.video_token_id)
        words = ids.masked_fill((ids == media[0]) | (ids == media[1]), 0)
        x = nn.functional.embedding(words, table).float().to(device)
        num_tiles = 0 if sample.pixel_values is None else len(sample.pixel_values)
        if sample.pixel_values is not None:
            images = model.get_image_features(None, list(sample.block_sizes), tiles[:num_tiles]).pooler_output
            x = fuse(x, ids.to(device), media[0], images, "image")
        if sample.pixel_values_videos is not None:
            clips = model.get_video_features(None, list(sample.video_lengths), tiles[num_tiles:]).pooler_output
            x = fuse(x, ids.to(device), media[1], clips, "video")
        found.append(x)
    return found


def _through_decoder(
    source: Source,
    states: list[torch.Tensor],
    model: Any,
    parts: Parts,
    options: QuantiseOptions,
    on_step: OnStep,
) -> None:
    decoder = model.llm.model
    device = states[0].device
    rotary = type(decoder.rotary_emb)(config=source.config.text_config).to(device)

    def run(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(x.shape[1], device=device)[None]
        y: torch.Tensor = layer(
            x, attention_mask=None, position_ids=positions, position_embeddings=rotary(x, positions)
        )
        return y

    count = len(decoder.layers)
    for number in range(count):
        name, prefix = f"language-{number:03d}", f"{DECODER}layers.{number}."
        on_step(f"language layer {number + 1} of {count}")
        empty = decoder.layers[number]
        if not parts.has(name):
            layer = _restored(empty, source.weights, prefix, device)
            notes = quantise_decoder_layer(layer, run, states, options, dtype=source.dtype)
            parts.write(name, _stored_state(layer, prefix, source.dtype), notes)
        layer = _restored(empty, parts.read(name), prefix, device)
        for place, x in enumerate(states):
            states[place] = run(layer, x)
