"""The errors that users see.

Every error names what was wrong (the file, both numbers where two disagree) and what to do about it.
They derive from `ValueError` too, so that code which knows nothing of us can catch them as such.
Our own broken invariants are plain `assert`s and never one of these.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NVILAError(ValueError):
    """Base of everything that a user can cause and mend; the command line exits with status 2 on it."""


class CheckpointError(NVILAError):
    """A checkpoint is missing, incomplete, damaged, contradictory, or would run code."""


class ConfigError(NVILAError):
    """A configuration or recipe has an unknown key, a wrong type, or values that contradict each other."""


class MediaError(NVILAError):
    """An image or a video cannot be read, is over a limit, or may not be fetched."""


class PromptError(NVILAError):
    """A conversation is malformed: roles, parts, media counts, or a length over the model's limit."""


class FusionError(NVILAError):
    """The placeholders in the text and the features of the media disagree in number."""


class DataError(NVILAError):
    """A training or evaluation record is malformed, or an asset that a generator needs is missing."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as " (did you mean 'max_tiles'?)" for the known name nearest to `name`, or an empty string."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
