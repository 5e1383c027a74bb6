"""A TensorFlow Lite file as plain data: operators in order, and tensors that are read when asked for."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.protobuf import DamagedError
from ssdlite.weights.class_names import MAX_LABEL_BYTES, parse_labels
from ssdlite.weights.raw_tensors import DAMAGE, MAX_RANK, RawTensor, read_floats
from ssdlite.weights.source import TFLITE, check_size, damaged_file

MAX_ITEMS = 20_000  # operators, tensors, buffers; such a model has some hundreds
FLOAT_TYPES: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 1: np.dtype("<f2")}  # by TensorType of the schema
OPTION_TABLES = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "ADD": "AddOptions",
    "SOFTMAX": "SoftmaxOptions",
}
T = TypeVar("T")


@dataclass(frozen=True)
class Operator:
    """``inputs`` and ``outputs`` are numbers of tensors, -1 for an input that is left out.

    ``options`` holds those of a convolution, a sum or a softmax; ``custom_options`` the bytes of a custom operator's.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, int]
    custom_options: bytes = b""


@dataclass(frozen=True)
class TfliteGraph:
    """The one subgraph of a file of ``size`` bytes; operators stand in an order in which they can run."""

    path: str
    size: int
    tensors: tuple[RawTensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def read(self, numbers: Sequence[int]) -> list[npt.NDArray[np.float32]]:
        """The values of constant tensors, as ``read_floats`` gives them. Raises CheckpointError where it does."""
        return read_floats([self.tensors[number] for number in numbers], self.path, self.size)


def read_tflite(path: Path) -> TfliteGraph:
    """Read a .tflite file.

    Raises:
        CheckpointError: it is missing, too large, damaged, or has more than one graph.
        ConfigError: the package that reads it is not installed.
    """
    schema = _schema()
    check_size(path)
    content = path.read_bytes()
    try:
        return _read_model(schema, content, str(path))
    except CheckpointError:
        raise
    except DAMAGE as error:
        raise damaged_file(path, TFLITE, error) from None


def _schema() -> Any:
    try:
        import tflite
    except ImportError:
        raise ConfigError("reading .tflite files needs the package tflite: pip install 'ssdlite[tflite]'") from None
    return tflite


def _read_model(schema: Any, content: bytes, path: str) -> TfliteGraph:
    if content[4:8] != b"TFL3":
        raise DamagedError("it does not begin as one")
    model = schema.Model.GetRootAs(content, 0)
    if model.SubgraphsLength() != 1:
        raise CheckpointError(f"{path}: expected a model of one graph, it has {model.SubgraphsLength()}")
    graph = model.Subgraphs(0)
    buffers = _list(model.BuffersLength, model.Buffers)
    data = [_data(buffer, content) for buffer in buffers]
    tensors = tuple(_tensor(tensor, data) for tensor in _list(graph.TensorsLength, graph.Tensors))
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    codes = _list(model.OperatorCodesLength, model.OperatorCodes)
    operators = tuple(
        _operator(schema, operator, codes, names) for operator in _list(graph.OperatorsLength, graph.Operators)
    )
    inputs, outputs = _numbers(graph.InputsLength, graph.Inputs), _numbers(graph.OutputsLength, graph.Outputs)
    _check_order(tensors, operators, inputs, outputs)
    return TfliteGraph(path, len(content), tensors, operators, inputs, outputs)


def _list(length: Callable[[], int], item: Callable[[int], T]) -> list[T]:
    count = length()
    if count > MAX_ITEMS:
        raise DamagedError(f"a list of {count} entries")
    return [item(number) for number in range(count)]


def _numbers(length: Callable[[], int], item: Callable[[int], int]) -> tuple[int, ...]:
    return tuple(int(value) for value in _list(length, item))


def _data(buffer: Any, content: bytes) -> memoryview:
    """The bytes of a buffer, without copying them."""
    count = buffer.DataLength()
    if not count:
        return memoryview(b"")
    start = buffer._tab.Vector(buffer._tab.Offset(4))  # what DataAsNumpy does, without its silence about a wrong length
    if start < 0 or start + count > len(content):
        raise DamagedError(f"a buffer of {count} bytes reaches past the end")
    return memoryview(content)[start : start + count]


def _tensor(tensor: Any, data: list[memoryview]) -> RawTensor:
    if tensor.ShapeLength() > MAX_RANK:
        raise DamagedError(f"a tensor of {tensor.ShapeLength()} dimensions")
    shape = _numbers(tensor.ShapeLength, tensor.Shape)
    name = (tensor.Name() or b"").decode("utf-8", "replace")
    return RawTensor(name, shape, FLOAT_TYPES.get(tensor.Type()), data[tensor.Buffer()], tensor.Buffer())


def _operator(schema: Any, operator: Any, codes: list[Any], names: dict[int, str]) -> Operator:
    code = codes[operator.OpcodeIndex()]
    # files from before schema version 3a have the code in the deprecated field alone, newer ones in both
    name = names.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "of an unknown kind")
    custom = b""
    if name == "CUSTOM":
        name = (code.CustomCode() or b"").decode("utf-8", "replace")
        custom = bytes(_numbers(operator.CustomOptionsLength, operator.CustomOptions))
    inputs = _numbers(operator.InputsLength, operator.Inputs)
    outputs = _numbers(operator.OutputsLength, operator.Outputs)
    return Operator(name, inputs, outputs, _options(schema, operator, name), custom)


def _options(schema: Any, operator: Any, name: str) -> dict[str, int]:
    table = operator.BuiltinOptions() if name in OPTION_TABLES else None
    if table is None:
        return {}
    options = getattr(schema, OPTION_TABLES[name])()
    options.Init(table.Bytes, table.Pos)
    if name == "SOFTMAX":
        return {"plain": int(options.Beta() == 1)}
    if name == "ADD":
        return {"activation": options.FusedActivationFunction()}
    return {
        "activation": options.FusedActivationFunction(),
        "padding": options.Padding(),
        "stride": max(options.StrideH(), options.StrideW()),
        "square": int(options.StrideH() == options.StrideW()),
        "dilation": max(options.DilationHFactor(), options.DilationWFactor()),
    }


def _check_order(
    tensors: tuple[RawTensor, ...],
    operators: tuple[Operator, ...],
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
) -> None:
    """Every operator uses what stands before it: so there are no cycles, and all numbers are of tensors there are."""
    known = {number for number, tensor in enumerate(tensors) if tensor.data} | set(inputs) | {-1}
    for number, operator in enumerate(operators):
        if not operator.inputs or operator.inputs[0] < 0:
            raise DamagedError(f"operator {number} ({operator.name}) has no input")
        missing = [tensor for tensor in operator.inputs if tensor not in known]
        if missing or not all(0 <= tensor < len(tensors) and tensor not in known for tensor in operator.outputs):
            raise DamagedError(f"operator {number} ({operator.name}) is not in an order in which it can run")
        known.update(operator.outputs)
    if not all(0 <= tensor < len(tensors) for tensor in inputs) or not set(outputs) <= known - {-1}:
        raise DamagedError("inputs or outputs of the graph are not there")


# --- Class names that a file carries in a zip behind the model, as TensorFlow's metadata writer does.


def packed_labels(path: Path) -> tuple[str, ...] | None:
    """The names in a file's packed label map, one a line; None where it has none.

    Raises:
        CheckpointError: there is one, but it is damaged, enormous, or not text.
    """
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            texts = [entry for entry in archive.infolist() if entry.filename.lower().endswith(".txt")]
            texts.sort(key=lambda entry: "label" not in PurePosixPath(entry.filename).name.lower())
            if not texts:
                return None
            with archive.open(texts[0]) as file:
                return parse_labels(file.read(MAX_LABEL_BYTES + 1), f"{path}: its packed {texts[0].filename}")
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path}: its packed labels cannot be read ({error})") from None
