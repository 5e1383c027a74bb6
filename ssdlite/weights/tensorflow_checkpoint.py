"""Variables out of a TensorFlow checkpoint: an .index file, which is a LevelDB table, and .data files of raw values."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssdlite.errors import CheckpointError
from ssdlite.protobuf_wire import DamagedError, read_fields, read_varint, to_number
from ssdlite.weights.file_kinds import INDEX, damaged_file
from ssdlite.weights.tensorflow_files import (
    DAMAGE,
    KINDS,
    MAX_ENTRIES,
    TensorFlowFile,
    Variable,
    load_file,
    read_shape,
)

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
        variables = {name.decode(): _entry(value, shards) for name, value in entries.items()}
    except CheckpointError:
        raise
    except DAMAGE as error:
        raise damaged_file(index, INDEX, error) from None
    return TensorFlowFile(str(index), variables)


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
    return Variable(shape, kind, lambda: _read_slice(shards[shard], shape, kind, offset, size))


def _read_slice(path: Path, shape: tuple[int, ...], kind: int, offset: int, size: int) -> npt.NDArray[np.float32]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file, it belongs to the checkpoint")
    expected = int(np.prod(shape, dtype=np.float64)) * KINDS[kind].itemsize
    if size != expected or offset + size > path.stat().st_size:
        raise CheckpointError(f"{path}: damaged or truncated: no {size} bytes at {offset} for a tensor {list(shape)}")
    with path.open("rb") as file:
        file.seek(offset)
        return np.frombuffer(file.read(size), KINDS[kind]).astype(np.float32).reshape(shape)
