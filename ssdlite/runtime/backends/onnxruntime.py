"""What executes an exported network: a file's bytes in, tensors in, tensors out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ssdlite.errors import ContractError
from ssdlite.protobuf import check_self_contained

MAX_MODEL_BYTES = 1 << 30
ORT_FORMAT_MARK = b"ORTM"  # at byte 4 of ONNX Runtime's own format
FATAL_ONLY = 4  # of onnxruntime's levels; its errors reach us as exceptions, and need not be printed as well
TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(int32)": "int32"}
Array = npt.NDArray[Any]


class Backend(Protocol):
    """Runs one network."""

    def run(self, inputs: Array) -> dict[str, Array]:
        """The one input tensor -> all outputs by their names in the file. Raises ContractError when it fails."""


class TensorInfo(NamedTuple):
    """An input or output as the file itself declares it; None is a side left free."""

    name: str
    type: str
    shape: tuple[int | None, ...]


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

    def __init__(self, source: Path | bytes, threads: int | None = None, *, name: str = "the model") -> None:
        import onnxruntime

        self.name = name if isinstance(source, bytes) else str(source)
        content = source if isinstance(source, bytes) else read_model_file(source)
        is_ort_format = content[4:8] == ORT_FORMAT_MARK
        if not is_ort_format:
            check_self_contained(content, self.name)
        onnxruntime.set_default_logger_severity(FATAL_ONLY)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL_ONLY
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = threads or 0
        options.add_session_config_entry("session.load_model_format", "ORT" if is_ort_format else "ONNX")
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"], enable_fallback=False
            )
            self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        except Exception as error:  # onnxruntime has a dozen kinds, without a common base
            raise ContractError(f"{self.name}: ONNX Runtime cannot load it ({_first_line(error)})") from None
        self.inputs = [_tensor_info(value) for value in self._session.get_inputs()]
        self.outputs = [_tensor_info(value) for value in self._session.get_outputs()]

    def run(self, inputs: Array) -> dict[str, Array]:
        try:
            values = self._session.run(None, {self.inputs[0].name: inputs})
        except Exception as error:
            raise ContractError(f"{self.name}: ONNX Runtime cannot run it ({_first_line(error)})") from None
        return {output.name: np.asarray(value) for output, value in zip(self.outputs, values, strict=True)}


def read_model_file(path: Path) -> bytes:
    """Raises ContractError: no regular file, unreadable, empty, or larger than any detector."""
    try:
        if not path.is_file():
            raise ContractError(f"{path}: no such model file")
        size = path.stat().st_size
        if not 0 < size <= MAX_MODEL_BYTES:
            raise ContractError(f"{path}: expected a model of 1 to {MAX_MODEL_BYTES} bytes, got {size}")
        return path.read_bytes()
    except OSError as error:
        raise ContractError(f"{path}: cannot be read ({error.strerror})") from None


def _tensor_info(value: Any) -> TensorInfo:
    shape = tuple(side if isinstance(side, int) else None for side in value.shape)
    return TensorInfo(value.name, TYPES.get(value.type, value.type), shape)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
