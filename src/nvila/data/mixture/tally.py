"""Counting broken samples: each is logged once, and a source with too many of them stops the stream.

Kept by the process that consumes the stream, so that what workers read ahead counts only when it is handed out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nvila.data.mixture.mixture import Broken, Draw
from nvila.errors import DataError
from nvila.utils.logging import get_logger

logger = get_logger(__name__)

MIN_READ = 100
"""A source is judged as if at least so many samples had been read: one bad sample at the start is no bad source."""


class Tally:
    """How many samples of each source were read and how many of them were broken, on this rank."""

    def __init__(self, names: Sequence[str], max_broken_share: float) -> None:
        """`names`: of the sources, by number. `max_broken_share`: 0.05 stops above 5 broken of the first 100."""
        self._names = tuple(names)
        self._max_share = max_broken_share
        self.num_read = [0] * len(names)
        self.num_broken = [0] * len(names)
        self._logged: set[tuple[int, int]] = set()

    def add(self, draw: Draw[Any]) -> None:
        """Count one draw. Raises DataError when its source has too many broken samples or none that can be read."""
        self.num_read[draw.source] += len(draw.broken) + (draw.item is not None)
        self.num_broken[draw.source] += len(draw.broken)
        for broken in draw.broken:
            self._log_once(broken)
        self._judge(draw)

    def _log_once(self, broken: Broken) -> None:
        if (broken.source, broken.index) not in self._logged:
            self._logged.add((broken.source, broken.index))
            name = self._names[broken.source]
            logger.warning("%s: broken sample at %s, replaced by another: %s", name, broken.place, broken.reason)

    def _judge(self, draw: Draw[Any]) -> None:
        name, read, broken = self._names[draw.source], self.num_read[draw.source], self.num_broken[draw.source]
        if draw.item is None:
            last = draw.broken[-1]
            raise DataError(
                f"source {name!r}: none of {len(draw.broken)} samples tried for one position can be read; "
                f"the last is {last.place}: {last.reason}"
            )
        if broken > self._max_share * max(read, MIN_READ):
            raise DataError(
                f"source {name!r}: {broken} of {read} samples read are broken, more than the "
                f"{self._max_share:.1%} that max_broken_share allows; repair the source, drop them, or raise the limit"
            )

    def state_dict(self) -> dict[str, list[int]]:
        """[num_broken, num_read] of each source that was read, by name."""
        counts = zip(self._names, self.num_broken, self.num_read, strict=True)
        return {name: [broken, read] for name, broken, read in counts if read}

    def load_state_dict(self, state: Mapping[str, Sequence[int]]) -> None:
        """Go on from counts that `state_dict` gave; sources that it does not name start from 0."""
        for number, name in enumerate(self._names):
            self.num_broken[number], self.num_read[number] = state.get(name, (0, 0))


def add_up(states: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, list[int]]:
    """The counts of several ranks as one."""
    names = dict.fromkeys(name for state in states for name in state)
    return {name: [sum(state.get(name, (0, 0))[part] for state in states) for part in (0, 1)] for name in names}
