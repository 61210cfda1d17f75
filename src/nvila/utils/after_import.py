"""Doing something once a library has been imported, without importing it.

Registering our classes with transformers' Auto classes needs transformers and torch, seconds that `import nvila` and
`nvila --help` must not cost. So it waits until somebody imports transformers' Auto classes. It must not run in the
middle of that import: our own modules import transformers too, and would meet it half made. Hence the hook follows
every import below `watched` and acts when the outermost of them is complete.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class AfterImport(MetaPathFinder):
    """Runs `action` once, after `trigger` and whatever was importing it are complete.

    `watched` are the top-level packages whose modules may be importing `trigger` or what `action` needs. Takes itself
    out of `sys.meta_path` when `action` has succeeded; what `action` raises reaches the import that set it off.
    """

    def __init__(self, *, trigger: str, watched: Sequence[str], action: Callable[[], None]) -> None:
        self._trigger = trigger
        self._watched = frozenset(watched)
        self._action = action
        self._running = False
        self._local = threading.local()

    def install(self) -> None:
        """Act now if `trigger` is here already, or else start to watch."""
        if self._trigger in sys.modules:
            self._action()
        else:
            self._local.depth = 0
            sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The usual spec, its loader telling us when the module begins and ends; None for what is not watched."""
        if fullname.partition(".")[0] not in self._watched:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        # The loader is this module's own object and stays in place, for those who ask it for sources and resources.
        loader: Any = spec.loader
        loader.exec_module = partial(self._execute, loader.exec_module)
        return spec

    def _execute(self, exec_module: Callable[[ModuleType], None], module: ModuleType) -> None:
        """Run a watched module, and act if it was the outermost one."""
        self._local.depth = self._depth() + 1
        try:
            exec_module(module)
        finally:
            self._local.depth -= 1
        if self._depth() or self._running or self._trigger not in sys.modules:
            return
        self._running = True
        try:
            self._action()
            sys.meta_path.remove(self)
        finally:
            self._running = False

    def _depth(self) -> int:
        # Each thread counts its own imports; a thread that has not imported anything yet has no count.
        return int(self._local.__dict__.get("depth", 0))
