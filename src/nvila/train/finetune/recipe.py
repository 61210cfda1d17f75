"""The recipe that a fine-tuning's options and data make; what runs it is the trainer of every other stage."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from nvila.adapters.options import AdapterOptions
from nvila.errors import ConfigError
from nvila.model import NVILAConfig
from nvila.train.finetune.options import MAX_TOKENS, FinetuneOptions
from nvila.train.finetune.survey import Survey
from nvila.train.recipe import Batches, ModelRecipe, Recipe, Run, Stage, Visual

STAGE = "finetune"
_ROUND = 16
"""Rows have a multiple of so many tokens."""


def token_limit(options: FinetuneOptions, config: NVILAConfig) -> int:
    """Most tokens of a sample. Raises ConfigError for more than the model has positions for."""
    positions = int(config.text_config.max_position_embeddings)
    if options.max_tokens is None:
        return min(positions, MAX_TOKENS)
    if options.max_tokens > positions:
        raise ConfigError(f"--max-tokens is {options.max_tokens}, and the model has {positions} positions; give fewer")
    return options.max_tokens


def make_recipe(
    options: FinetuneOptions, config: NVILAConfig, survey: Survey, mixture: Path, *, bf16: bool, num_ranks: int = 1
) -> Recipe:
    """The recipe of one fine-tuning; `bf16` has frozen weights in bfloat16 and products under autocast."""
    limit = token_limit(options, config)
    batches, steps = plan_batches(options, survey, limit, num_ranks=num_ranks)
    trains_vision = options.vision != "frozen"
    stage = Stage(
        name=STAGE,
        mixture=str(mixture.absolute()),
        batches=batches,
        visual=Visual(max_tiles=options.max_tiles),
        steps=steps,
        learning_rate=options.rate,
        part_learning_rates={"vision": options.rate / options.lr_ratio} if trains_vision else {},
        weight_decay=0.0,
        schedule="cosine",
        warmup_ratio=0.03,
        final_ratio=0.0,
        loss="token",
        train=options.train,
        dense_weight=0.0,
    )
    adapters = AdapterOptions(
        vision="full" if options.vision == "frozen" else options.vision,
        language="full" if options.language == "frozen" else options.language,
        rank=options.rank,
        alpha=2.0 * options.rank,
        frozen_dtype="bfloat16" if bf16 else "float32",
    )
    return Recipe(
        name=f"finetune {Path(options.model).name}",
        stage=(stage,),
        run=Run(seed=options.seed, bf16=bf16, compile=False, probe_samples=0, log_steps=max(1, min(20, steps // 20))),
        model=ModelRecipe(init=options.model, as_is=True, attention="sdpa"),
        adapters=adapters,
    )


def plan_batches(options: FinetuneOptions, survey: Survey, limit: int, *, num_ranks: int = 1) -> tuple[Batches, int]:
    """The batches, and the optimiser steps of all epochs.

    Packed rows are as long as a step's samples, if the limit allows, and at least as the longest sample: longer ones
    would make steps of more samples, shorter ones are not possible. They are filled from a step's samples and no
    wider: best fit out of many samples of nearly one size sorts them by size, which is by answer.
    """
    rule = "truncate" if options.too_long == "truncate" else "error"
    longest = -(-survey.longest // _ROUND) * _ROUND
    common: dict[str, Any] = {"global_batch": options.batch, "too_long": rule, "window": options.batch}
    if not options.packing:
        share = options.batch // num_ranks
        sizes = [size for size in range(1, share + 1) if share % size == 0 and size * longest <= limit]
        batches = Batches(micro_batch=max(sizes, default=1), pack=False, max_tokens=limit, **common)
        return batches, math.ceil(options.epochs * survey.num_samples / options.batch)
    wanted = options.batch * survey.mean_tokens / num_ranks
    rows = math.ceil(wanted / limit)
    row = max(longest, math.ceil(wanted / rows / _ROUND) * _ROUND)
    rows = max(1, round(wanted / row)) * num_ranks
    batches = Batches(max_tokens=row, rows_per_step=rows, **common)
    return batches, math.ceil(options.epochs * survey.num_tokens / (rows * row))
