"""Counts what autograd keeps between the forward and the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks


def saved_bytes(forward: Callable[[], Any], parameters: Iterable[torch.Tensor] = ()) -> int:
    """Bytes of the distinct storages that `forward` makes autograd save, without those of `parameters`.

    A storage counts once and whole, however many tensors of it are saved. The result of `forward` and all that was
    saved live until the end of the count, so no address is met twice. Leaves out what Python objects keep by
    themselves, and memory that is used and freed within the forward pass.
    """
    saved: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.detach())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    excluded = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in saved}
    del result
    return sum(size for address, size in sizes.items() if address not in excluded)
