"""Paths that are written into files and read from another folder later."""

from __future__ import annotations

import os


def absolute(path: str) -> str:
    """`path` from the root of the file system; an fsspec URL stays as it is."""
    return path if "://" in path or "::" in path else os.path.abspath(path)
