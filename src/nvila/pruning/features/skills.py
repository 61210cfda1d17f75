"""What a sample asks of a model: the decoder's states where the answer is predicted, at three depths.

One forward pass of the small model, batched as for scoring. States are averaged over the places that answers are
predicted from, set to length 1 at each depth, joined, and where that is wide, projected at random (Johnson and
Lindenstrauss: distances survive).

Letters: B rows, L tokens, H the decoder's width, D = 3 H or `MOST_VALUES`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from nvila.errors import CheckpointError, ConfigError, NVILAError
from nvila.processing.chat import IGNORED
from nvila.pruning.features.store import Feature
from nvila.pruning.score.batches import Planned, Ready
from nvila.pruning.score.data import Corpus, status_of
from nvila.pruning.score.models import load_scorer
from nvila.pruning.score.options import RunOptions
from nvila.pruning.score.packed import PackedScorer
from nvila.types import Sample

MOST_VALUES = 1024
_PROJECTION_SEED = 20_406


class SkillsExtractor:
    """Features of how a model answers. (D,) float32 each."""

    def __init__(self, name: str, run: RunOptions) -> None:
        """`name`: a checkpoint that samples can be scored with. Raises CheckpointError for any other."""
        scorer: Any = load_scorer(name, run)
        self._scorer = scorer
        self._is_packed = isinstance(scorer, PackedScorer)
        self._run = run
        layers = _decoder_layers(scorer.model, name)
        self._layers = [layers[math.ceil(len(layers) * third / 3) - 1] for third in (1, 2, 3)]

    def features(self, corpus: Corpus, chunks: Sequence[int]) -> Iterator[list[Feature]]:
        """The features of the samples of each chunk, in order."""
        for chunk in chunks:
            yield self._features(corpus, corpus.chunk(chunk))

    def _features(self, corpus: Corpus, numbers: Sequence[int]) -> list[Feature]:
        encoder = self._scorer.encoder
        found: dict[int, Feature] = {}
        samples: dict[int, Sample] = {}
        planned: list[Planned] = []
        for number in numbers:
            read = corpus.read(number)
            found[number] = Feature(id=read.id, source=read.source, status=read.status, reason=read.reason)
            if read.sample is None:
                continue
            try:
                size = encoder.plan(number, read.sample)
            except ConfigError:
                raise
            except NVILAError as error:
                found[number] = found[number].failed(status_of(error), str(error))
                continue
            if size.num_tokens > encoder.max_tokens:
                reason = f"has {size.num_tokens} tokens, over the limit of {encoder.max_tokens}"
                found[number] = found[number].failed("too_long", reason)
                continue
            samples[number] = read.sample
            planned.append(size)
        for row in encoder.rows(planned, self._run.tokens_of_batch(self._scorer.device)):
            prepared = encoder.prepare([(one.key, samples[one.key]) for one in row])
            for key, (status, reason) in prepared.failed.items():
                found[key] = found[key].failed(status, reason)
            for batch in prepared.ready:
                for key, values, count in zip(batch.keys, *self._states(batch), strict=True):
                    found[key] = found[key].with_values(values, num_tokens=count)
        return [found[number] for number in numbers]

    def _states(self, batch: Ready) -> tuple[NDArray[np.float32], list[int]]:
        """(samples, D) of a batch, and the tokens of each sample's answers."""
        with _kept_outputs(self._layers) as outputs:
            counts = [found.num_tokens for found in self._scorer.log_p(batch)]
        places = _packed_places(batch) if self._is_packed else _padded_places(batch)
        depths = []
        for states_BLH in outputs:
            means = [states_BLH[row, columns].float().mean(0) for row, columns in places]
            depths.append(F.normalize(torch.stack(means), dim=-1))
        joined = torch.cat(depths, dim=-1).cpu()
        return _narrowed(joined).numpy(), counts


def _packed_places(batch: Ready) -> list[tuple[int, list[int]]]:
    """(row, places that answers are predicted from) of each sample in a packed row."""
    answered = (batch.answers[0, 1:] != IGNORED).nonzero()[:, 0]
    owners = ((batch.inputs["position_ids"][0] == 0).cumsum(0)[1:] - 1).cpu()[answered]
    return [(0, answered[owners == number].tolist()) for number in range(len(batch.keys))]


def _padded_places(batch: Ready) -> list[tuple[int, list[int]]]:
    return [(row, [place - 1 for place in places if place > 0]) for row, places in enumerate(batch.answers)]


def _decoder_layers(model: nn.Module, name: str) -> Sequence[nn.Module]:
    """The decoder's layers, told by their number and by not being the vision tower's."""
    config: Any = model.config
    depth = config.get_text_config().num_hidden_layers
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth and path.endswith("layers"):
            is_visual = any(word in path for word in ("vision", "visual", "image", "encoder"))
            if not is_visual:
                return list(module)
    raise CheckpointError(f"{name}: has no list of {depth} decoder layers whose states could be read")


@contextmanager
def _kept_outputs(layers: Sequence[nn.Module]) -> Iterator[list[torch.Tensor]]:
    """The hidden states (B, L, H) that the layers give while the block runs, in the order of the layers."""
    outputs: list[torch.Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _narrowed(features: torch.Tensor) -> torch.Tensor:
    """Features (samples, n) projected to `MOST_VALUES` values where n is larger; always by the same directions."""
    width = features.shape[1]
    if width <= MOST_VALUES:
        return features
    generator = torch.Generator().manual_seed(_PROJECTION_SEED)
    directions = torch.randn(width, MOST_VALUES, generator=generator) / MOST_VALUES**0.5
    return features @ directions
