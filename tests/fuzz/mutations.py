"""Damage that knows what it damages: documents, bytes with lengths in them, XML, arrays. One ``Random`` decides all."""

from __future__ import annotations

import contextlib
import copy
import re
import sys
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np

NUMBERS = (0, -1, 1, 3, 0.5, -0.0, 1e-300, 1e300, -1e300, 2**31 - 1, 2**31, 2**62, 2**64, 10**30)
NUMBERS_OF_NO_SIZE = (float("nan"), float("inf"), float("-inf"))
TEXTS = (
    "",
    " ",
    "0",
    "NaN",
    "\ud800",
    "a\x00b",
    "../../escape",
    "/absolute",
    "a" * 50_000,
    "类别",
    "[red]",
    "%s",
    "\r\n",
    "\x1b[2J",
)
SMALL_PARTS = (None, True, False, [], {}, [[]], {"": None})
FIELDS = (
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x80",
    b"\x01\x00\x00\x00",
    b"\xff" * 10,
)


def strange_value(random: Random) -> Any:
    """A number, text or part that a reader does not expect."""
    kind = random.randrange(8)
    if kind < 3:
        return random.choice(NUMBERS + NUMBERS_OF_NO_SIZE)
    if kind < 6:
        return random.choice(TEXTS)
    if kind == 6:
        return copy.deepcopy(random.choice(SMALL_PARTS))
    return nested(random.choice((3, 50, 5000)), random)


def strange_text(random: Random) -> str:
    """The same, written out."""
    value = strange_value(random)
    return "[" * 5000 if isinstance(value, (list, dict)) else str(value)


def nested(depth: int, random: Random) -> Any:
    """``depth`` lists or mappings in one another."""
    value: Any = 1
    in_list = random.random() < 0.5
    for _ in range(depth):
        value = [value] if in_list else {"a": value}
    return value


@contextlib.contextmanager
def deep_recursion() -> Iterator[None]:
    """For what is nested deeply."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(50_000)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def mutate_document(document: Any, random: Random) -> Any:
    """A copy of a document of JSON's types with one to four parts replaced, dropped, doubled, renamed or exchanged."""
    with deep_recursion():
        holder = [copy.deepcopy(document)]
        for _ in range(random.randint(1, 4)):
            _mutate_part(holder, random)
    return holder[0]


def _mutate_part(holder: list[Any], random: Random) -> None:
    parent, key = _choose_place(holder, random)
    kind = random.randrange(9)
    if kind < 4:
        parent[key] = strange_value(random)
    elif kind == 4 and parent is not holder:
        del parent[key]
    elif kind == 5 and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    elif kind == 6 and isinstance(parent, dict):
        parent[random.choice((key.upper() if isinstance(key, str) else "x", "", "id", "name"))] = parent.pop(key)
    elif kind == 7:
        other, place = _choose_place(holder, random)
        parent[key] = copy.deepcopy(other[place])
    elif isinstance(parent[key], (int, float)) and not isinstance(parent[key], bool):
        parent[key] = random.choice((str(parent[key]), parent[key] * 1000, -parent[key], [parent[key]]))


def _choose_place(holder: list[Any], random: Random) -> tuple[Any, Any]:
    """A container and a key in it, by going down at random."""
    parent: Any = holder
    key: Any = 0
    while isinstance(parent[key], (dict, list)) and parent[key] and random.random() < 0.97:
        parent = parent[key]
        key = random.choice(list(parent)) if isinstance(parent, dict) else random.randrange(len(parent))
    return parent, key


def mutate_bytes(data: bytes, random: Random) -> bytes:
    """One to eight bits, bytes, fields of lengths, cuts, repeats and insertions."""
    damaged = bytearray(data)
    for _ in range(random.randint(1, 8)):
        if not damaged:
            return bytes(random.randbytes(random.randrange(64)))
        # Headers are short and decide much: half of the damage is done to them.
        place = random.randrange(min(len(damaged), 256) if random.random() < 0.5 else len(damaged))
        kind = random.randrange(7)
        if kind == 0:
            damaged[place] ^= 1 << random.randrange(8)
        elif kind == 1:
            damaged[place] = random.randrange(256)
        elif kind == 2:
            field = random.choice(FIELDS)
            damaged[place : place + len(field)] = field
        elif kind == 3:
            damaged[place : place + random.randint(1, 64)] = random.randbytes(random.randrange(64))
        elif kind == 4:
            del damaged[place : place + random.randint(1, 256)]
        elif kind == 5:
            damaged[place:place] = damaged[place : place + random.randint(1, 256)] * random.choice((1, 2, 50))
        elif random.random() < 0.3:
            del damaged[place:]
    return bytes(damaged)


def mutate_xml(text: str, random: Random) -> str:
    """Values, elements, attributes and declarations."""
    for _ in range(random.randint(1, 4)):
        elements = list(re.finditer(r"<(\w+)>([^<]*)</\1>", text))
        if not elements:
            break
        found = random.choice(elements)
        name, kind = found.group(1), random.randrange(6)
        value = strange_text(random).encode("utf-8", "replace").decode()
        replacements = (
            f"<{name}>{value.replace('<', '')}</{name}>",
            "",
            found.group() * random.choice((2, 50)),
            f'<{name} a="{value[:100].replace(chr(34), "").replace("<", "")}">{found.group(2)}</{name}>',
            f"<{name}><{name}>{found.group(2)}</{name}></{name}>",
            f"<{name}>{found.group(2)}",
        )
        text = text[: found.start()] + replacements[kind] + text[found.end() :]
    if random.random() < 0.1:
        text = random.choice(
            (
                '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]>' + text,
                '<!DOCTYPE a SYSTEM "file:///etc/hostname">' + text,
                '<?xml version="1.0" encoding="utf-16"?>' + text,
                text + "<!--" + "x" * 100_000 + "-->",
            )
        )
    return text


def strange_array(random: Random) -> Any:
    """An array of some type and shape, or of none that pictures have."""
    shape = random.choice(
        (
            (),
            (0,),
            (3,),
            (8, 8),
            (8, 8, 1),
            (8, 8, 2),
            (8, 8, 3),
            (8, 8, 4),
            (0, 8, 3),
            (2, 8, 8, 3),
            (1, 1, 3),
            (3, 8, 8),
            (1, 2000, 3),
        )
    )
    kind = random.choice(
        ("uint8", "int8", "uint16", "int64", "float16", "float32", "float64", "bool", "complex64", "U3", "O")
    )
    values = np.random.default_rng(random.randrange(2**32)).random(shape) * random.choice((1, 255, 1e6, -1))
    array = np.asarray(values).astype(kind) if kind != "O" else np.full(shape, None)
    if kind.startswith("float") and array.size and random.random() < 0.3:
        array.flat[0] = random.choice(NUMBERS_OF_NO_SIZE)
    forms = (lambda a: a, np.flip, lambda a: a.T, lambda a: a.tolist(), lambda a: [a, a])
    return random.choice(forms)(array)
