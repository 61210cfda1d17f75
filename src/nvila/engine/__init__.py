"""The inference engine: separate phases for vision, prefill and decode, a lean decoder, continuous batching."""

from nvila.engine.config import EngineBusyError, EngineConfig
from nvila.engine.engine import Engine, EngineStats
from nvila.engine.handle import Handle
from nvila.engine.request import Completion, PhaseSeconds
from nvila.engine.sampling import Choice, SamplingParams

__all__ = [
    "Choice",
    "Completion",
    "Engine",
    "EngineBusyError",
    "EngineConfig",
    "EngineStats",
    "Handle",
    "PhaseSeconds",
    "SamplingParams",
]
