"""The samples that quantisation looks at, and what it keeps of what flows through a layer.

Letters: T tokens, I features in, G groups of them, S features of a group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nvila.config import load
from nvila.data.encode import Encoded, EncodeOptions, SampleEncoder
from nvila.data.formats import SampleSource, open_source
from nvila.data.mixture import Mixture, MixtureConfig
from nvila.errors import DataError, MediaError, PromptError
from nvila.quant.options import QuantiseOptions
from nvila.types import Sample

_TRIES = 4
"""So many samples are looked at for each that is used; the others were broken or too long."""


def calibration_samples(
    data: str, processor: Any, options: QuantiseOptions, *, format: str | None = None, media_root: str | None = None
) -> list[Encoded]:
    """`options.samples` samples of the data set or mixture (.toml), drawn by the seed, as the model takes them.

    Samples that cannot be read or are too long are passed over. Raises DataError where none is left.
    """
    found: list[Encoded] = []
    room = options.max_tiles
    reason = "it is empty"
    encoder = SampleEncoder(processor, EncodeOptions(max_tokens=options.max_tokens, too_long="truncate"))
    for number in _drawn(data, options, format=format, media_root=media_root):
        try:
            sample = encoder(number())
        except (DataError, MediaError, PromptError) as error:
            reason = str(error)
            continue
        if sample.num_tiles > room:
            reason = f"sample {sample.id} has {sample.num_tiles} tiles, over the {room} that are left"
            continue
        found.append(sample)
        room -= sample.num_tiles
        if len(found) == options.samples:
            break
    if not found:
        raise DataError(f"{data}: no sample can be calibrated on; the last reason: {reason}")
    return found


def _drawn(data: str, options: QuantiseOptions, *, format: str | None, media_root: str | None) -> Iterable[Any]:
    """Calls that read a sample each, in a random order."""
    rng = np.random.default_rng(options.seed)
    if data.endswith(".toml"):
        mixture = Mixture.open(load(MixtureConfig, Path(data)))
        order = mixture.order(options.seed)
        count = min(mixture.samples_per_epoch, _TRIES * options.samples)
        for position in range(count):
            place = order.locate(position)
            yield partial(mixture.sample, place.source, place.sample)
        return
    source = open_source(data, format=format, media_root=media_root)
    size = len(source)
    wanted = min(size, _TRIES * options.samples)
    for index in rng.choice(size, wanted, replace=False).tolist() if wanted else ():
        yield _Read(source, int(index))


class _Read:
    def __init__(self, source: SampleSource, index: int) -> None:
        self._source, self._index = source, index

    def __call__(self) -> Sample:
        return self._source[self._index]


class Watched:
    """What was seen of one layer's input: sums over all tokens, and some tokens themselves.

    mean, largest: (I,) of absolute values. tokens: (T, I), evenly from all calls. products: (G, S, S), the mean of
    x x^T within each group, where `group_size` is given.
    """

    def __init__(self, num_tokens_a_call: int, group_size: int | None) -> None:
        self._quota = num_tokens_a_call
        self._group_size = group_size
        self._kept: list[torch.Tensor] = []
        self._count = 0
        self._sum: torch.Tensor | None = None
        self._largest: torch.Tensor | None = None
        self._products: torch.Tensor | None = None

    def add(self, x: torch.Tensor) -> None:
        """x: (..., I)."""
        x_TI = x.detach().reshape(-1, x.shape[-1])
        size = x_TI.abs().float()
        total, largest = size.sum(0), size.amax(0)
        self._sum = total if self._sum is None else self._sum + total
        self._largest = largest if self._largest is None else torch.maximum(self._largest, largest)
        self._count += len(x_TI)
        if self._group_size:
            groups_GTS = x_TI.float().unflatten(1, (-1, self._group_size)).transpose(0, 1)
            products = groups_GTS.transpose(1, 2) @ groups_GTS
            self._products = products if self._products is None else self._products.add_(products)
        places = torch.linspace(0, len(x_TI) - 1, min(self._quota, len(x_TI)), device=x.device).long()
        self._kept.append(x_TI[places].float())

    @property
    def mean(self) -> torch.Tensor:
        assert self._sum is not None
        return self._sum / self._count

    @property
    def largest(self) -> torch.Tensor:
        assert self._largest is not None
        return self._largest

    @property
    def tokens(self) -> torch.Tensor:
        return torch.cat(self._kept)

    @property
    def products(self) -> torch.Tensor:
        assert self._products is not None
        return self._products / self._count


@contextmanager
def watch(modules: Mapping[str, nn.Module], watched: Mapping[str, Watched]) -> Any:
    """Adds the inputs of `modules` to what is `watched` under the same names, while the block runs."""
    with ExitStack() as stack:
        for name, module in modules.items():
            hook = module.register_forward_pre_hook(lambda _, inputs, name=name: watched[name].add(inputs[0]))
            stack.callback(hook.remove)
        yield


def quota(options: QuantiseOptions, calls: Sequence[Any]) -> int:
    """Tokens to keep of each call."""
    return max(1, -(-options.search_tokens // max(1, len(calls))))
