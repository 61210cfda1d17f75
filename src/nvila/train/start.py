"""What a training starts from: a tokenizer, and a model of the recipe's sizes with fresh weights or a checkpoint's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, SiglipVisionModel

from nvila.data.corpus import Assets, tokenizer_words
from nvila.errors import CheckpointError, ConfigError
from nvila.layouts import VisualSettings, open_tokenizer, read_settings, resolve
from nvila.model import NVILAConfig, NVILAForConditionalGeneration
from nvila.model.checkpoint import check_weights, read_weights
from nvila.model.projector import Projector
from nvila.ops.losses import SoftTargets
from nvila.processing import NVILAImageProcessor, NVILAProcessor, NVILAVideoProcessor
from nvila.processing.tokens import prepare_tokenizer
from nvila.train.contrast import ContrastHead
from nvila.train.dense import DenseHead, DenseKind
from nvila.train.learner import Learner
from nvila.train.recipe import ModelRecipe, Visual
from nvila.train.tokenizer import build_tokenizer

CHAT_WORDS = ("system", "user", "assistant", "You are a helpful assistant")
TIME_TOKEN = "<t{t}>"
START_STD = 0.02
TOKEN_SIZE = 0.5
"""Root mean square of a visual token's channels at the start."""
MIN_SPREAD = 0.1
"""Channels of the normalised features that vary less than this are not blown up further."""
BRANCH_ENDS = ("out_proj.weight", "fc2.weight")


def load_or_build_tokenizer(folder: Path, assets: Assets | None, model: ModelRecipe) -> Any:
    """The run's tokenizer; when there is none yet, that of the checkpoint or decoder that the model starts from, or
    one built for the corpus. Raises ConfigError where there is neither."""
    if not (folder / "tokenizer.json").exists():
        if model.init:
            tokenizer = open_tokenizer(read_settings(resolve(model.init)).tokenizer_dir)
            if model.as_is:
                prepare_tokenizer(tokenizer)
        elif model.language:
            tokenizer = open_tokenizer(model.language)
            prepare_tokenizer(tokenizer)
        elif assets is not None:
            tokenizer = build_tokenizer([*CHAT_WORDS, *tokenizer_words(assets)])
        else:
            raise ConfigError("the recipe names no tokenizer: give model.init or model.language, or --assets")
        tokenizer.add_tokens([TIME_TOKEN.format(t=number) for number in range(model.num_time_tokens)])
        tokenizer.save_pretrained(folder)
    return open_tokenizer(folder)


def build_learner(
    sizes: ModelRecipe, tokenizer: Any, kinds: Iterable[DenseKind], *, has_contrast: bool = False
) -> Learner:
    """A model of the recipe's sizes, and the heads that are thrown away after training, which are always fresh.

    Raises CheckpointError when the checkpoint `sizes.init` has other names or shapes than the recipe's sizes make, or
    a backbone cannot be read.
    """
    if sizes.as_is:
        model = NVILAForConditionalGeneration.from_pretrained(
            sizes.init, dtype="auto", attn_implementation=sizes.attention
        )
    else:
        model = NVILAForConditionalGeneration(model_config(sizes, tokenizer))
        _take_start(model, sizes)
    config = model.config
    contrast = ContrastHead(config.vision_config, vocab_size=config.text_config.vocab_size) if has_contrast else None
    learner = Learner(model, DenseHead(tuple(kinds), config.vision_config.hidden_size), contrast)
    if config.num_time_tokens:
        first = tokenizer.convert_tokens_to_ids(config.time_token_format.format(t=0))
        learner.soft_targets = SoftTargets(first_id=first, num_tokens=config.num_time_tokens, std=config.soft_ce_std)
    return learner


def _take_start(model: NVILAForConditionalGeneration, sizes: ModelRecipe) -> None:
    """Puts into a fresh model what the recipe starts from: a checkpoint's weights, backbones, or narrow matrices."""
    if sizes.init:
        take_weights(model, sizes.init)
        return
    if not sizes.vision:
        start_small(model)
    take_backbones(model, sizes)


def model_config(sizes: ModelRecipe, tokenizer: Any) -> NVILAConfig:
    """The configuration of a model of these sizes, or of its backbones' sizes, for this tokenizer."""
    config = sized_config(sizes, len(tokenizer))
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config.text_config, name, getattr(tokenizer, name))
    config.num_time_tokens, config.time_token_format = sizes.num_time_tokens, TIME_TOKEN
    config.soft_ce_std = sizes.soft_ce_std
    config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    config.video_token_id = tokenizer.convert_tokens_to_ids("<vila/video>")
    return config


def sized_config(sizes: ModelRecipe, num_tokens: int) -> NVILAConfig:
    """The configuration without what a tokenizer says, but for the number of its tokens."""
    vision = _backbone_config(sizes.vision, "vision_config").to_dict() if sizes.vision else _vision_sizes(sizes)
    text = _backbone_config(sizes.language, "").to_dict() if sizes.language else _text_sizes(sizes)
    text["vocab_size"] = max(text.get("vocab_size", 0), -(-num_tokens // 64) * 64)
    config = NVILAConfig(
        vision_config={**vision, "vision_use_head": False},
        text_config=text,
        tile_size=vision["image_size"],
        image_mode=sizes.image_mode,
        s2_scales=sizes.s2_scales,
        projector_type=sizes.projector_type,
        min_tiles=1,
        max_tiles=sizes.max_tiles,
        temporal_pool=sizes.temporal_pool,
        num_video_frames=sizes.num_video_frames,
    )
    config._attn_implementation = sizes.attention
    return config


def _vision_sizes(sizes: ModelRecipe) -> dict[str, Any]:
    return {
        "hidden_size": sizes.vision_width,
        "intermediate_size": 4 * sizes.vision_width,
        "num_hidden_layers": sizes.vision_layers + 1,
        "num_attention_heads": sizes.vision_heads,
        "image_size": sizes.tile_size,
        "patch_size": sizes.patch_size,
    }


def _text_sizes(sizes: ModelRecipe) -> dict[str, Any]:
    return {
        "hidden_size": sizes.text_width,
        "intermediate_size": sizes.text_intermediate,
        "num_hidden_layers": sizes.text_layers,
        "num_attention_heads": sizes.text_heads,
        "num_key_value_heads": sizes.text_heads,
        "max_position_embeddings": sizes.max_position_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "tie_word_embeddings": True,
    }


def _backbone_config(name: str, part: str) -> PreTrainedConfig:
    """The configuration of a published backbone, or its `part` where that is one of a larger model's."""
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{name}: no backbone's configuration can be read there ({error})") from error
    whole: PreTrainedConfig = (config.sub_configs.get(part) and getattr(config, part)) or config
    return whole


@torch.no_grad()
def take_backbones(model: NVILAForConditionalGeneration, sizes: ModelRecipe) -> None:
    """Puts the weights of published backbones into `model`; rows of the vocabulary that they lack stay fresh.

    Safetensors only. Raises CheckpointError where weights are missing.
    """
    if sizes.vision:
        tower = SiglipVisionModel.from_pretrained(sizes.vision, dtype=torch.float32, use_safetensors=True)
        # transformers has had these names with and without the prefix.
        named = {name.removeprefix("vision_model."): weight for name, weight in tower.state_dict().items()}
        known = {name: weight for name, weight in named.items() if not name.startswith("head.")}
        own = model.vision_tower.vision_model.state_dict()
        if known.keys() != own.keys():
            strange = sorted(known.keys() ^ own.keys())
            raise CheckpointError(f"{sizes.vision} is not the vision tower of a SigLIP: {strange[:3]} do not match")
        model.vision_tower.vision_model.load_state_dict(known)
    if sizes.language:
        decoder = AutoModelForCausalLM.from_pretrained(sizes.language, dtype=torch.float32, use_safetensors=True)
        decoder.resize_token_embeddings(model.config.text_config.vocab_size, mean_resizing=False)
        model.llm.load_state_dict(decoder.state_dict())
        model.tie_weights()


def take_weights(model: NVILAForConditionalGeneration, name: str) -> None:
    """Puts the weights of the checkpoint `name` into `model`, in the model's precision."""
    root = resolve(name)
    weights = read_weights(root, read_settings(root))
    check_weights(type(model), model.config, weights, root)
    model.load_state_dict(weights, strict=False)
    model.tie_weights()


def build_processor(visual: VisualSettings, tokenizer: Any) -> NVILAProcessor:
    """The processor of a model with these settings."""
    image_processor = NVILAImageProcessor(
        image_mode=visual.image_mode,
        size=visual.tile_size,
        min_tiles=visual.min_tiles,
        max_tiles=visual.max_tiles,
        s2_scales=visual.s2_scales,
    )
    video_processor = NVILAVideoProcessor(size=visual.tile_size, num_frames=visual.num_video_frames, fps=visual.fps)
    return NVILAProcessor(
        image_processor,
        tokenizer,
        video_processor,
        patch_size=visual.patch_size,
        downsample=visual.downsample,
        temporal_pool=visual.temporal_pool,
        s2_resize_output_to_scale_idx=visual.s2_resize_output_to_scale_idx,
    )


def set_visual(model: NVILAForConditionalGeneration, changes: Visual) -> None:
    """Takes over the visual settings that a stage changes. Raises ConfigError for values that contradict others."""
    for name, value in vars(changes).items():
        if value is not None:
            setattr(model.config, name, value)
    model.visual = model.config.visual


@torch.no_grad()
def calibrate(model: NVILAForConditionalGeneration, tiles: torch.Tensor) -> None:
    """Starts the projector's MLP anew, for the features of these tiles (N, 3, S, S) one by one."""
    calibrate_projector(model.mm_projector, model.encode_tiles(tiles))


@torch.no_grad()
def calibrate_projector(projector: Projector, features: torch.Tensor) -> None:
    """Starts the projector's MLP anew, for features (N, P, C) as it is given them, of all scales where there are more.

    A tower trained on dense labels has a few channels that are large and nearly constant. They drown the others in the
    projector's LayerNorm, and visual tokens of hundreds of times the size of words stay as they are in the decoder. So
    each LayerNorm's affine part gives every channel mean 0 and variance 1, and the output has mean 0 and
    size TOKEN_SIZE.
    """
    layers: Any = projector.layers
    x_NTC = features.float()
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
