"""Parts of sentences for messages."""

from __future__ import annotations

from collections.abc import Iterable


def listing(items: Iterable[str], most: int = 8, separator: str = ", ") -> str:
    """The first items, and how many there are besides: what a message can hold of a list of any length."""
    items = list(items)
    more = f"{separator.replace(',', '')}and {len(items) - most} more" if len(items) > most else ""
    return separator.join(items[:most]) + more


def counted(number: int, noun: str) -> str:
    """``1 image``, ``2 images``, ``3 classes``."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number} {noun if number == 1 else plural}"
