"""What a caller holds of a request: its answer as it comes, or whole, and the way to end it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nvila.engine.request import Completion, Request

if TYPE_CHECKING:
    from nvila.engine.engine import Engine


class Handle:
    """A request that was given to an engine."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self._engine = engine
        self.request = request

    @property
    def is_done(self) -> bool:
        return self.request.finish_reason is not None

    @property
    def num_generated(self) -> int:
        """Tokens of the answer so far."""
        return self.request.num_generated

    def pieces(self) -> Iterator[str]:
        """The answer's text as it comes, driving the engine; leaving the loop early cancels the request.

        Raises what went wrong with this request.
        """
        try:
            while not self.is_done or self.request.pieces:
                while self.request.pieces:
                    yield self.request.pieces.popleft()
                if not self.is_done:
                    self._engine.step()
        finally:
            self.cancel()
        self._raise_error()

    def result(self) -> Completion:
        """The whole answer, driving the engine until it is there; an interrupt cancels the request.

        Raises what went wrong with this request.
        """
        try:
            while not self.is_done:
                self._engine.step()
        finally:
            self.cancel()
        self._raise_error()
        return self.request.completion()

    def cancel(self) -> None:
        """End the request now, wherever it is, and free what it holds; one that has ended stays as it is."""
        self._engine.cancel(self)

    def _raise_error(self) -> None:
        if self.request.error is not None:
            raise self.request.error
