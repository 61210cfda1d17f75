"""The package's loggers: set up by a command, never by an import.

A program that imports us gets plain `logging` loggers below "nvila" without handlers, and decides by itself.
"""

from __future__ import annotations

import logging
import os
import sys

FORMAT = "%(asctime)s %(levelname).1s %(name)s: %(message)s"
PLAIN = "%(asctime)s %(message)s"
"""For a command whose records are its report."""


def get_logger(name: str) -> logging.Logger:
    """The logger of a module: `get_logger(__name__)`."""
    return logging.getLogger(name)


def set_up(level: int = logging.INFO, *, text: str = FORMAT) -> None:
    """Send the package's records of `level` and above to standard error. Called once by a command; again changes the
    level only."""
    logger = logging.getLogger("nvila")
    logger.setLevel(level)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(text, datefmt="%H:%M:%S"))
        logger.addHandler(handler)


def quiet_libraries() -> None:
    """Keep what the libraries below us say about themselves off a command's standard error.

    Their switches are environment variables read when they are imported, so this comes before; what the user has
    set stays as it is.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
