"""Who may start, and who does what in a step. Holds requests and numbers; computes nothing.

Requests start in order of arrival, as soon as all blocks that they can ever need are theirs: nothing that runs is ever
thrown out again. Within a step everybody who decodes gets a token, and a bounded portion of encoding and prefill goes
between: on every other step to whoever came first, and else to whoever needs least, so that a long video neither stalls
a short question nor is stalled by many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from nvila.engine.config import EngineBusyError, EngineConfig
from nvila.engine.kv_cache import BlockPool, BlockTable
from nvila.engine.prompt import Medium
from nvila.engine.request import FinishReason, Request


class Scheduler:
    """The queue, the running requests, and the blocks that they hold."""

    def __init__(
        self,
        config: EngineConfig,
        pool: BlockPool,
        make_table: Callable[[list[int]], BlockTable],
        *,
        prefill_chunk: int,
        tiles_per_step: int,
    ) -> None:
        self.pool = pool
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self._config = config
        self._make_table = make_table
        self._prefill_chunk = prefill_chunk
        self._tiles_per_step = tiles_per_step
        self._num_steps = 0

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, request: Request) -> None:
        """Put `request` at the end of the queue. Raises EngineBusyError, with both numbers, where it is full."""
        count, limit = len(self.waiting), self._config.max_waiting
        if count >= limit:
            raise EngineBusyError(f"{count} requests are waiting, and the limit is {limit}; try again later")
        held, most = sum(other.num_pixel_bytes for other in self.waiting), self._config.max_waiting_bytes
        if self.waiting and held + request.num_pixel_bytes > most:
            raise EngineBusyError(
                f"waiting requests hold {held} bytes of pixels, {request.num_pixel_bytes} more are given, and the "
                f"limit is {most}; try again later"
            )
        self.waiting.append(request)

    def begin_step(self) -> None:
        """Start whoever can start, in order of arrival."""
        self._num_steps += 1
        while self.waiting and len(self.running) < self._config.max_running and self._start(self.waiting[0]):
            self.running.append(self.waiting.popleft())

    def to_encode(self, num_left: Callable[[Medium], int]) -> tuple[list[Request], int]:
        """The requests whose media are encoded in this step, in order, and how many tiles of them at most.

        They are those that the first one shares its tower with; the others have their turn when they are first.
        """
        wanting = [request for request in self.running if not request.is_encoded]
        needs = {id(request): sum(num_left(m) for _, m in request.missing_media()) for request in wanting}
        ordered = self._fair(wanting, lambda request: needs[id(request)])
        return [request for request in ordered if request.tower is ordered[0].tower], self._tiles_per_step

    def to_prefill(self) -> list[tuple[Request, int]]:
        """Requests whose prompts go on in this step, and by how many tokens each."""
        room = self._prefill_chunk if any(request.is_decoding for request in self.running) else self._config.max_prefill
        ready = [request for request in self.running if request.num_prefill_left and request.is_encoded]
        portions: list[tuple[Request, int]] = []
        for request in self._fair(ready, lambda request: request.num_prefill_left):
            count = min(room, request.num_prefill_left)
            if count:
                portions.append((request, count))
            room -= count
        return portions

    def to_decode(self) -> list[Request]:
        """Requests that get one more token."""
        return [request for request in self.running if request.is_decoding]

    def note_computed(self, request: Request, num_tokens: int) -> None:
        """`num_tokens` more of `request` are in the cache; blocks that are complete may serve others."""
        assert request.table is not None
        request.advance(num_tokens)
        if self._config.prefix_reuse:
            complete = request.num_computed // self._config.block_size
            for index in range(request.num_remembered, complete):
                self.pool.remember(request.table.blocks[index], request.digests[index])
            request.num_remembered = complete

    def end(self, request: Request, reason: FinishReason) -> None:
        """Take `request` out, wherever it is, and give its blocks back."""
        if request in self.waiting:
            self.waiting.remove(request)
        if request in self.running:
            self.running.remove(request)
        if request.table is not None:
            self.pool.release(request.table.blocks)
        request.finish(reason)

    def _start(self, request: Request) -> bool:
        """Give `request` its blocks, those of a known beginning among them; False where there are too few."""
        size = self._config.block_size
        # The last prompt token is computed in any case: its logits are the first answer.
        usable = (request.num_prompt - 1) // size if self._config.prefix_reuse else 0
        known = self.pool.match(request.digests[:usable])
        fresh = self.pool.allocate(request.num_blocks - len(known), after=known[-1] if known else None)
        if fresh is None:
            self.pool.release(known)
            return False
        request.table = self._make_table([*known, *fresh])
        request.num_cached = request.num_computed = len(known) * size
        request.num_remembered = len(known)
        return True

    def _fair(self, requests: list[Request], need: Callable[[Request], int]) -> list[Request]:
        return sorted(requests, key=need) if self._num_steps % 2 else requests
