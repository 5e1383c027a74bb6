"""Whether an ONNX file stands alone, found by walking its bytes: protobuf's wire format, without the onnx package."""

from __future__ import annotations

from ssdlite.errors import ContractError
from ssdlite.protobuf_wire import BYTES, VARINT, DamagedError, read_fields, to_number

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
