"""The folder of a quantised model: one folder of the `hf` layout, in the compressed-tensors format.

`quantization_config` names groups of layers by patterns that hold for our names, those of the decoder alone, and the
ones that serving engines give the same layers. Every other layer is in 16 bits as it was.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file

from nvila.data.encode import Encoded
from nvila.model.checkpoint import INDEX, WEIGHTS, read_generation_config
from nvila.model.quantised import QUANT_METHOD
from nvila.processing import NVILAProcessor
from nvila.quant.options import QuantiseOptions
from nvila.quant.run import HEAD, OnStep, Parts, Source, belongs_to, quantise_layers
from nvila.utils.atomic import atomic_directory

REPORT = "quantisation.json"
_INT8_WEIGHTS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
_INT8_TOKENS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
_INT8_TENSOR = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "tensor", "dynamic": False}


def quantise_checkpoint(
    source: Source,
    samples: list[Encoded],
    out: Path,
    options: QuantiseOptions,
    *,
    device: torch.device | str = "cpu",
    max_shard_size: str = "5GB",
    on_step: OnStep = lambda text: None,
) -> dict[str, Any]:
    """Quantises `source` on `samples` into the new folder `out`, and gives the report that is written there too.

    Layers that are done lie in `out` + ".parts" until the whole is; the same call goes on from them.
    """
    parts = Parts(out.with_name(out.name + ".parts"), belongs_to(source, samples, options))
    quantise_layers(source, samples, parts, options, device=device, on_step=on_step)
    on_step("writing")
    with atomic_directory(out) as folder:
        report = write_quantised(source, parts, folder, options, max_shard_size=max_shard_size)
    parts.remove()
    return report


def write_quantised(
    source: Source, parts: Parts, folder: Path, options: QuantiseOptions, *, max_shard_size: str = "5GB"
) -> dict[str, Any]:
    """Writes the model with the layers of `parts` into the empty `folder`, and gives the report."""
    quantised = parts.all_tensors()
    replaced = {_layer_of(name) for name in quantised if name != HEAD + "weight"}
    kept = {name: tensor for name, tensor in source.weights.items() if _layer_of(name) not in replaced}
    tensors = {**kept, **quantised}
    _save(tensors, folder, max_shard_size)
    config = source.config
    if options.head:
        config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    config.dtype = source.dtype
    config.architectures = [source.model_class.__name__]
    config.quantization_config = quantization_config(tensors)
    config.save_pretrained(folder)
    read_generation_config(source.settings).save_pretrained(folder)
    NVILAProcessor.from_pretrained(source.root).save_pretrained(folder)
    before = sum(tensor.nbytes for tensor in source.weights.values())
    report = {
        "bytes": {"before": before, "after": sum(tensor.nbytes for tensor in tensors.values())},
        "options": asdict(options),
        "layers": parts.notes(),
    }
    (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def quantization_config(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What config.json says of these tensors, in the terms of compressed-tensors."""
    groups: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    plain = []
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if kind == "weight_packed":
            size = tensor.shape[1] * 8 // tensors[f"{layer}.weight_scale"].shape[1]
            groups[("int4", size)].append(layer)
        elif kind == "weight" and tensor.dtype == torch.int8:
            groups[("int8", f"{layer}.input_scale" in tensors)].append(layer)
        elif kind == "weight" and tensor.dim() == 2 and "embed" not in layer:
            plain.append(layer)
    found = {
        f"group_{number}": _group(scheme, sorted(layers)) for number, (scheme, layers) in enumerate(groups.items())
    }
    if not any(layer == HEAD.rstrip(".") for layers in groups.values() for layer in layers):
        plain.append(HEAD.rstrip("."))  # not among the tensors where it is tied to the embeddings
    formats = {group["format"] for group in found.values()}
    return {
        "quant_method": QUANT_METHOD,
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": found,
        "ignore": [_pattern(layer) for layer in sorted(set(plain))],
    }


def _group(scheme: tuple[Any, ...], layers: list[str]) -> dict[str, Any]:
    targets = [_pattern(layer) for layer in layers]
    if scheme[0] == "int4":
        weights = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": scheme[1]}
        return {"targets": targets, "format": "pack-quantized", "weights": {**weights, "dynamic": False}}
    inputs = _INT8_TENSOR if scheme[1] else _INT8_TOKENS
    return {"targets": targets, "format": "int-quantized", "weights": _INT8_WEIGHTS, "input_activations": inputs}


def _pattern(layer: str) -> str:
    """The layer under any prefix: engines call `llm.model.layers.0` `language_model.layers.0`, or drop what is before
    it; `o_proj`, `out_proj`, `fc1` and the like tell tower and decoder apart, for the projections of queries, keys and
    values the tower's own names do."""
    in_tower = layer.startswith("vision_tower.")
    tail = re.sub(r"^(llm\.(model\.)?|vision_tower\.vision_model\.)", "", layer)
    return f"re:{'.*vision' if in_tower else '(?!.*vision)'}.*{'' if in_tower else '(?:^|[.])'}{re.escape(tail)}$"


def _layer_of(name: str) -> str:
    """The layer of blocks that a tensor belongs to ("llm.model.layers.3"), or its own name."""
    match = re.match(r"(.*?\.layers\.\d+)\.", name)
    return match.group(1) if match and not name.startswith("mm_projector.") else name


def _save(tensors: dict[str, torch.Tensor], folder: Path, max_shard_size: str) -> None:
    """Memory-mapped tensors go from file to file a shard at a time."""
    split = split_torch_state_dict_into_shards(tensors, max_shard_size=max_shard_size)
    for file, names in split.filename_to_tensors.items():
        save_file({name: tensors[name].contiguous() for name in names}, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    else:
        assert (folder / WEIGHTS).is_file()
