"""Counts what autograd keeps between the forward and the backward pass."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch.autograd.graph import saved_tensors_hooks

T = TypeVar("T")


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


def held_bytes(forward: Callable[[], T], own: Iterable[torch.Tensor] = ()) -> tuple[T, int]:
    """The result of `forward`, and the bytes of the distinct storages that autograd still holds for it afterwards.

    Unlike `saved_bytes` it leaves out what was saved and let go within the forward pass, as checkpointing does, and
    its result can be run backward. The storages of `own` do not count.
    """
    alive: list[weakref.ref[_Held]] = []

    def pack(tensor: torch.Tensor) -> _Held:
        held = _Held(tensor)
        alive.append(weakref.ref(held))
        return held

    with saved_tensors_hooks(pack, lambda held: held.tensor):
        result = forward()
    gc.collect()
    left = [held.tensor.untyped_storage() for reference in alive if (held := reference()) is not None]
    excluded = {tensor.untyped_storage().data_ptr() for tensor in own}
    sizes = {storage.data_ptr(): storage.nbytes() for storage in left}
    return result, sum(size for address, size in sizes.items() if address not in excluded)


class _Held:
    """What autograd keeps in place of a tensor, so that its end can be told."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
