"""Pieces of Markdown, safe for whatever names a model brings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence


def code(text: str) -> str:
    """``text`` as a code span; line breaks become spaces, and it may stand in a table."""
    flat = re.sub(r"\s+", " ", text).strip().replace("|", r"\|")
    longest = max((len(run) for run in re.findall("`+", flat)), default=0)
    fence = "`" * (longest + 1)
    padding = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{padding}{flat}{padding}{fence}"


def numbers(values: Sequence[float]) -> str:
    """``127.5, 127.5, 127.5``"""
    return ", ".join(f"{value:g}" for value in values)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table without those columns that have nothing in them, and an empty line."""
    filled = [i for i in range(len(headings)) if any(row[i] for row in rows)]
    yield "| " + " | ".join(headings[i] for i in filled) + " |"
    yield "|" + "---|" * len(filled)
    for row in rows:
        yield "| " + " | ".join(row[i] for i in filled) + " |"
    yield ""
