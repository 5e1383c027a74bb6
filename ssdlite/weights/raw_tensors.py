"""Tensors as the raw bytes that files of TensorFlow hold, read once it is known that all of them are there."""

from __future__ import annotations

import math
import struct
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ssdlite.errors import CheckpointError
from ssdlite.protobuf import DamagedError
from ssdlite.stored_tensors import StoredTensor, check_stored

MAX_RANK = 8
MAX_REPEATED_BYTES = 2**16  # of a constant of equal values, which is written once: such are norms and biases
DAMAGE = (  # what reading damaged bytes may raise
    DamagedError, struct.error, IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError,
)  # fmt: skip


@dataclass(frozen=True)
class RawTensor:
    """A tensor as its file describes it.

    Attributes:
        dtype: None for a type that is not read, such as that of a quantised tensor.
        data: its bytes; empty for what is computed.
        place: of these bytes in the file; several tensors may share one.
        repeats: whether the last value stands for all that are missing.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    data: memoryview
    place: Hashable
    repeats: bool = False


def read_floats(tensors: Sequence[RawTensor], path: str, file_size: int) -> list[npt.NDArray[np.float32]]:
    """The values of tensors of the file at ``path``, float16 widened.

    Raises:
        CheckpointError: one is no float, or what ``read_values`` refuses.
    """
    for tensor in tensors:
        if tensor.dtype is None or tensor.dtype.kind != "f":
            raise CheckpointError(
                f"{path}: {tensor.name} is quantised or not a float; the float32 or float16 model is needed"
            )
    return [values.astype(np.float32) for values in read_values(tensors, path, file_size)]


def read_values(tensors: Sequence[RawTensor], path: str, file_size: int) -> list[npt.NDArray[Any]]:
    """The values of tensors of the file at ``path``, as they are stored.

    Raises:
        CheckpointError: one is computed, of a type that is not read, or not as long as its shape says, or together they
            need more bytes than the file holds.
    """
    check_stored([_stored(tensor, path) for tensor in tensors], path, file_size)
    return [_values(tensor) for tensor in tensors]


def _stored(tensor: RawTensor, path: str) -> StoredTensor:
    if tensor.dtype is None:
        raise CheckpointError(f"{path}: {tensor.name} is of a type that is not read")
    needed, held = math.prod(tensor.shape) * tensor.dtype.itemsize, len(tensor.data)
    if tensor.repeats and held:
        held = max(held, min(needed, MAX_REPEATED_BYTES))
    if needed < held:
        raise CheckpointError(
            f"{path}: damaged: {tensor.name} {list(tensor.shape)} needs {needed} bytes, the file holds {held}"
        )
    return StoredTensor(tensor.name, tensor.shape, needed, held, tensor.place)


def _values(tensor: RawTensor) -> npt.NDArray[Any]:
    values = np.frombuffer(tensor.data, tensor.dtype)
    if tensor.repeats:
        values = np.pad(values, (0, math.prod(tensor.shape) - len(values)), mode="edge")
    return values.reshape(tensor.shape)
