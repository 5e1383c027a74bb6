"""What TensorFlow's checkpoints and frozen graphs have in common. They are read without TensorFlow.

Both formats are simple: a checkpoint is a sorted table of names and files of raw values, a frozen graph one protobuf
message. Nothing in them runs, and all lengths are held against the sizes of the files.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssdlite.errors import CheckpointError
from ssdlite.protobuf import BYTES, DamagedError, read_fields, read_varint, to_float, to_number
from ssdlite.weights.raw_tensors import DAMAGE, MAX_RANK, RawTensor, read_floats
from ssdlite.weights.source import GRAPH, INDEX, MAX_FILE_BYTES, check_size, damaged_file

MAX_ENTRIES = 100_000
MAX_NAME_BYTES = 1024  # of a variable or an operator; a long one has 150
MAX_NAMES_BYTES = 2**25  # of all names in an index, whose keys share what they begin with
ANCHOR_GENERATOR = "MultipleGridAnchorGenerator/"  # the scope of what makes anchors in a graph
DATA_TYPES: dict[int, np.dtype[Any]] = {  # by DataType of tensorflow/core/framework/types.proto
    1: np.dtype("<f4"),
    3: np.dtype("<i4"),
    19: np.dtype("<f2"),
}


@dataclass(frozen=True)
class TensorFlowFile:
    """What a checkpoint or a frozen graph holds; axes of tensors are in TensorFlow's order.

    Attributes:
        path: what errors call it.
        size: bytes of the file, or of the files of values of a checkpoint.
        location: of the file; None for arrays that are no file's.
        operators: of a graph, by name; empty for a checkpoint.
        inputs: the first two of the operators that make anchors.
        epsilons: of the batch norms in a graph.
    """

    path: str
    size: int
    variables: dict[str, RawTensor]
    operators: dict[str, str] = field(default_factory=dict)
    epsilons: tuple[float, ...] = ()
    inputs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    location: Path | None = None

    def read(self, names: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """The values of those variables, as ``read_floats`` gives them. Raises CheckpointError where it does."""
        return read_floats([self.variables[name] for name in names], self.path, self.size)


def read_shape(message: memoryview) -> tuple[int, ...]:
    """Of a TensorShapeProto (tensorflow/core/framework/tensor_shape.proto)."""
    sides = []
    for number, _, dimension in read_fields(message):
        if number == 2:
            sides.append(sum(to_number(*field[1:]) for field in read_fields(dimension) if field[0] == 1))
    if len(sides) > MAX_RANK or any(side > MAX_FILE_BYTES for side in sides):
        raise DamagedError(f"a tensor {sides}")
    return tuple(sides)


# --- Variables out of a TensorFlow checkpoint: an .index file, which is a LevelDB table, and .data files of raw values.

TABLE_MAGIC = 0xDB4775248B80FB57  # the last eight bytes of a table
FOOTER = 48
BLOCK_TRAILER = 5  # compression and checksum


def read_checkpoint(index: Path) -> TensorFlowFile:
    """The variables of a checkpoint, from its .index file and the .data files beside it.

    Raises:
        CheckpointError: a file is missing, truncated or damaged.
    """
    check_size(index)
    content = index.read_bytes()
    try:
        entries = dict(_table(content))
        count = _shard_count(entries.pop(b"", b""))
        prefix = str(index).removesuffix(".index")
        shards = [Path(f"{prefix}.data-{number:05d}-of-{count:05d}") for number in range(count)]
        data = [_read_shard(shard) for shard in shards]
        variables = {name.decode(): _entry(name.decode(), value, shards, data) for name, value in entries.items()}
    except CheckpointError:
        raise
    except DAMAGE as error:
        raise damaged_file(index, INDEX, error) from None
    return TensorFlowFile(str(index), sum(map(len, data)), variables, location=index)


def _read_shard(path: Path) -> memoryview:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file, it belongs to the checkpoint")
    check_size(path)
    return memoryview(path.read_bytes())


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a table, as https://github.com/google/leveldb/blob/main/doc/table_format.md has it."""
    if len(content) < FOOTER or struct.unpack("<Q", content[-8:])[0] != TABLE_MAGIC:
        raise DamagedError("it does not end as one")
    view = memoryview(content)
    position = len(content) - FOOTER
    for _ in range(2):  # the handle of the meta index, which holds nothing here
        _, position = read_varint(view, position)
    offset, position = read_varint(view, position)
    size, position = read_varint(view, position)
    count = total = named = 0
    for _, handle in _block(view, offset, size):
        start, behind = read_varint(handle, 0)
        length, _ = read_varint(handle, behind)
        total += length
        if total > len(content):
            raise DamagedError("its blocks overlap")
        for key, value in _block(view, start, length):
            count += 1
            named += len(key)
            if count > MAX_ENTRIES or named > MAX_NAMES_BYTES:
                raise DamagedError(f"more than {MAX_ENTRIES} entries, or than {MAX_NAMES_BYTES} bytes of names")
            yield key, bytes(value)


def _block(view: memoryview, offset: int, size: int) -> Iterator[tuple[bytes, memoryview]]:
    """Entries of a block: each key shares so many bytes with the one before."""
    if offset + size + BLOCK_TRAILER > len(view):
        raise DamagedError("a block reaches past the end")
    if view[offset + size]:
        raise DamagedError("it is compressed, which TensorFlow does not do")
    block = view[offset : offset + size]
    end = size - 4 - 4 * int.from_bytes(block[size - 4 :], "little")  # the places where a whole key stands
    if end < 0:
        raise DamagedError("a block without room for its entries")
    key, position = b"", 0
    while position < end:
        shared, position = read_varint(block, position)
        own, position = read_varint(block, position)
        length, position = read_varint(block, position)
        if shared > len(key) or position + own + length > end:
            raise DamagedError("an entry reaches past the end of its block")
        _check_name(shared + own)
        key = key[:shared] + bytes(block[position : position + own])
        position += own
        yield key, block[position : position + length]
        position += length


def _check_name(length: int) -> None:
    if length > MAX_NAME_BYTES:
        raise DamagedError(f"a name of {length} bytes, more than the {MAX_NAME_BYTES} that are read")


def _shard_count(header: bytes) -> int:
    """Of a BundleHeaderProto (tensorflow/core/protobuf/tensor_bundle.proto)."""
    count = 1
    for number, wire_type, value in read_fields(memoryview(header)):
        if number == 1:
            count = to_number(wire_type, value)
        if number == 2 and to_number(wire_type, value):
            raise DamagedError("its numbers are big-endian")
    if not 1 <= count <= 10_000:
        raise DamagedError(f"{count} data files")
    return count


def _entry(name: str, message: bytes, shards: list[Path], data: list[memoryview]) -> RawTensor:
    """Of a BundleEntryProto."""
    numbers = {1: 0, 3: 0, 4: 0, 5: 0}  # type, data file, offset, size
    shape: tuple[int, ...] = ()
    for number, wire_type, value in read_fields(memoryview(message)):
        if number in numbers:
            numbers[number] = to_number(wire_type, value)
        elif number == 2:
            shape = read_shape(value)
    kind, shard, offset, size = numbers.values()
    if shard >= len(shards):
        raise DamagedError(f"data file {shard} of {len(shards)}")
    if offset + size > len(data[shard]):
        raise CheckpointError(f"{shards[shard]}: damaged or truncated: no {size} bytes at {offset} for {name}")
    return RawTensor(name, shape, DATA_TYPES.get(kind), data[shard][offset : offset + size], (shard, offset))


# --- Constants out of a frozen graph of TensorFlow: a GraphDef, whose variables have become constants.


def read_frozen_graph(path: Path) -> TensorFlowFile:
    """The constants of a frozen graph (GraphDef).

    Raises:
        CheckpointError: truncated or damaged.
    """
    check_size(path)
    content = path.read_bytes()
    variables: dict[str, RawTensor] = {}
    operators: dict[str, str] = {}
    inputs: dict[str, tuple[str, ...]] = {}
    epsilons: set[float] = set()
    try:
        for number, wire_type, node in read_fields(memoryview(content)):
            if number != 1 or wire_type != BYTES:
                continue
            name, operator, attributes = _node(node)
            operators[name] = operator
            if ANCHOR_GENERATOR in name:
                inputs[name] = _first_inputs(node)
            if len(operators) > MAX_ENTRIES:
                raise DamagedError(f"more than {MAX_ENTRIES} operators")
            if operator == "Const" and "value" in attributes:
                variables[name] = _constant(name, attributes["value"])
            elif operator.startswith("FusedBatchNorm") and "epsilon" in attributes:
                epsilons.update(
                    to_float(kind, value) for n, kind, value in read_fields(attributes["epsilon"]) if n == 4
                )
    except DAMAGE as error:
        raise damaged_file(path, GRAPH, error) from None
    return TensorFlowFile(str(path), len(content), variables, operators, tuple(sorted(epsilons)), inputs, path)


def _node(message: memoryview) -> tuple[str, str, dict[str, memoryview]]:
    """(name, operator, attributes) of a NodeDef."""
    name = operator = ""
    attributes: dict[str, memoryview] = {}
    for number, wire_type, value in read_fields(message):
        if number == 1 and wire_type == BYTES:
            _check_name(len(value))
            name = bytes(value).decode()
        elif number == 2 and wire_type == BYTES:
            operator = bytes(value).decode()
        elif number == 5 and wire_type == BYTES:
            entry = {number: content for number, _, content in read_fields(value)}
            attributes[bytes(entry.get(1, b"")).decode()] = entry.get(2, memoryview(b""))
    return name, operator, attributes


def _first_inputs(message: memoryview) -> tuple[str, ...]:
    """Of a NodeDef."""
    found = (bytes(value).decode() for number, kind, value in read_fields(message) if number == 3 and kind == BYTES)
    return tuple(itertools.islice(found, 2))


def _constant(name: str, attribute: memoryview) -> RawTensor:
    """Of an AttrValue that holds a TensorProto (tensorflow/core/framework/tensor.proto)."""
    tensor = next((value for number, _, value in read_fields(attribute) if number == 8), memoryview(b""))
    kind, raw, listed = 0, memoryview(b""), []
    shape: tuple[int, ...] = ()
    for number, wire_type, value in read_fields(tensor):
        if number == 1:
            kind = to_number(wire_type, value)
        elif number == 2:
            shape = read_shape(value)
        elif number == 4:
            raw = value
        elif number == 5:  # floats one by one, as they are stored
            listed.append(bytes(value))
        elif number == 7:
            listed.append(np.array(_varints(value), np.uint64).astype("<i4").tobytes())
    data = raw if raw else memoryview(b"".join(listed))
    return RawTensor(name, shape, DATA_TYPES.get(kind), data, name, repeats=bool(listed))


def _varints(content: memoryview) -> list[int]:
    values, position = [], 0
    while position < len(content):
        value, position = read_varint(content, position)
        values.append(value)
    return values
