"""Long lists of names written compactly: one string with `|` between the names."""

from __future__ import annotations


def listed(text: str) -> tuple[str, ...]:
    """`"a|b c|d"` as `("a", "b c", "d")`."""
    return tuple(text.split("|"))
