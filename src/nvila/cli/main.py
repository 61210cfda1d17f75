"""The entry point of the command `nvila`: its verbs, its errors, its exit statuses.

Only the module of the verb that is asked for is imported; the others are listed from the table below, so that
`nvila --help` costs neither torch nor them. Exit statuses: 0 done, 2 an error of the user's making (one line on
standard error), 130 interrupted; anything else is a bug of ours and shows its traceback.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer

from nvila import __version__
from nvila.errors import NVILAError
from nvila.utils.logging import quiet_libraries

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A command of `nvila`: the module `nvila.cli.<name>` holds a function `<name>`, or a typer `app` of sub-verbs."""

    name: str
    help: str
    is_group: bool = False

    def load(self) -> Callable[..., Any] | typer.Typer:
        """The verb's function or app; imports its module."""
        module = import_module(f"nvila.cli.{self.name}")
        target: Callable[..., Any] | typer.Typer = module.__dict__["app" if self.is_group else self.name]
        return target


VERBS = (
    Verb(name="ask", help="Ask about images and videos, and print the answer."),
    Verb(name="convert", help="Write a checkpoint in another layout."),
    Verb(name="train", help="Train by a recipe."),
    Verb(name="finetune", help="Fine-tune a checkpoint on your data."),
    Verb(name="quantize", help="Write a checkpoint in 8 and 4 bits."),
    Verb(name="eval", help="Score a model on held-out tasks."),
    Verb(name="prune", help="Score, choose and look at training samples.", is_group=True),
    Verb(name="data", help="Fetch, make and look at training data.", is_group=True),
)


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """The typer application with the real command for the verb in `arguments`, and names alone for the others."""
    app = typer.Typer(
        name="nvila",
        help="Efficient vision-language models: ask, train, convert and measure NVILA.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_global_options)
    asked = next((argument for argument in arguments if not argument.startswith("-")), None)
    for verb in VERBS:
        target = verb.load() if verb.name == asked else _listed_only
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=verb.name, help=verb.help)
        else:
            app.command(verb.name, short_help=verb.help)(target)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (default: the process's own) and return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    quiet_libraries()
    # Typer names the class of its usage errors at different places in different releases; this one is their child.
    usage_error: type[Any] = typer.BadParameter.__mro__[1]
    try:
        return int(build_app(given)(given, prog_name="nvila", standalone_mode=False) or 0)
    except usage_error as error:
        return _report(str(error.format_message()), given)
    except NVILAError as error:
        return _report(str(error), given)
    except OSError as error:
        return _report(_describe(error), given)
    except (KeyboardInterrupt, typer.Abort):
        print("nvila: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"nvila {__version__}")
        raise typer.Exit(0)


def _global_options(
    version: bool = typer.Option(
        False, "--version", help="Print the version and leave.", callback=_print_version, is_eager=True
    ),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error (also: NVILA_DEBUG=1)."),
) -> None:
    """Efficient vision-language models: ask, train, convert and measure NVILA."""


def _listed_only() -> None:
    raise AssertionError("a verb that was not asked for was run")


def _report(message: str, arguments: Sequence[str]) -> int:
    """One line on standard error, with the traceback above it for who asked for it."""
    if "--debug" in arguments or os.environ.get("NVILA_DEBUG", "") not in ("", "0"):
        traceback.print_exc()
    line = " ".join(message.split())
    print(f"nvila: error: {line}", file=sys.stderr)
    return EXIT_USER_ERROR


def _describe(error: OSError) -> str:
    """What the operating system said, the file first: "out/model.safetensors: No space left on device"."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{os.fsdecode(error.filename)}: {reason}" if error.filename else reason


if __name__ == "__main__":
    sys.exit(main())
