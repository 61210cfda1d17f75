"""From a finished training to a checkpoint folder: bf16 safetensors, configs, tokenizer, processor, model card.

The folder is what `save_pretrained` writes (the single-folder layout), so `from_pretrained` and every command take it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from nvila.errors import CheckpointError
from nvila.model import NVILAForConditionalGeneration
from nvila.train.start import build_processor

WEIGHTS_LIMIT_BYTES = 48_000_000


def load_weights(model: NVILAForConditionalGeneration, path: Path) -> None:
    """Loads the model's part of a training checkpoint (`final.safetensors`, or `model.safetensors` of a checkpoint).

    Raises CheckpointError when it does not fit the model.
    """
    stored = {
        name.removeprefix("model."): tensor for name, tensor in load_file(path).items() if name.startswith("model.")
    }
    missing, unexpected = model.load_state_dict(stored, strict=False)
    tied = (
        {"llm.lm_head.weight", "llm.model.embed_tokens.weight"}
        if model.config.text_config.tie_word_embeddings
        else set()
    )
    absent = [name for name in missing if name not in tied or not tied & stored.keys()]
    if absent or unexpected:
        raise CheckpointError(f"{path} does not fit the model: missing {absent[:3]}, unexpected {list(unexpected)[:3]}")
    model.tie_weights()


def export(model: NVILAForConditionalGeneration, tokenizer: Any, folder: Path) -> int:
    """Writes the checkpoint into `folder` in bf16 and returns the bytes of its weights.

    Raises CheckpointError when they are more than 48 MB, or not finite.
    """
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise CheckpointError(
                f"{name} holds values that are not finite; the training diverged, export an earlier one"
            )
    processor = build_processor(model.config.visual, tokenizer)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if size > WEIGHTS_LIMIT_BYTES:
        raise CheckpointError(
            f"the weights take {size} bytes, over the limit of {WEIGHTS_LIMIT_BYTES}; make it smaller"
        )
    return size


def model_card(
    *,
    name: str,
    recipe: str,
    num_parameters: int,
    scores: Mapping[str, Any],
    manifest: Sequence[Mapping[str, Any]],
    readers: Mapping[str, Any] | None = None,
) -> str:
    """The text of the checkpoint's README.md, from `nvila eval`'s scores and the manifest of the training assets.

    readers: what `benchmarks/bench_reading.py` found on the same held-out pictures.
    """
    lines = [
        "---",
        "license: apache-2.0",
        "library_name: transformers",
        "pipeline_tag: image-text-to-text",
        "---",
        f"# {name}",
        "",
        f"A small NVILA of {num_parameters / 1e6:.1f} million parameters, trained by `nvila train {recipe}` (it says "
        "what it starts from) on generated pictures and clips: rendered text, named pictures such as emoji and flags, "
        "coloured shapes, simple charts, moving shapes. That is what it was shown, not what it masters: the table "
        "below says how often it is right, and whether that is as often as was aimed for.",
        "",
        "## What it is not",
        "It has seen no photographs and no handwriting, knows nothing of the world beyond its pictures' names, and "
        "speaks English only. Pictures unlike its training data get confident nonsense: do not rely on its answers.",
        "",
        "## Held-out scores",
        f"Greedy answers of the default path; words, fonts (by superfamily), renderings and phrasings are not those of "
        f"the training. {_circumstances(scores)}",
        "",
        "| task | metric | score | aimed for | samples |",
        "| --- | --- | --- | --- | --- |",
    ]
    for task in scores["tasks"]:
        for place, (metric, value) in enumerate(task["metrics"].items()):
            aim = _aim(value, task) if place == 0 else ""
            lines.append(f"| {task['task']} | {metric} | {value:.3f} | {aim} | {task['num_samples']} |")
    lines += [] if readers is None else _reading(readers)
    lines += [
        "",
        "## Sources of the training data",
        "",
        "| source | from | version | licence |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {entry['name']} | {entry['from']} | {entry['version']} | {entry['licence']} |" for entry in manifest]
    lines += ["", "Questions, shapes, charts and clips are drawn by `nvila.data.corpus`.", ""]
    return "\n".join(lines)


def _reading(readers: Mapping[str, Any]) -> list[str]:
    """The part about reading beside OCR programs."""
    names = list(readers["tasks"][0]["scores"])
    found = [
        "",
        "## Reading, beside OCR programs",
        "The same held-out pictures, three times as large for the others, which know nothing of the fonts. "
        f"`benchmarks/bench_reading.py`. {_circumstances(readers)}",
        "",
        f"| task | samples | metric | {' | '.join(names)} |",
        f"| --- | --- | --- |{' --- |' * len(names)}",
    ]
    for task in readers["tasks"]:
        for metric in task["scores"][names[0]]:
            values = " | ".join(f"{task['scores'][name][metric]:.3f}" for name in names)
            found.append(f"| {task['task']} | {task['num_samples']} | {metric} | {values} |")
    return found


def _aim(value: float, task: Mapping[str, Any]) -> str:
    floor = task["floor"]
    if floor is None:
        return ""
    is_reached = value <= floor if task["less_is_better"] else value >= floor
    return f"{floor:.2f}, {'reached' if is_reached else 'missed'}"


def _circumstances(scores: Mapping[str, Any]) -> str:
    return (
        f"Seed {scores['seed']}, {scores['hardware']}, torch {scores['versions']['torch']}, transformers "
        f"{scores['versions']['transformers']}, {scores['date']}."
    )
