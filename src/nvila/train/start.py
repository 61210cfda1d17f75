"""What a training starts from: a tokenizer, and a model of the recipe's sizes with fresh weights or a checkpoint's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from nvila.data.corpus import Assets, tokenizer_words
from nvila.layouts import read_settings, resolve
from nvila.model import NVILAConfig, NVILAForConditionalGeneration
from nvila.model.checkpoint import check_weights, read_weights
from nvila.train.dense import DenseHead, DenseKind
from nvila.train.learner import Learner
from nvila.train.recipe import ModelRecipe
from nvila.train.tokenizer import build_tokenizer

CHAT_WORDS = ("system", "user", "assistant", "You are a helpful assistant")
START_STD = 0.02
TOKEN_SIZE = 0.5
"""Root mean square of a visual token's channels at the start."""
MIN_SPREAD = 0.1
"""Channels of the normalised features that vary less than this are not blown up further."""
BRANCH_ENDS = ("out_proj.weight", "fc2.weight")


def load_or_build_tokenizer(folder: Path, assets: Assets, init: str = "") -> Any:
    """The run's tokenizer; when there is none yet, that of the checkpoint `init`, or one built for the corpus."""
    if not (folder / "tokenizer.json").exists():
        if init:
            tokenizer = AutoTokenizer.from_pretrained(read_settings(resolve(init)).tokenizer_dir)
        else:
            tokenizer = build_tokenizer([*CHAT_WORDS, *tokenizer_words(assets)])
        tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def build_learner(sizes: ModelRecipe, tokenizer: Any, kinds: Iterable[DenseKind]) -> Learner:
    """A model of the recipe's sizes, and its dense head; the head is always fresh.

    Raises CheckpointError when the checkpoint `sizes.init` has other names or shapes than the recipe's sizes make.
    """
    model = NVILAForConditionalGeneration(model_config(sizes, tokenizer))
    if sizes.init:
        take_weights(model, sizes.init)
    else:
        start_small(model)
    return Learner(model, DenseHead(tuple(kinds), sizes.vision_width))


def model_config(sizes: ModelRecipe, tokenizer: Any) -> NVILAConfig:
    """The configuration of a model of these sizes for this tokenizer."""
    vision = {
        "hidden_size": sizes.vision_width,
        "intermediate_size": 4 * sizes.vision_width,
        "num_hidden_layers": sizes.vision_layers + 1,
        "num_attention_heads": sizes.vision_heads,
        "image_size": sizes.tile_size,
        "patch_size": sizes.patch_size,
        "vision_use_head": False,
    }
    text = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": sizes.text_width,
        "intermediate_size": sizes.text_intermediate,
        "num_hidden_layers": sizes.text_layers,
        "num_attention_heads": sizes.text_heads,
        "num_key_value_heads": sizes.text_heads,
        "max_position_embeddings": sizes.max_position_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = NVILAConfig(
        vision_config=vision,
        text_config=text,
        image_mode=sizes.image_mode,
        projector_type=sizes.projector_type,
        min_tiles=1,
        max_tiles=sizes.max_tiles,
        temporal_pool=sizes.temporal_pool,
        num_video_frames=sizes.num_video_frames,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<vila/video>"),
    )
    # At 64 tokens bmm and softmax are faster than the fused attention.
    config._attn_implementation = "eager"
    return config


def take_weights(model: NVILAForConditionalGeneration, name: str) -> None:
    """Puts the weights of the checkpoint `name` into `model`, in the model's precision."""
    root = resolve(name)
    weights = read_weights(root, read_settings(root))
    check_weights(type(model), model.config, weights, root)
    model.load_state_dict(weights, strict=False)
    model.tie_weights()


@torch.no_grad()
def calibrate(model: NVILAForConditionalGeneration, tiles: torch.Tensor) -> None:
    """Starts the projector's MLP anew, for the features of these tiles (N, 3, S, S).

    A tower trained on dense labels has a few channels that are large and nearly constant. They drown the others in the
    projector's LayerNorm, and visual tokens of hundreds of times the size of words stay as they are in the decoder. So
    each LayerNorm's affine part gives every channel mean 0 and variance 1, and the output has mean 0 and
    size TOKEN_SIZE.
    """
    layers: Any = model.mm_projector.layers
    x_NTC = model.encode_tiles(tiles).float()
    for layer in layers:
        if isinstance(layer, torch.nn.LayerNorm):
            normed = torch.nn.functional.layer_norm(x_NTC, layer.normalized_shape).flatten(0, -2)
            layer.weight.copy_(1.0 / normed.std(dim=0).clamp(min=MIN_SPREAD))
            layer.bias.copy_(-normed.mean(dim=0) * layer.weight)
        elif isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            torch.nn.init.zeros_(layer.bias)
        x_NTC = layer(x_NTC)
    mean = x_NTC.flatten(0, -2).mean(dim=0)
    scale = TOKEN_SIZE / (x_NTC - mean).square().mean().sqrt()
    layers[-1].weight.mul_(scale)
    layers[-1].bias.copy_(-mean * scale)


@torch.no_grad()
def start_small(model: NVILAForConditionalGeneration) -> None:
    """Draws the tower's matrices from a narrow normal, those that end a residual branch narrower still.

    SigLIP's own start (Xavier) makes each residual branch as loud as what it is added to. With small batches the tower
    reads sooner from this one: 0.24 of the characters against 0.17 after 15,600 tiles (docs/LOG.md, one seed).
    """
    tower = model.vision_tower.vision_model
    branch_std = START_STD / (2 * len(tower.encoder.layers)) ** 0.5
    for name, weight in tower.encoder.named_parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=branch_std if name.endswith(BRANCH_ENDS) else START_STD)
    torch.nn.init.normal_(tower.embeddings.position_embedding.weight, std=START_STD)
