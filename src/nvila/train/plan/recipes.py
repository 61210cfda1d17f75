"""What `nvila train RECIPE --plan` prints: the estimate of every stage, from the recipe alone.

Where the data are not at hand, a stage's `expected` says how large a sample is; how many there are it says too, or the
mixture's own counts. Both are printed, so that nobody takes an expectation for a measurement.
"""

from __future__ import annotations

import math
from pathlib import Path

from nvila import config as config_files
from nvila.data.mixture import MixtureConfig
from nvila.errors import ConfigError
from nvila.model import NVILAConfig
from nvila.train.plan import Workload, estimate, format_estimate
from nvila.train.plan.published import architecture
from nvila.train.plan.workload import Sharding
from nvila.train.recipe import ModelRecipe, Recipe, Stage
from nvila.train.start import sized_config

STAND_IN_VOCABULARY = 2496
"""Of recipes whose tokenizer is made from the corpus: nvila-mini's."""


def plan_text(recipe: Recipe, *, num_gpus: int, gpu: str) -> str:
    """The plan of all stages as plain text. Raises ConfigError for a stage that does not say what to expect."""
    config = planned_config(recipe.model)
    parts = [f"{recipe.name}, {num_gpus} x {gpu}"]
    for stage in recipe.stage:
        workload = workload_of(recipe, stage, num_gpus=num_gpus, gpu=gpu)
        expected = stage.expected
        source = stage.mixture or "generators"
        parts.append(
            f"== {stage.name}: trains {', '.join(stage.train)} at {stage.learning_rate:g}\n"
            f"{source}: expects {expected.tokens:,} tokens and {expected.tiles:g} tiles a sample\n\n"
            + format_estimate(estimate(config, workload))
        )
    return "\n\n".join(parts) + "\n"


def planned_config(sizes: ModelRecipe) -> NVILAConfig:
    """The configuration that a recipe's model will have, without a tokenizer or weights."""
    return architecture(sizes.architecture).config() if sizes.architecture else sized_config(sizes, STAND_IN_VOCABULARY)


def workload_of(recipe: Recipe, stage: Stage, *, num_gpus: int, gpu: str) -> Workload:
    """A stage in plain numbers. Weights and AdamW states are float32, sharded over the GPUs where there are several."""
    expected, batches = stage.expected, stage.batches
    if not expected.tokens:
        raise ConfigError(
            f"stage {stage.name!r} does not say how large its samples are; give expected = {{ tokens = ..., "
            "tiles = ..., samples = ... }"
        )
    samples = batches.global_batch if stage.mixture else stage.batch_size * num_gpus
    sharding: Sharding = "fsdp" if num_gpus > 1 else "none"
    if not stage.mixture:
        per_micro, accumulation = stage.batch_size, 1
    else:
        per_row = max(1, batches.max_tokens // expected.tokens) if batches.pack else 1
        per_micro = batches.micro_batch * per_row
        accumulation = max(1, math.ceil(samples / num_gpus / per_micro))
    return Workload(
        tokens_per_step=samples * expected.tokens,
        tiles_per_step=round(samples * expected.tiles),
        sample_length=expected.tokens,
        steps=_num_steps(stage),
        num_gpus=num_gpus,
        grad_accumulation=accumulation,
        micro_tokens=per_micro * expected.tokens,
        micro_tiles=math.ceil(per_micro * expected.tiles),
        trainable=stage.train,
        checkpointing=stage.gradient_checkpointing,
        sharding=sharding,
        learned_share=expected.learned_share,
        gpu=gpu,
    )


def _num_steps(stage: Stage) -> int:
    """Steps of a stage: as given, or its epochs over what its mixture holds."""
    if not stage.epochs:
        return stage.steps
    samples = stage.expected.samples or _published_samples(Path(stage.mixture))
    return min(stage.steps, max(1, math.ceil(stage.epochs * samples / stage.batches.global_batch)))


def _published_samples(path: Path) -> float:
    """Samples of an epoch by the mixture's own counts. Raises ConfigError where a source has none."""
    mixture = config_files.load(MixtureConfig, path)
    unknown = [source.name for source in mixture.source if source.num_samples is None]
    if unknown:
        raise ConfigError(f"{path}: {', '.join(unknown[:3])} have no num_samples; give the stage expected.samples")
    return sum((source.num_samples or 0) * (source.repeat or 1.0) for source in mixture.source)
