"""Protobuf's wire format: the fields of a message, walked without its schema and without the protobuf package."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ssdlite.errors import ContractError

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


# --- Whether an ONNX file stands alone, found by walking its bytes: protobuf's wire format, without the onnx package.

MAX_DEPTH = 100  # of messages in messages, as protobuf itself allows

# message: {field number: message that stands there}, as far as tensors can be reached (onnx.proto3)
MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
TENSOR_EXTERNAL_DATA, TENSOR_DATA_LOCATION = 13, 14


def check_self_contained(content: bytes, where: str) -> None:
    """Refuse a model whose tensors lie in other files; ``where`` is its name, for the message.

    Raises:
        ContractError: some do, or the bytes are no protobuf.
    """
    try:
        _walk(memoryview(content), "Model", where, 0)
    except DamagedError:
        raise ContractError(f"{where}: not an ONNX model, or damaged") from None


def _walk(message: memoryview, kind: str, where: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise DamagedError(f"messages {depth} deep")
    inner = MESSAGES[kind]
    for number, wire_type, value in read_fields(message):
        is_set = to_number(wire_type, value) if wire_type == VARINT else len(value)
        if kind == "Tensor" and number in (TENSOR_EXTERNAL_DATA, TENSOR_DATA_LOCATION) and is_set:
            raise ContractError(f"{where}: its weights lie in other files, which are not read; export it as one file")
        if number in inner and wire_type == BYTES:
            _walk(value, inner[number], where, depth + 1)
