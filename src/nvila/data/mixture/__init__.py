"""Mixtures of data sets: how much of each, in which order, for which rank, and how to go on after a stop.

Read config.py (the file), mixture.py (what is opened), order.py (the order), stream.py (following it), state.py
(stopping and going on), ids.py (keep-lists and drop-lists) and tally.py (broken samples).
"""

from __future__ import annotations

from nvila.data.mixture.config import MixtureConfig, SourceConfig, data_config
from nvila.data.mixture.ids import KnowsIds, hash_id, hash_ids
from nvila.data.mixture.mixture import Broken, Draw, Mixture
from nvila.data.mixture.state import merge_states
from nvila.data.mixture.stream import MixtureStream, as_is

__all__ = [
    "Broken",
    "Draw",
    "KnowsIds",
    "Mixture",
    "MixtureConfig",
    "MixtureStream",
    "SourceConfig",
    "as_is",
    "data_config",
    "hash_id",
    "hash_ids",
    "merge_states",
]
