"""Protobuf's wire format: the fields of a message, walked without its schema and without the protobuf package."""

from __future__ import annotations

import struct
from collections.abc import Iterator

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
