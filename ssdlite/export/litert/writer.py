"""A LiteRT (TensorFlow Lite) file in the making: tensors and operators in, a flatbuffer out.

The schema that ai-edge-litert carries does the bytes (tensorflow/compiler/mlir/lite/schema/schema.fbs).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ssdlite.errors import ExportError

Array = npt.NDArray[Any]
SCHEMA_VERSION = 3
FILE_MARK = b"TFL3"
METADATA_ALIGNMENT = 16
SIGNATURE = "serving_default"
# By operator: its version of the schema, the newest that it is used in here (int8 by channel, broadcasting, ...), and
# the table of its options. Versions of 2019 and 2020, which every LiteRT in use knows.
OPERATORS: dict[str, tuple[int, str | None]] = {
    "ADD": (2, "AddOptions"),
    "CAST": (1, "CastOptions"),
    "CONCATENATION": (2, "ConcatenationOptions"),
    "CONV_2D": (3, "Conv2DOptions"),
    "CUSTOM": (1, None),
    "DEPTHWISE_CONV_2D": (3, "DepthwiseConv2DOptions"),
    "DEQUANTIZE": (3, "DequantizeOptions"),
    "EXP": (1, "ExpOptions"),
    "FULLY_CONNECTED": (5, "FullyConnectedOptions"),
    "HARD_SWISH": (1, "HardSwishOptions"),
    "LEAKY_RELU": (2, "LeakyReluOptions"),
    "LOG": (1, None),
    "LOGISTIC": (2, None),
    "MAXIMUM": (1, "MaximumMinimumOptions"),
    "MAX_POOL_2D": (2, "Pool2DOptions"),
    "MEAN": (2, "ReducerOptions"),
    "MINIMUM": (1, "MaximumMinimumOptions"),
    "MUL": (2, "MulOptions"),
    "PAD": (2, "PadOptions"),
    "PADV2": (2, "PadV2Options"),
    "QUANTIZE": (2, "QuantizeOptions"),
    "RELU": (2, None),
    "RELU6": (2, None),
    "RESHAPE": (1, "ReshapeOptions"),
    "RESIZE_BILINEAR": (3, "ResizeBilinearOptions"),
    "RESIZE_NEAREST_NEIGHBOR": (2, "ResizeNearestNeighborOptions"),
    "SLICE": (2, "SliceOptions"),
    "SOFTMAX": (2, "SoftmaxOptions"),
    "SUB": (2, "SubOptions"),
    "TRANSPOSE": (2, "TransposeOptions"),
}
TYPES = {"float32": "FLOAT32", "float16": "FLOAT16", "int32": "INT32", "int8": "INT8", "uint8": "UINT8"}


class Quantization(NamedTuple):
    """``value = (integer - zero_point) * scale``: one for the tensor, or one for each place along ``axis``."""

    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int64]
    axis: int = 0


class TensorFacts(NamedTuple):
    name: str
    shape: tuple[int, ...]
    type: str
    quantization: Quantization | None


class ModelWriter:
    """One graph. Tensors are known by the number that ``tensor`` gives them.

    Raises:
        ExportError: ai-edge-litert is not installed.
    """

    def __init__(self) -> None:
        self._schema = import_schema()
        self.facts: list[TensorFacts] = []
        self._tensors: list[Any] = []
        self._buffers = [self._schema.BufferT()]  # the first is empty by convention
        self._codes: dict[tuple[str, bytes], int] = {}
        self._operators: list[Any] = []
        self._metadata: list[tuple[str, int]] = []
        self._vectors: dict[bytes, int] = {}  # of quantisation, by their content: where the flatbuffer has them

    @property
    def operators(self) -> int:
        return len(self._operators)

    def shape(self, tensor: int) -> tuple[int, ...]:
        return self.facts[tensor].shape

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        kind: str = "float32",
        quantization: Quantization | None = None,
        data: Array | None = None,
    ) -> int:
        """A new tensor, constant where ``data`` is given. -> its number."""
        own = self._schema.TensorT()
        own.name, own.shape = name.encode(), np.array(shape, np.int32)
        own.type = getattr(self._schema.TensorType, TYPES[kind])
        own.buffer = 0 if data is None else self._buffer(np.ascontiguousarray(data).tobytes())
        if quantization is not None:
            own.quantization = _SharedQuantization(self._schema, quantization, self._vectors)
        self._tensors.append(own)
        self.facts.append(TensorFacts(name, tuple(map(int, shape)), kind, quantization))
        return len(self._tensors) - 1

    def rename(self, tensor: int, name: str) -> None:
        self.facts[tensor] = self.facts[tensor]._replace(name=name)
        self._tensors[tensor].name = name.encode()

    def constant(self, name: str, data: Array, quantization: Quantization | None = None) -> int:
        return self.tensor(name, data.shape, data.dtype.name, quantization, data)

    def operator(
        self,
        kind: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: Mapping[str, Any] | None = None,
        custom: tuple[bytes, bytes] | None = None,
    ) -> None:
        """``options`` by their names in the schema; -1 among the inputs is none.

        ``custom``: the name of a custom operator, and its options.
        """
        schema, (_, table) = self._schema, OPERATORS[kind]
        own = schema.OperatorT()
        own.opcodeIndex = self._codes.setdefault((kind, custom[0] if custom else b""), len(self._codes))
        own.inputs, own.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        if table is not None:
            own.builtinOptions = getattr(schema, f"{table}T")()
            own.builtinOptionsType = getattr(schema.BuiltinOptions, table)
            for name, value in (options or {}).items():
                setattr(own.builtinOptions, name, value)
        if custom is not None:
            own.customOptions = np.frombuffer(custom[1], np.uint8)
        self._operators.append(own)

    def apply(
        self,
        kind: str,
        inputs: Sequence[int],
        name: str,
        shape: Sequence[int],
        options: Mapping[str, Any] | None = None,
    ) -> int:
        """An operator with one float32 result of this name. -> the result's number."""
        result = self.tensor(name, shape)
        self.operator(kind, inputs, [result], options)
        return result

    def metadata(self, name: str, content: bytes) -> None:
        self._metadata.append((name, self._buffer(content)))

    def finish(self, inputs: Sequence[int], outputs: Sequence[int], description: str) -> bytes:
        """The file. The names of its inputs and outputs are those of their tensors."""
        import flatbuffers

        schema = self._schema
        graph = schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = b"main", self._tensors, self._operators
        graph.inputs, graph.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        model = schema.ModelT()
        model.version, model.description = SCHEMA_VERSION, description.encode()
        model.operatorCodes = [self._code(*key) for key in self._codes]
        model.subgraphs, model.buffers = [graph], self._buffers
        model.metadata = [self._entry(*entry) for entry in self._metadata]
        model.signatureDefs = [self._signature(inputs, outputs)]
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), FILE_MARK)
        return bytes(builder.Output())

    def _buffer(self, content: bytes) -> int:
        own = self._schema.BufferT()
        own.data = np.frombuffer(content, np.uint8)
        self._buffers.append(own)
        return len(self._buffers) - 1

    def _code(self, kind: str, custom: bytes) -> Any:
        own = self._schema.OperatorCodeT()
        own.builtinCode = getattr(self._schema.BuiltinOperator, kind)
        own.deprecatedBuiltinCode = min(own.builtinCode, 127)  # the field of a byte, which old readers read
        own.version, own.customCode = OPERATORS[kind][0], custom or None
        return own

    def _entry(self, name: str, buffer: int) -> Any:
        own = self._schema.MetadataT()
        own.name, own.buffer = name, buffer
        return own

    def _signature(self, inputs: Iterable[int], outputs: Iterable[int]) -> Any:
        own = self._schema.SignatureDefT()
        own.signatureKey, own.subgraphIndex = SIGNATURE, 0
        own.inputs, own.outputs = [self._named(one) for one in inputs], [self._named(one) for one in outputs]
        return own

    def _named(self, tensor: int) -> Any:
        own = self._schema.TensorMapT()
        own.name, own.tensorIndex = self.facts[tensor].name, tensor
        return own


class _SharedQuantization:
    """``QuantizationParametersT`` that writes equal vectors once: zeros by channel would be a tenth of an int8 file."""

    def __init__(self, schema: Any, quantization: Quantization, vectors: dict[bytes, int]) -> None:
        self.schema, self.quantization, self.vectors = schema, quantization, vectors

    def Pack(self, builder: Any) -> int:  # noqa: N802  the schema's own name
        scale = self._vector(builder, np.asarray(self.quantization.scale, np.float32).reshape(-1))
        zero_point = self._vector(builder, np.asarray(self.quantization.zero_point, np.int64).reshape(-1))
        self.schema.QuantizationParametersStart(builder)
        self.schema.QuantizationParametersAddScale(builder, scale)
        self.schema.QuantizationParametersAddZeroPoint(builder, zero_point)
        self.schema.QuantizationParametersAddQuantizedDimension(builder, self.quantization.axis)
        return int(self.schema.QuantizationParametersEnd(builder))

    def _vector(self, builder: Any, values: Array) -> int:
        key = values.dtype.char.encode() + values.tobytes()
        if key not in self.vectors:
            self.vectors[key] = int(builder.CreateNumpyVector(values))
        return self.vectors[key]


def import_schema() -> Any:
    try:
        import flatbuffers  # noqa: F401  which the schema needs
        from ai_edge_litert import schema_py_generated
    except ImportError:
        raise ExportError('ai-edge-litert is not installed: pip install "ssdlite[litert]"') from None
    return schema_py_generated
