"""An exported model in LiteRT (TensorFlow Lite), through the package ai-edge-litert. No torch."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ssdlite.errors import ContractError
from ssdlite.runtime.backends.base import (
    MAX_MODEL_BYTES,
    Array,
    TensorInfo,
    check_promises,
    first_line,
    opening,
    read_model_file,
)
from ssdlite.runtime.contract import LABELS_KEY, ModelSpec

FILE_MARK = b"TFL3"  # at byte 4
MOST_ITEMS = 20_000  # tensors, operators, buffers; such a model has some hundreds
OPTIONAL = -1  # in place of an input that is left out
LARGEST_VALUE = 8  # bytes
MOST_LABEL_BYTES = 1 << 20


class LiteRtOperator(NamedTuple):
    """``CONV_2D``, or a custom operator's own name, with the numbers of the tensors that it reads and writes."""

    name: str
    inputs: frozenset[int]
    outputs: tuple[int, ...]


class LiteRtBackend:
    """A .tflite file on the CPU, in LiteRT's interpreter with XNNPACK.

    Args:
        source: the file, or its content.
        threads: that compute one run; by default one, as LiteRT has it.

    Raises:
        ContractError: ai-edge-litert is not installed, or the file is missing, too large, damaged, or cannot be run.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".tflite",)
    package: ClassVar[str] = "ai_edge_litert"
    unsupported: ClassVar[str] = ""
    has_weights_file: ClassVar[bool] = False
    carries_contract: ClassVar[bool] = True

    def __init__(self, source: Path | bytes, threads: int | None = None, *, name: str = "the model") -> None:
        self.name = name if isinstance(source, bytes) else str(source)
        self._opened = (source if isinstance(source, bytes) else source.absolute(), threads)
        interpreter, schema = _import_litert(self.name)
        content = source if isinstance(source, bytes) else read_model_file(source)
        self.metadata = check_content(schema, content, self.name) | {LABELS_KEY: _labels(content)}
        try:
            with opening():
                self._interpreter = interpreter.Interpreter(model_content=content, num_threads=threads)
                self._interpreter.allocate_tensors()
            self._inputs = self._interpreter.get_input_details()
            self._outputs = self._interpreter.get_output_details()
        except (RuntimeError, ValueError) as error:  # names that are no text among the latter
            raise ContractError(f"{self.name}: LiteRT cannot load it ({first_line(error)})") from None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as what was opened: an interpreter belongs to its process."""
        return partial(LiteRtBackend, name=self.name), self._opened

    @classmethod
    def open(cls, path: Path, model: ModelSpec | None, threads: int | None) -> LiteRtBackend:
        return cls(path, threads)

    def check(self, model: ModelSpec) -> None:
        """Raises ContractError where the file has other inputs or outputs than ``model`` promises."""
        check_promises(self.name, [*map(_tensor_info, self._inputs)], [*map(_tensor_info, self._outputs)], model)

    def operators(self) -> list[LiteRtOperator]:
        """Those of the file, in its order, and behind them what XNNPACK has taken over, as ``DELEGATE`` s."""
        return [
            LiteRtOperator(one["op_name"], frozenset(map(int, one["inputs"])), tuple(map(int, one["outputs"])))
            for one in self._interpreter._get_ops_details()
        ]

    def tensors(self) -> dict[int, TensorInfo]:
        """By number. Tensors that the interpreter has made for itself are left out where it does not describe them."""
        return {one["index"]: _tensor_info(one) for one in self._interpreter.get_tensor_details()}

    def run(self, inputs: Array) -> dict[str, Array]:
        """The one input tensor -> all outputs by name. Raises ContractError when LiteRT fails."""
        (image,) = self._inputs
        try:
            self._interpreter.set_tensor(image["index"], inputs)
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise ContractError(f"{self.name}: LiteRT fails ({first_line(error)})") from None
        return {output["name"]: self._interpreter.get_tensor(output["index"]) for output in self._outputs}


def _tensor_info(details: dict[str, Any]) -> TensorInfo:
    return TensorInfo(details["name"], np.dtype(details["dtype"]).name, tuple(details["shape"].tolist()))


def _import_litert(name: str) -> tuple[Any, Any]:
    try:
        from ai_edge_litert import interpreter, schema_py_generated
    except ImportError:
        raise ContractError(f'{name}: running it needs ai-edge-litert: pip install "ssdlite[litert]"') from None
    return interpreter, schema_py_generated


# --- LiteRT believes a file: numbers of tensors out of range, or buffers beyond its end, make it read other memory.


def check_content(schema: Any, content: bytes, name: str) -> dict[str, str]:
    """Check what a file refers to, before LiteRT reads it. -> its metadata that are text, by name.

    Raises:
        ContractError: it is damaged, or asks for more than a detector does.
    """
    if content[4:8] != FILE_MARK:
        raise ContractError(f"{name}: expected a LiteRT file, with {FILE_MARK.decode()} at byte 4")
    try:
        model = schema.ModelT.InitFromPackedBuf(content)
        fault = _fault(model)
        metadata = {} if fault else _metadata(model)
    except Exception:  # of a reader that follows offsets to anywhere
        fault, metadata = "it is cut off, or refers to what is not in it", {}
    if fault:
        raise ContractError(f"{name}: a damaged LiteRT file ({fault})")
    return metadata


def _fault(model: Any) -> str | None:
    if len(model.subgraphs or ()) != 1:
        return f"expected one graph, got {len(model.subgraphs or ())}"
    (graph,) = model.subgraphs
    tensors, operators, buffers = graph.tensors or [], graph.operators or [], model.buffers or []
    if max(len(tensors), len(operators), len(buffers)) > MOST_ITEMS:
        return "too many tensors or operators"
    return _tensor_fault(tensors, buffers) or _operator_fault(graph, model)


def _tensor_fault(tensors: Sequence[Any], buffers: Sequence[Any]) -> str | None:
    if any(not 0 <= tensor.buffer < len(buffers) for tensor in tensors):
        return "a tensor without a buffer"
    shapes = [_numbers(tensor.shape) for tensor in tensors]
    if any(side < 0 for shape in shapes for side in shape):
        return "a tensor with a negative side"
    if sum(LARGEST_VALUE * math.prod(shape) for shape in shapes) > MAX_MODEL_BYTES:
        return "tensors that would exhaust memory"
    return None


def _operator_fault(graph: Any, model: Any) -> str | None:
    """Whether each operator is of a known kind, and reads what the input, a constant or an operator before gives."""
    tensors, inputs = graph.tensors or [], _numbers(graph.inputs)
    everything, codes = set(range(len(tensors))), model.operatorCodes or []
    constant = {place for place, tensor in enumerate(tensors) if model.buffers[tensor.buffer].data is not None}
    known = {OPTIONAL, *inputs} | constant
    for number, operator in enumerate(graph.operators or []):
        if not 0 <= operator.opcodeIndex < len(codes):
            return f"operator {number} is of no kind"
        outputs = set(_numbers(operator.outputs))
        if not known.issuperset(_numbers(operator.inputs)) or not outputs <= everything - constant:
            return f"operator {number} reads what nothing gives, or writes where it may not"
        known |= outputs
    if not everything.issuperset(inputs) or not (known & everything).issuperset(_numbers(graph.outputs)):
        return "inputs or outputs that are not there"
    return None


def _numbers(values: Any) -> list[int]:
    return [] if values is None else [int(value) for value in values]


def _metadata(model: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in model.metadata or []:
        data = model.buffers[entry.buffer].data
        try:
            found[entry.name.decode("utf-8")] = "" if data is None else bytes(bytearray(data)).decode("utf-8")
        except UnicodeDecodeError:  # other projects' metadata are flatbuffers
            continue
    return found


def _labels(content: bytes) -> str:
    """The names that MediaPipe shows, a line each, from the zip archive behind the file; empty where there are none."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open(LABELS_KEY) as file:
            return file.read(MOST_LABEL_BYTES).decode("utf-8")
    except Exception:  # of a reader that follows offsets to anywhere
        return ""
