"""Writers of TensorFlow's checkpoint and graph formats, by their specifications, for tests without TensorFlow."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np


def write_checkpoint(values: dict[str, np.ndarray], prefix: Path) -> None:
    """A TensorFlow checkpoint (tensor_bundle) of two data files."""
    entries, data = {b"": _field(1, 2)}, [b"", b""]
    for number, (name, value) in enumerate(sorted(values.items())):
        shard = number % 2
        shape = b"".join(_field(2, _field(1, side)) for side in value.shape)
        kind = {"float32": 1, "int64": 9}[str(value.dtype)]
        entry = _field(1, kind) + _field(2, shape) + _field(3, shard) + _field(4, len(data[shard]))
        entries[name.encode()] = entry + _field(5, value.nbytes) + b"\x35" + bytes(4)
        data[shard] += value.tobytes()
    for shard, content in enumerate(data):
        Path(f"{prefix}.data-{shard:05d}-of-00002").write_bytes(content)
    Path(f"{prefix}.index").write_bytes(_leveldb_table(entries))


def _leveldb_table(entries: dict[bytes, bytes]) -> bytes:
    keys = sorted(entries)
    content, index = b"", {}
    for part in (keys[: len(keys) // 2], keys[len(keys) // 2 :]):
        block = _leveldb_block({key: entries[key] for key in part})
        index[part[-1]] = _varint(len(content)) + _varint(len(block))
        content += block + bytes(5)
    handles = b""
    for block in (_leveldb_block({}), _leveldb_block(index)):
        handles += _varint(len(content)) + _varint(len(block))
        content += block + bytes(5)
    return content + handles.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def _leveldb_block(entries: dict[bytes, bytes]) -> bytes:
    block, last = b"", b""
    for key, value in entries.items():
        shared = next((i for i, (a, b) in enumerate(zip(last, key, strict=False)) if a != b), min(len(last), len(key)))
        block += _varint(shared) + _varint(len(key) - shared) + _varint(len(value)) + key[shared:] + value
        last = key
    return block + struct.pack("<II", 0, 1)


def shared_prefix_index(shared: int, keys: int) -> bytes:
    """An index of so many variables, whose names begin with the same ``shared`` bytes and stand there once."""
    block = _varint(0) + _varint(shared) + _varint(0) + b"a" * shared
    for number in range(keys):
        block += _varint(shared) + _varint(6) + _varint(0) + b"%06d" % number
    block += struct.pack("<II", 0, 1)
    content, handles = block + bytes(5), b""
    for other in (_leveldb_block({}), _leveldb_block({b"b": _varint(0) + _varint(len(block))})):
        handles += _varint(len(content)) + _varint(len(other))
        content += other + bytes(5)
    return content + handles.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def frozen_graph(
    values: dict[str, np.ndarray],
    score_operator: str = "Sigmoid",
    anchors: tuple[tuple[list[float], list[float]], ...] = (),
) -> bytes:
    """A GraphDef with the variables as constants, one batch norm and what turns logits into scores.

    ``anchors`` are scales and aspect ratios for each map, as ``tile_anchors`` makes boxes of them.
    """
    graph, values = b"", dict(values)
    for level, (scales, ratios) in enumerate(anchors):
        number = f"_{level}" if level else ""
        scope = "MultipleGridAnchorGenerator/"
        root, division = f"{scope}Sqrt{number}", f"{scope}truediv{number}"
        values[f"{root}/x"] = np.array(ratios, np.float32)
        values[f"{division}/x"] = np.array(scales, np.float32)
        graph += _node(root, "Sqrt", inputs=(f"{root}/x",)) + _node(division, "RealDiv", inputs=(f"{division}/x", root))
    for name, value in values.items():
        shape = b"".join(_field(2, _field(1, side)) for side in value.shape)
        kind = {"float32": 1, "int32": 3}[str(value.dtype)]
        tensor = _field(1, kind) + _field(2, shape) + _field(4, value.tobytes())
        graph += _node(name, "Const", value=_field(8, tensor), dtype=_field(6, kind))
    epsilon = b"\x25" + struct.pack("<f", 0.002)
    graph += _node("FeatureExtractor/BatchNorm/FusedBatchNorm", "FusedBatchNorm", epsilon=epsilon)
    return graph + _node("Postprocessor/convert_scores", score_operator)


def _node(name: str, operator: str, inputs: tuple[str, ...] = ("image_tensor",), **attributes: bytes) -> bytes:
    node = _field(1, name.encode()) + _field(2, operator.encode())
    node += b"".join(_field(3, one.encode()) for one in inputs)
    for key, value in attributes.items():
        node += _field(5, _field(1, key.encode()) + _field(2, value))
    return _field(1, node)


def _field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    encoded = b""
    while value > 0x7F:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])
