"""Whether an ONNX file stands alone, found by walking its bytes: protobuf's wire format, without the onnx package."""

from __future__ import annotations

from collections.abc import Iterator

from ssdlite.errors import ContractError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
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
    except _DamagedError:
        raise ContractError(f"{where}: not an ONNX model, or damaged") from None


class _DamagedError(Exception):
    pass


def _walk(message: memoryview, kind: str, where: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _DamagedError
    inner = MESSAGES[kind]
    for number, wire_type, value in _fields(message):
        if kind == "Tensor" and number in (TENSOR_EXTERNAL_DATA, TENSOR_DATA_LOCATION) and value:
            raise ContractError(f"{where}: its weights lie in other files, which are not read; export it as one file")
        if number in inner and wire_type == BYTES:
            _walk(value, inner[number], where, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """(field number, wire type, content) of each field; the content of a number is empty where that is 0."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire_type = key >> 3, key & 7
        start = position
        if wire_type == VARINT:
            value, position = _varint(message, position)
            yield number, wire_type, message[start:position] if value else message[:0]
            continue
        if wire_type == BYTES:
            length, start = _varint(message, position)
        elif wire_type in (FIXED32, FIXED64):
            length = 4 if wire_type == FIXED32 else 8
        else:
            raise _DamagedError
        position = start + length
        if position > len(message) or number == 0:
            raise _DamagedError
        yield number, wire_type, message[start:position]


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise _DamagedError
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _DamagedError
