"""What TensorFlow's checkpoints and frozen graphs have in common. They are read without TensorFlow.

Both formats are simple: a checkpoint is a sorted table of names and files of raw values, a frozen graph one protobuf
message. Nothing in them runs, and all lengths are held against the sizes of the files.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssdlite.checkpoint import StoredTensor, check_stored
from ssdlite.errors import CheckpointError
from ssdlite.protobuf import BYTES, DamagedError, read_fields, read_varint, to_float, to_number
from ssdlite.weights.file_kinds import GRAPH, INDEX, damaged_file

MAX_BYTES = 2**30  # of a file; such models have 20 to 80 MB, three times as much with an optimiser's state
MAX_ENTRIES = 100_000
MAX_RANK = 8
FLOAT, INT32, HALF = 1, 3, 19  # DataType of tensorflow/core/framework/types.proto
KINDS: dict[int, np.dtype[Any]] = {FLOAT: np.dtype("<f4"), INT32: np.dtype("<i4"), HALF: np.dtype("<f2")}
DAMAGE = (DamagedError, struct.error, IndexError, ValueError, OverflowError)
MAX_EQUAL_BYTES = 2**16  # of a constant of equal values, which is written once: such are norms and biases

Read = Callable[[], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Variable:
    """A tensor that is read when asked for.

    Attributes:
        kind: the DataType.
        read: gives the values as float32, in TensorFlow's order of axes.
        held: bytes of the file that are its own.
        place: of these bytes.
    """

    shape: tuple[int, ...]
    kind: int
    read: Read
    held: int
    place: tuple[object, ...]


@dataclass(frozen=True)
class TensorFlowFile:
    """What a checkpoint or a frozen graph holds.

    Attributes:
        size: bytes of the file, or of the files of values of a checkpoint.
        operators: of a graph, by name; empty for a checkpoint.
        epsilons: of the batch norms in a graph.
    """

    path: str
    size: int
    variables: dict[str, Variable]
    operators: dict[str, str] = field(default_factory=dict)
    epsilons: tuple[float, ...] = ()

    def check_stored(self, names: Iterable[str]) -> None:
        """Raises CheckpointError where bytes of the file do not stand behind those variables, or they are no floats."""
        tensors = []
        for name in names:
            variable = self.variables[name]
            if variable.kind not in (FLOAT, HALF):
                raise CheckpointError(f"{self.path}: {name} is not of type float32 or float16")
            needed = math.prod(variable.shape) * KINDS[variable.kind].itemsize
            tensors.append(StoredTensor(name, variable.shape, needed, variable.held, variable.place))
        check_stored(tensors, self.path, self.size)


def load_file(path: Path) -> bytes:
    """The bytes of a file of reasonable size."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise CheckpointError(f"{path}: {size} bytes, more than the {MAX_BYTES} that are read")
    return path.read_bytes()


def read_shape(message: memoryview) -> tuple[int, ...]:
    """Of a TensorShapeProto (tensorflow/core/framework/tensor_shape.proto)."""
    sides = []
    for number, _, dimension in read_fields(message):
        if number == 2:
            sides.append(sum(to_number(*field[1:]) for field in read_fields(dimension) if field[0] == 1))
    if len(sides) > MAX_RANK or any(side > MAX_BYTES for side in sides):
        raise DamagedError(f"a tensor {sides}")
    return tuple(sides)


# --- Variables out of a TensorFlow checkpoint: an .index file, which is a LevelDB table, and .data files of raw values.

TABLE_MAGIC = 0xDB4775248B80FB57  # the last eight bytes of a table
FOOTER = 48
BLOCK_TRAILER = 5  # compression and checksum


def find_checkpoint(path: Path) -> Path | None:
    """The .index file of the checkpoint that ``path`` means: itself, one of its other files, a prefix or a folder."""
    if path.is_dir():
        found = sorted(path.glob("*.index"), key=lambda file: (_step(file), file.name))
        return found[-1] if found else None
    if path.suffix == ".index":
        return path if path.is_file() else None
    prefix = re.sub(r"\.(data-\d{5}-of-\d{5}|meta)$", "", str(path))
    index = Path(f"{prefix}.index")
    return index if index.is_file() else None


def _step(file: Path) -> int:
    digits = re.search(r"-(\d{1,18})\.index$", file.name)
    return int(digits.group(1)) if digits else -1


def read_checkpoint(index: Path) -> TensorFlowFile:
    """The variables of a checkpoint, from its .index file and the .data files beside it.

    Raises:
        CheckpointError: a file is missing, truncated or damaged.
    """
    content = load_file(index)
    try:
        entries = dict(_table(content))
        count = _shard_count(entries.pop(b"", b""))
        prefix = str(index).removesuffix(".index")
        shards = [Path(f"{prefix}.data-{number:05d}-of-{count:05d}") for number in range(count)]
        missing = next((shard for shard in shards if not shard.is_file()), None)
        if missing is not None:
            raise CheckpointError(f"{missing}: no such file, it belongs to the checkpoint")
        variables = {name.decode(): _entry(value, shards) for name, value in entries.items()}
    except CheckpointError:
        raise
    except DAMAGE as error:
        raise damaged_file(index, INDEX, error) from None
    size = sum(shard.stat().st_size for shard in shards)
    return TensorFlowFile(str(index), size, variables)


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
    count = total = 0
    for _, handle in _block(view, offset, size):
        start, behind = read_varint(handle, 0)
        length, _ = read_varint(handle, behind)
        total += length
        if total > len(content):
            raise DamagedError("its blocks overlap")
        for key, value in _block(view, start, length):
            count += 1
            if count > MAX_ENTRIES:
                raise DamagedError(f"more than {MAX_ENTRIES} entries")
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
        key = key[:shared] + bytes(block[position : position + own])
        position += own
        yield key, block[position : position + length]
        position += length


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


def _entry(message: bytes, shards: list[Path]) -> Variable:
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
    read = partial(_read_slice, shards[shard], shape, kind, offset, size)
    return Variable(shape, kind, read, size, (shard, offset))


def _read_slice(path: Path, shape: tuple[int, ...], kind: int, offset: int, size: int) -> npt.NDArray[np.float32]:
    expected = int(np.prod(shape, dtype=np.float64)) * KINDS[kind].itemsize
    if size != expected or offset + size > path.stat().st_size:
        raise CheckpointError(f"{path}: damaged or truncated: no {size} bytes at {offset} for a tensor {list(shape)}")
    with path.open("rb") as file:
        file.seek(offset)
        return np.frombuffer(file.read(size), KINDS[kind]).astype(np.float32).reshape(shape)


# --- Constants out of a frozen graph of TensorFlow: a GraphDef, whose variables have become constants.


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
                variables[name] = _constant(name, attributes["value"], str(path))
            elif operator.startswith("FusedBatchNorm") and "epsilon" in attributes:
                epsilons.update(
                    to_float(kind, value) for n, kind, value in read_fields(attributes["epsilon"]) if n == 4
                )
    except DAMAGE as error:
        raise damaged_file(path, GRAPH, error) from None
    return TensorFlowFile(str(path), len(content), variables, operators, tuple(sorted(epsilons)))


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


def _constant(name: str, attribute: memoryview, path: str) -> Variable:
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

    return Variable(shape, kind, read, max(len(tensor), MAX_EQUAL_BYTES), (name,))


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
