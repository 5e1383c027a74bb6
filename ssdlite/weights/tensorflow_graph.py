"""Constants out of a frozen graph of TensorFlow: a GraphDef, whose variables have become constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssdlite.errors import CheckpointError
from ssdlite.protobuf_wire import BYTES, DamagedError, read_fields, read_varint, to_float, to_number
from ssdlite.weights.file_kinds import GRAPH, damaged_file
from ssdlite.weights.tensorflow_files import (
    DAMAGE,
    FLOAT,
    INT32,
    KINDS,
    MAX_ENTRIES,
    TensorFlowFile,
    Variable,
    load_file,
    read_shape,
)


def read_frozen_graph(path: Path) -> TensorFlowFile:
    """The constants of a frozen graph (GraphDef).

    Raises:
        CheckpointError: truncated or damaged.
    """
    content = load_file(path)
    variables: dict[str, Variable] = {}
    operators: dict[str, str] = {}
    epsilons: set[float] = set()
    try:
        for number, wire_type, node in read_fields(memoryview(content)):
            if number != 1 or wire_type != BYTES:
                continue
            name, operator, attributes = _node(node)
            operators[name] = operator
            if len(operators) > MAX_ENTRIES:
                raise DamagedError(f"more than {MAX_ENTRIES} operators")
            if operator == "Const" and "value" in attributes:
                variables[name] = _constant(attributes["value"], str(path))
            elif operator.startswith("FusedBatchNorm") and "epsilon" in attributes:
                epsilons.update(
                    to_float(kind, value) for n, kind, value in read_fields(attributes["epsilon"]) if n == 4
                )
    except DAMAGE as error:
        raise damaged_file(path, GRAPH, error) from None
    return TensorFlowFile(str(path), variables, operators, tuple(sorted(epsilons)))


def _node(message: memoryview) -> tuple[str, str, dict[str, memoryview]]:
    """(name, operator, attributes) of a NodeDef."""
    name = operator = ""
    attributes: dict[str, memoryview] = {}
    for number, wire_type, value in read_fields(message):
        if number == 1 and wire_type == BYTES:
            name = bytes(value).decode()
        elif number == 2 and wire_type == BYTES:
            operator = bytes(value).decode()
        elif number == 5 and wire_type == BYTES:
            entry = {number: content for number, _, content in read_fields(value)}
            attributes[bytes(entry.get(1, b"")).decode()] = entry.get(2, memoryview(b""))
    return name, operator, attributes


def _constant(attribute: memoryview, path: str) -> Variable:
    """Of an AttrValue that holds a TensorProto (tensorflow/core/framework/tensor.proto)."""
    tensor = next((value for number, _, value in read_fields(attribute) if number == 8), memoryview(b""))
    kind, raw = 0, memoryview(b"")
    shape: tuple[int, ...] = ()
    for number, wire_type, value in read_fields(tensor):
        if number == 1:
            kind = to_number(wire_type, value)
        elif number == 2:
            shape = read_shape(value)
        elif number == 4:
            raw = value

    def read() -> npt.NDArray[np.float32]:
        size = int(np.prod(shape, dtype=np.float64))
        if len(raw) == size * KINDS[kind].itemsize:
            return np.frombuffer(raw, KINDS[kind]).astype(np.float32).reshape(shape)
        return _listed(tensor, kind, shape, size, path)

    return Variable(shape, kind, read)


def _listed(tensor: memoryview, kind: int, shape: tuple[int, ...], size: int, path: str) -> npt.NDArray[np.float32]:
    """Values that a TensorProto lists one by one; the last stands for all that are not listed."""
    values: list[float] = []
    try:
        for number, wire_type, value in read_fields(tensor):
            if number == 5 and kind == FLOAT:
                values += np.frombuffer(value, "<f4").tolist() if wire_type == BYTES else [to_float(wire_type, value)]
            elif number == 7 and kind == INT32:
                values += _varints(value) if wire_type == BYTES else [to_number(wire_type, value)]
    except DAMAGE as error:
        raise CheckpointError(f"{path}: a constant is damaged ({error})") from None
    if not values or len(values) > size:
        raise CheckpointError(f"{path}: a constant {list(shape)} does not hold {size} values")
    return np.array(values + values[-1:] * (size - len(values)), np.float32).reshape(shape)


def _varints(content: memoryview) -> list[float]:
    values, position = [], 0
    while position < len(content):
        value, position = read_varint(content, position)
        values.append(float(value))
    return values
