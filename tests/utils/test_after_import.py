"""The hook acts once, after the outermost watched import, wherever in it the trigger was loaded."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvila.utils.after_import import AfterImport

FILES = {
    "pkg_a/__init__.py": "",
    "pkg_a/trigger.py": "READY = True\n",
    "pkg_a/outer.py": "import pkg_a.trigger\nimport pkg_b.half\nEND = True\n",
    "pkg_a/broken.py": "import pkg_a.trigger\nraise RuntimeError('broken')\n",
    "pkg_b/__init__.py": "",
    "pkg_b/half.py": "END = True\n",
}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    finders = list(sys.meta_path)
    yield
    sys.meta_path[:] = finders
    for name in [name for name in sys.modules if name.partition(".")[0] in ("pkg_a", "pkg_b")]:
        del sys.modules[name]


def install(calls: list[bool]) -> AfterImport:
    """A hook whose action notes whether the outer module was complete."""

    def action() -> None:
        outer = sys.modules.get("pkg_a.outer")
        calls.append(outer is None or "END" in vars(outer))
        importlib.import_module("pkg_b.half")

    hook = AfterImport(trigger="pkg_a.trigger", watched=("pkg_a", "pkg_b"), action=action)
    hook.install()
    return hook


@pytest.mark.usefixtures("packages")
def test_acts_after_the_outermost_import_and_once() -> None:
    calls: list[bool] = []
    hook = install(calls)
    importlib.import_module("pkg_a")
    assert calls == []
    importlib.import_module("pkg_a.outer")
    assert calls == [True]
    assert hook not in sys.meta_path
    importlib.import_module("pkg_b.half")
    assert calls == [True]


@pytest.mark.usefixtures("packages")
def test_acts_at_once_when_the_trigger_is_there() -> None:
    importlib.import_module("pkg_a.trigger")
    calls: list[bool] = []
    hook = install(calls)
    assert calls == [True]
    assert hook not in sys.meta_path


@pytest.mark.usefixtures("packages")
def test_does_not_act_on_an_import_that_failed() -> None:
    calls: list[bool] = []
    hook = install(calls)
    with pytest.raises(RuntimeError, match="broken"):
        importlib.import_module("pkg_a.broken")
    assert calls == []
    assert hook in sys.meta_path
    importlib.import_module("pkg_a.outer")
    assert calls == [True]


@pytest.mark.usefixtures("packages")
def test_modules_keep_their_own_loader() -> None:
    install([])
    module = importlib.import_module("pkg_a.trigger")
    assert type(module.__loader__).__name__ == "SourceFileLoader"
    assert module.__spec__ is not None
    assert module.__spec__.loader is module.__loader__


@pytest.mark.usefixtures("packages")
def test_failing_action_reaches_the_import_and_is_tried_again() -> None:
    attempts: list[int] = []

    def action() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise RuntimeError("cannot register")

    hook = AfterImport(trigger="pkg_a.trigger", watched=("pkg_a",), action=action)
    hook.install()
    with pytest.raises(RuntimeError, match="cannot register"):
        importlib.import_module("pkg_a.trigger")
    importlib.import_module("pkg_a.trigger")
    assert len(attempts) == 2
    assert hook not in sys.meta_path
