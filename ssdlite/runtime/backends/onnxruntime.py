"""An exported model in ONNX Runtime, as an .onnx or .ort file. No torch, and no onnx package."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ssdlite.errors import ContractError
from ssdlite.protobuf import BYTES, VARINT, DamagedError, read_fields, read_varint, to_number
from ssdlite.runtime.backends.base import (
    MAX_MODEL_BYTES,
    Array,
    TensorInfo,
    check_promises,
    first_line,
    read_model_file,
)
from ssdlite.runtime.contract import ModelSpec

ORT_FORMAT_MARK = b"ORTM"  # at byte 4 of ONNX Runtime's own format
FATAL_ONLY = 4  # of onnxruntime's levels; its errors reach us as exceptions, and need not be printed as well
TENSOR_TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(int32)": "int32"}


class OnnxBackend:
    """An .onnx or .ort file in ONNX Runtime, on the CPU.

    The file has to hold all that it needs: a model that names other files with its weights is refused, so that
    loading one reads nothing but that one file.

    Args:
        source: the file, or its content.
        threads: that compute one run; by default as many as ONNX Runtime thinks fit.
        name: for messages about a content.

    Raises:
        ContractError: the file is missing, too large, damaged, refers to other files, or cannot be run here.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".onnx", ".ort")
    package: ClassVar[str] = "onnxruntime"
    unsupported: ClassVar[str] = ""
    has_weights_file: ClassVar[bool] = False
    carries_contract: ClassVar[bool] = True

    def __init__(
        self, source: Path | bytes, threads: int | None = None, *, name: str = "the model", as_written: bool = False
    ) -> None:
        """``as_written``: without fused operators, so that integers give the same on every processor; those of x86
        without VNNI saturate.
        """
        self.name = name if isinstance(source, bytes) else str(source)
        try:
            import onnxruntime
        except ImportError:
            raise ContractError(f"{self.name}: running it needs onnxruntime: pip install onnxruntime") from None
        self._as_written = as_written
        self._opened = (source if isinstance(source, bytes) else source.absolute(), threads)
        content = source if isinstance(source, bytes) else read_model_file(source)
        is_ort_format = content[4:8] == ORT_FORMAT_MARK
        if not is_ort_format:
            check_self_contained(content, self.name)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL_ONLY
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = threads or 0
        if as_written:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.load_model_format", "ORT" if is_ort_format else "ONNX")
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"], enable_fallback=False
            )
            self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        except Exception as error:  # onnxruntime has a dozen kinds, without a common base
            raise ContractError(f"{self.name}: ONNX Runtime cannot load it ({first_line(error)})") from None
        self.inputs = [_tensor_info(value) for value in self._session.get_inputs()]
        self.outputs = [_tensor_info(value) for value in self._session.get_outputs()]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as what was opened: a session belongs to its process."""
        return partial(OnnxBackend, name=self.name, as_written=self._as_written), self._opened

    @classmethod
    def open(cls, path: Path, model: ModelSpec | None, threads: int | None) -> OnnxBackend:
        return cls(path, threads)

    def check(self, model: ModelSpec) -> None:
        """Raises ContractError where the file has other inputs or outputs than ``model`` promises."""
        check_promises(self.name, self.inputs, self.outputs, model)

    def run(self, inputs: Array) -> dict[str, Array]:
        try:
            values = self._session.run(None, {self.inputs[0].name: inputs})
        except Exception as error:
            raise ContractError(f"{self.name}: ONNX Runtime cannot run it ({first_line(error)})") from None
        return {output.name: np.asarray(value) for output, value in zip(self.outputs, values, strict=True)}


def _tensor_info(value: Any) -> TensorInfo:
    shape = tuple(side if isinstance(side, int) else None for side in value.shape)
    return TensorInfo(value.name, TENSOR_TYPES.get(value.type, value.type), shape)


# --- Whether an ONNX file stands alone, found by walking its bytes: the onnx package is not needed to run one.

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
SPARSE_TENSOR_DIMS = 3
BYTES_OF_A_VALUE = 8  # at most


def check_self_contained(content: bytes, where: str) -> None:
    """Refuse a model whose tensors lie in other files, or whose sparse ones, which are filled up with zeros when it
    is loaded, would take more memory than any model file may; ``where`` is its name, for the message.

    Raises:
        ContractError: there are such, or the bytes are no protobuf.
    """
    try:
        size = _walk(memoryview(content), "Model", where, 0)
    except DamagedError:
        raise ContractError(f"{where}: not an ONNX model, or damaged") from None
    if size > MAX_MODEL_BYTES:
        raise ContractError(f"{where}: expected at most {MAX_MODEL_BYTES} bytes of sparse tensors, got {size}")


def _walk(message: memoryview, kind: str, where: str, depth: int) -> int:
    """Bytes that the sparse tensors in ``message`` take when they are no longer sparse."""
    if depth > MAX_DEPTH:
        raise DamagedError(f"messages {depth} deep")
    inner = MESSAGES[kind]
    size = 0
    sides: list[int] = []
    for number, wire_type, value in read_fields(message):
        is_set = to_number(wire_type, value) if wire_type == VARINT else len(value)
        if kind == "Tensor" and number in (TENSOR_EXTERNAL_DATA, TENSOR_DATA_LOCATION) and is_set:
            raise ContractError(f"{where}: its weights lie in other files, which are not read; export it as one file")
        if kind == "SparseTensor" and number == SPARSE_TENSOR_DIMS:
            sides += _numbers(wire_type, value)
        if number in inner and wire_type == BYTES:
            size += _walk(value, inner[number], where, depth + 1)
    return size + (BYTES_OF_A_VALUE * math.prod(sides) if sides else 0)


def _numbers(wire_type: int, content: memoryview) -> list[int]:
    """A repeated field of integers: one of them, or packed."""
    if wire_type != BYTES:
        return [to_number(wire_type, content)]
    numbers, position = [], 0
    while position < len(content):
        value, position = read_varint(content, position)
        numbers.append(value)
    return numbers
