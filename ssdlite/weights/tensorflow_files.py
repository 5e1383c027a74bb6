"""What TensorFlow's checkpoints and frozen graphs have in common. They are read without TensorFlow.

Both formats are simple: a checkpoint is a sorted table of names and files of raw values, a frozen graph one protobuf
message. Nothing in them runs, and all lengths are held against the sizes of the files.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssdlite.errors import CheckpointError
from ssdlite.protobuf_wire import DamagedError, read_fields, to_number

MAX_BYTES = 2**30  # of a file; such models have 20 to 80 MB, three times as much with an optimiser's state
MAX_ENTRIES = 100_000
MAX_RANK = 8
FLOAT, INT32, HALF = 1, 3, 19  # DataType of tensorflow/core/framework/types.proto
KINDS: dict[int, np.dtype[Any]] = {FLOAT: np.dtype("<f4"), INT32: np.dtype("<i4"), HALF: np.dtype("<f2")}
DAMAGE = (DamagedError, struct.error, IndexError, ValueError, OverflowError)

Read = Callable[[], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Variable:
    """``read`` gives the values as float32, in TensorFlow's order of axes; ``kind`` is the DataType."""

    shape: tuple[int, ...]
    kind: int
    read: Read


@dataclass(frozen=True)
class TensorFlowFile:
    """What a checkpoint or a frozen graph holds.

    Attributes:
        operators: of a graph, by name; empty for a checkpoint.
        epsilons: of the batch norms in a graph.
    """

    path: str
    variables: dict[str, Variable]
    operators: dict[str, str] = field(default_factory=dict)
    epsilons: tuple[float, ...] = ()


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
