"""Protobuf's wire and text formats: messages walked without their schema and without the protobuf package."""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterator
from typing import Union

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types


class DamagedError(Exception):
    """The bytes are no message."""


def read_fields(message: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """(field number, wire type, content) of each field; the content of a varint is its bytes.

    Raises:
        DamagedError: the bytes are no message.
    """
    position = 0
    while position < len(message):
        key, position = read_varint(message, position)
        number, wire_type = key >> 3, key & 7
        start = position
        if wire_type == VARINT:
            _, position = read_varint(message, position)
            yield number, wire_type, message[start:position]
            continue
        if wire_type == BYTES:
            length, start = read_varint(message, position)
        elif wire_type in (FIXED32, FIXED64):
            length = 4 if wire_type == FIXED32 else 8
        else:
            raise DamagedError(f"wire type {wire_type}")
        position = start + length
        if position > len(message) or number == 0:
            raise DamagedError("a field reaches past the end")
        yield number, wire_type, message[start:position]


def read_messages(message: memoryview, number: int) -> list[memoryview]:
    """The messages and texts of the field ``number``. Raises DamagedError."""
    return [content for field_number, wire, content in read_fields(message) if (field_number, wire) == (number, BYTES)]


def read_text(message: memoryview, number: int) -> str:
    """The last text of the field ``number``, empty where it is not there. Raises DamagedError, UnicodeDecodeError."""
    found = read_messages(message, number)
    return bytes(found[-1]).decode() if found else ""


def read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """(value, position behind it)."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise DamagedError("it ends early")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise DamagedError("a number without end")


def to_number(wire_type: int, content: memoryview) -> int:
    """The non-negative integer that a field of numbers holds."""
    if wire_type == VARINT:
        return read_varint(content, 0)[0]
    if wire_type in (FIXED32, FIXED64):
        return int.from_bytes(content, "little")
    raise DamagedError("expected a number")


def to_float(wire_type: int, content: memoryview) -> float:
    """The float32 that a field holds."""
    if wire_type != FIXED32:
        raise DamagedError("expected a float")
    return float(struct.unpack("<f", content)[0])


# --- The text format, as pipeline.config and label maps have it.

MAX_CHARACTERS = 2**21
MAX_MESSAGE_DEPTH = 50
TOKEN = re.compile(
    r"\s+|#[^\n]*"  # passed over
    r"|(?P<word>[A-Za-z_][\w.]*|[-+]?(?:\d[\w.+-]*|\.\d[\w+-]*))"
    r"|(?P<text>\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')"
    r"|(?P<mark>[{}<>:\[\],;])"
)
ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|[xX]([\da-fA-F]{1,2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([abfnrtv\\'\"?]))?")
SINGLE_ESCAPES = dict(zip("abfnrtv\\'\"?", b"\a\b\f\n\r\t\v\\'\"?", strict=True))

Message = dict[str, list[Union["Message", str]]]


def parse_textproto(text: str) -> Message:
    """Field names to lists of messages and words (numbers, names and texts alike, as they stand).

    Raises:
        DamagedError: it is not that format.
    """
    if len(text) > MAX_CHARACTERS:
        raise DamagedError(f"{len(text)} characters, more than the {MAX_CHARACTERS} that are read")
    try:
        return _parse_message(_tokens(text), "", 0)
    except ValueError as error:
        raise DamagedError(f"not protobuf's text format, or damaged ({error})") from None


def parse_label_map(text: str) -> dict[int, str]:
    """The names of a label map of the TensorFlow Object Detection API (.pbtxt) by their ids from 1 on.

    Raises:
        DamagedError: it is damaged, or its ids are not usable.
    """
    names: dict[int, str] = {}
    for item in parse_textproto(text).get("item", []):
        fields = item if isinstance(item, dict) else {}
        words = [value for key in ("display_name", "name") for value in fields.get(key, [])[-1:]]
        name = next((word for word in words if isinstance(word, str) and word), "")
        number = fields.get("id", ["-1"])[-1]
        if not isinstance(number, str) or not re.fullmatch(r"\d{1,5}", number) or int(number) in names:
            shown = number if isinstance(number, str) else "a message"
            raise DamagedError(f"{name!r} has the id {shown[:80]}: expected different ones from 1 on")
        names[int(number)] = name
    names.pop(0, None)  # background, where it is listed
    if not names:
        raise DamagedError("expected items with a name and an id, found none")
    return names


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """(kind, token) of each; at the end empty ones without end."""
    position = 0
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None or match.end() == position:
            raise ValueError(f"unexpected {text[position]!r} at character {position}")
        position = match.end()
        if match.lastgroup:
            yield match.lastgroup, match.group()
    yield from itertools.repeat(("", ""))


def _parse_message(tokens: Iterator[tuple[str, str]], end: str, depth: int) -> Message:
    """The fields up to the token ``end``."""
    if depth > MAX_MESSAGE_DEPTH:
        raise ValueError(f"messages {depth} deep")
    fields: Message = {}
    for kind, name in tokens:
        if name == end:
            break
        if name in (",", ";"):
            continue
        if kind != "word":
            raise ValueError(f"expected a field, got {name or 'the end'!r}")
        values = fields.setdefault(name, [])
        first = next(tokens)
        if first[1] == ":":
            first = next(tokens)
        if first[1] == "[":
            listed = itertools.takewhile(lambda token: token[1] != "]", tokens)
            values += [_parse_value(tokens, *token, depth) for token in listed if token[1] != ","]
        else:
            values.append(_parse_value(tokens, *first, depth))
    return fields


def _parse_value(tokens: Iterator[tuple[str, str]], kind: str, token: str, depth: int) -> Message | str:
    """What begins with ``token``: a message, a text without its quotes, or a word."""
    if token in ("{", "<"):
        return _parse_message(tokens, "}" if token == "{" else ">", depth + 1)
    if kind == "text":
        return _unquoted(token)
    if kind == "word":
        return token
    raise ValueError(f"expected a value, got {token or 'the end'!r}")


def _unquoted(token: str) -> str:
    """A text in quotes -> what it says. Its escapes stand for bytes of UTF-8, but for those of Unicode."""
    inner, content, position = token[1:-1], bytearray(), 0
    for match in ESCAPE.finditer(inner):
        content += inner[position : match.start()].encode() + _escaped_bytes(match)
        position = match.end()
    return (content + inner[position:].encode()).decode()


def _escaped_bytes(escape: re.Match[str]) -> bytes:
    octal, hexadecimal, short, long, one = escape.groups()
    if octal or hexadecimal:
        return bytes([int(octal, 8) & 0xFF if octal else int(hexadecimal, 16)])
    if short or long:
        return chr(int(short or long, 16)).encode()
    if not one:
        raise ValueError(f"an unknown escape {escape.string[escape.start() : escape.start() + 2]!r}")
    return bytes([SINGLE_ESCAPES[one]])
