"""What an engine may use: how many requests at once, how much memory, how much work between two decoded tokens.

Every limit here is a bound that is kept: what does not fit waits, and what can never fit is refused when it is given.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from nvila.errors import ConfigError, NVILAError


class EngineBusyError(NVILAError):
    """The queue is full: try again later, or let `submit` wait."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Limits of an engine. Raises ConfigError for numbers out of range."""

    max_running: int = 16
    """Requests that hold a KV cache at the same time."""
    max_waiting: int = 64
    """Requests that wait for their turn; one more is refused."""
    max_waiting_bytes: int = 1 << 30
    """Bytes of pixels that waiting requests may hold together; a single request may always wait."""
    kv_cache_bytes: int | None = None
    """Bytes of KV cache, prefixes that are kept for reuse among them; None takes 2 GiB on a CPU, and 80 % of what is
    free on a GPU, but never more than `max_running` conversations of full length could fill."""
    block_size: int = 16
    """Tokens of a block of KV cache: what is taken, given back, and shared between requests."""
    prefill_chunk: int | None = None
    """Prompt tokens computed between two decoded tokens of others; None takes 256 on a CPU and 2048 on a GPU."""
    max_prefill: int = 2048
    """Prompt tokens computed at once where nobody is decoding; bounds the activations."""
    tiles_per_step: int | None = None
    """Tiles encoded in a step; None takes as many as make 2048 patches on a CPU and 16384 on a GPU."""
    feature_cache_bytes: int = 256 << 20
    """Bytes of image and video features kept for media that come again; 0 keeps none."""
    prefix_reuse: bool = True
    """Whether the KV cache of a finished request serves later ones that begin alike."""

    def __post_init__(self) -> None:
        from_zero = ("feature_cache_bytes",)
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in from_zero else 1
            if value is not None and not isinstance(value, bool) and value < least:
                raise ConfigError(f"{field.name} of the engine is {value}; give a whole number from {least}")
