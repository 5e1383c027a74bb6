"""The body of an exported ONNX graph, from the picture to class logits and box deltas, in LiteRT's operators.

ONNX keeps pictures as planes (NCHW), LiteRT as pixels (NHWC): every tensor of rank 4 changes its axes here, which
makes the graph's own transpositions before its last reshapes superfluous. A quantised graph is taken as it was
calibrated: where an operator stands between DequantizeLinear and QuantizeLinear, it is computed in integers with their
very scales; everything else is computed in float.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, numpy_helper

from ssdlite.errors import ExportError
from ssdlite.export.litert.maps import enlarge, pool_maxima, shuffle_channels, write_reshape
from ssdlite.export.litert.nodes import attributes_of, module_of
from ssdlite.export.litert.writer import ModelWriter, Quantization

Array = npt.NDArray[Any]
TO_NHWC = (0, 2, 3, 1)
SAME, VALID = 0, 1  # Padding of the schema
NONE, RELU, RELU6 = 0, 1, 3  # ActivationFunctionType of the schema
ACTIVATION_OPERATORS = {RELU: "RELU", RELU6: "RELU6"}
FUSING = ("Conv", "Add", "Mul", "Sub")  # operators that LiteRT computes together with the activation behind them
ELEMENTWISE = {"Add": "ADD", "Mul": "MUL", "Sub": "SUB"}


class IntegerWeight(NamedTuple):
    values: Array  # int8
    quantization: Quantization


class BodyConverter:
    """Writes the operators of an ONNX graph of batch 1 and planes into ``writer``.

    Args:
        model: float32, or quantised with signed activations.
        half_weights: store weights as float16; LiteRT computes with them in float32, or as its delegate likes.
        signed_input: take pixels less 128 as int8: of a quantised graph that takes them as its first integers.

    Raises:
        ExportError: an operator that is not known here, or used in another way than the exporter's.
    """

    def __init__(
        self,
        writer: ModelWriter,
        model: onnx.ModelProto,
        *,
        half_weights: bool = False,
        signed_input: bool = False,
    ) -> None:
        self.writer = writer
        graph = model.graph
        self.graph = graph
        self.half_weights = half_weights
        self.signed_input = signed_input
        self.outputs = [output.name for output in graph.output]
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.floats: dict[str, int] = {}  # tensors of the file by their name in the graph
        self.integers: dict[str, int] = {}  # those of quantised tensors
        self.pixels: set[str] = set()  # what the graph itself has turned into NHWC
        self.fused: set[str] = set()  # results of nodes that another operator computes

    def convert(self) -> int:
        """-> the number of the input tensor. The outputs are in ``floats`` then."""
        image = self._input()
        for node in self.graph.node:
            if node.op_type == "DequantizeLinear" or node.output[0] in self.fused:
                continue
            handler = _HANDLERS.get(node.op_type)
            if handler is None:
                raise ExportError(
                    f"LiteRT: no operator is known for {node.op_type} of {module_of(node)}; expected a graph of "
                    f"{', '.join(sorted(_HANDLERS))}"
                )
            handler(self, node)
        return image

    def _input(self) -> int:
        (image,) = self.graph.input
        kind = {onnx.TensorProto.UINT8: "uint8", onnx.TensorProto.FLOAT: "float32"}[image.type.tensor_type.elem_type]
        batch, channels, height, width = (side.dim_value for side in image.type.tensor_type.shape.dim)
        shape = (batch, height, width, channels)
        reader = self.readers[image.name][0]
        if self.signed_input:
            return self._signed_input(image.name, shape, reader)
        if kind == "uint8" and reader.op_type == "DequantizeLinear":  # the pixels are the quantised values
            number = self.writer.tensor(image.name, shape, kind, self._quantization(reader))
            self.integers[image.name] = number
        else:
            number = self.writer.tensor(image.name, shape, kind)
            self.floats[image.name] = number
        return number

    def _signed_input(self, name: str, shape: Sequence[int], reader: NodeProto) -> int:
        """The integers that the unsigned pixels would be requantised to, of the same scale."""
        quantize = self._requantized(reader.output[0]) if reader.op_type == "DequantizeLinear" else None
        if quantize is None:
            raise ExportError("LiteRT: an int8 input is for int8 files whose channels are normalised alike; use uint8")
        number = self.writer.tensor(name, shape, "int8", self._quantization(quantize))
        self.fused.add(quantize.output[0])
        self.integers[quantize.output[0]] = number
        return number

    # --- Where the values of a tensor are to be found.

    def _float(self, name: str) -> int:
        if name not in self.floats:
            self.floats[name] = self._new_float(name)
        return self.floats[name]

    def _new_float(self, name: str) -> int:
        value = self.value(name)
        if value is not None:
            return self.writer.constant(name, np.atleast_1d(to_pixels(value)).astype(np.float32))
        source = self.integers[self.makers[name].input[0]]
        return self.writer.apply("DEQUANTIZE", [source], name, self.writer.shape(source))

    def _integer(self, name: str) -> int | None:
        """The integers that the float tensor of this name stands for, if it does."""
        maker = self.makers.get(name)
        if maker is None or maker.op_type != "DequantizeLinear":
            return None
        source = maker.input[0]
        if source in self.constants and source not in self.integers:
            value = np.atleast_1d(to_pixels(self.constants[source]))
            self.integers[source] = self.writer.constant(source, value, self._quantization(maker))
        return self.integers.get(source)

    def value(self, name: str) -> Array | None:
        """Of a constant, dequantised if need be."""
        if name in self.constants:
            return self.constants[name]
        maker = self.makers.get(name)
        if maker is None or maker.op_type != "DequantizeLinear" or maker.input[0] not in self.constants:
            return None
        values, (scale, zero_point, axis) = self.constants[maker.input[0]], self._quantization(maker)
        shape = [-1 if place == axis else 1 for place in range(values.ndim)] if len(scale) > 1 else [1] * values.ndim
        return np.asarray((values - zero_point.reshape(shape)) * scale.reshape(shape), np.float32)

    def _quantization(self, node: NodeProto) -> Quantization:
        """Of a QuantizeLinear or DequantizeLinear; equal scales for all channels are one."""
        scale = np.atleast_1d(self.constants[node.input[1]]).astype(np.float32)
        zero = self.constants[node.input[2]] if len(node.input) > 2 else np.zeros(1)
        zero_point = np.broadcast_to(np.atleast_1d(zero).astype(np.int64), scale.shape)
        if node.input[0] not in self.constants and len(np.unique(scale)) == 1:
            scale, zero_point = scale[:1], zero_point[:1]
        by_channel = len(scale) > 1  # XNNPACK leaves other axes than 0 of one scale
        return Quantization(scale, zero_point, int(attributes_of(node).get("axis", 1)) if by_channel else 0)

    def only_reader(self, name: str) -> NodeProto | None:
        """The node that alone reads a result of the graph, which then need not exist itself."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def _requantized(self, name: str) -> NodeProto | None:
        """The QuantizeLinear that alone reads a result, which then need not exist in float."""
        reader = self.only_reader(name)
        return reader if reader is not None and reader.op_type == "QuantizeLinear" else None

    def operands(self, node: NodeProto, names: Sequence[str]) -> tuple[list[int], bool]:
        """The tensors of these inputs, and whether the node is computed in integers."""
        integers = [self._integer(name) for name in names] if self._requantized(node.output[0]) is not None else [None]
        if None not in integers:
            return [number for number in integers if number is not None], True
        return [self._float(name) for name in names], False

    def result(self, node: NodeProto, shape: Sequence[int], integer: bool) -> tuple[int, int]:
        """The tensor for what ``node`` computes, and the activation to compute with it."""
        name = node.output[0]
        if integer:
            quantize = self._requantized(name)
            assert quantize is not None
            self.fused.add(quantize.output[0])
            number = self.writer.tensor(quantize.output[0], shape, "int8", self._quantization(quantize))
            self.integers[quantize.output[0]] = number
            return number, NONE
        activation = NONE
        reader = self.only_reader(name) if node.op_type in FUSING else None
        if reader is not None:
            activation = self._activation(reader)
            if activation != NONE:
                name = reader.output[0]
                self.fused.add(name)
        self.floats[name] = self.writer.tensor(name, shape)
        return self.floats[name], activation

    def _activation(self, node: NodeProto) -> int:
        if node.op_type == "Relu":
            return RELU
        if node.op_type == "Clip":
            limits = [self.value(name) for name in node.input[1:]]
            if len(limits) == 2 and [None if one is None else float(one) for one in limits] == [0, 6]:
                return RELU6
        return NONE

    # --- The operators.

    def _convolution(self, node: NodeProto) -> None:
        attributes = attributes_of(node)
        weight_name, *bias_names = node.input[1:]
        (source,), integer = self.operands(node, node.input[:1])
        quantized = self.makers.get(weight_name)
        if integer and quantized is None:
            source, integer = self._float(node.input[0]), False
        depthwise = attributes.get("group", 1) > 1
        weight = self.constants[quantized.input[0]] if integer and quantized is not None else self.value(weight_name)
        assert weight is not None
        if depthwise and (weight.shape[1] != 1 or attributes["group"] != weight.shape[0]):
            raise ExportError(f"LiteRT: grouped convolutions are not supported, as {module_of(node)} has one")
        source, padding = self.pad(node, source, weight.shape[2:], attributes)
        strides, dilations = attributes["strides"], attributes.get("dilations", [1, 1])
        sides = self.sides(source, padding, weight.shape[2:], attributes)
        result, activation = self.result(node, (1, *sides, len(weight)), integer)
        bias = self.value(bias_names[0]) if bias_names else np.zeros(len(weight))
        assert bias is not None
        filters = weight.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
        if integer and quantized is not None:
            scale = np.broadcast_to(self._quantization(quantized).scale, len(weight))
            quantization = Quantization(scale, np.zeros(len(scale), np.int64), 3 if depthwise else 0)
            parameters = self._integer_weights(node, source, IntegerWeight(filters, quantization), bias)
        else:
            floats = self.writer.constant(f"{node.name}.bias", bias.astype(np.float32))
            parameters = [self._weights(weight_name, filters, node), floats]
        options = {
            "padding": padding,
            "strideH": strides[0],
            "strideW": strides[1],
            "dilationHFactor": dilations[0],
            "dilationWFactor": dilations[1],
            "fusedActivationFunction": activation,
        }
        if depthwise:
            self.writer.operator("DEPTHWISE_CONV_2D", [source, *parameters], [result], options | {"depthMultiplier": 1})
        else:
            self.writer.operator("CONV_2D", [source, *parameters], [result], options)

    def _integer_weights(self, node: NodeProto, source: int, weight: IntegerWeight, bias: Array) -> list[int]:
        """int8 weights by channel, and the int32 bias, whose scale is the product of the input's and theirs."""
        inputs, own = self.writer.facts[source].quantization, weight.quantization
        assert inputs is not None
        scale = (inputs.scale[0] * own.scale).astype(np.float32)
        value = np.round(bias / scale.astype(np.float64)).clip(-(2**31), 2**31 - 1).astype(np.int32)
        return [
            self.writer.constant(node.input[1], weight.values, own),
            self.writer.constant(f"{node.name}.bias", value, Quantization(scale, own.zero_point)),
        ]

    def _weights(self, name: str, filters: Array, node: NodeProto) -> int:
        if not self.half_weights:
            return self.writer.constant(name, filters.astype(np.float32))
        half = filters.astype(np.float16)
        if not np.isfinite(half).all():
            raise ExportError(f"LiteRT: weights of {module_of(node)} are too large for float16")
        stored = self.writer.constant(f"{name}.half", half)
        return self.writer.apply("DEQUANTIZE", [stored], name, filters.shape)

    def sides(self, source: int, padding: int, kernel: Sequence[int], attributes: dict[str, Any]) -> list[int]:
        """Height and width of what a window of these sides, strides and dilations makes of ``source``."""
        strides, dilations = attributes["strides"], attributes.get("dilations", [1, 1])
        return [
            -(-side // stride) if padding == SAME else (side - dilation * (size - 1) - 1) // stride + 1
            for side, stride, dilation, size in zip(
                self.writer.shape(source)[1:3], strides, dilations, kernel, strict=True
            )
        ]

    def pad(
        self,
        node: NodeProto,
        source: int,
        kernel: Sequence[int],
        attributes: dict[str, Any],
        filler: Array | None = None,
    ) -> tuple[int, int]:
        """The input with the padding that LiteRT's own kinds do not give, and which of these kinds is left to do.

        It is of zeros, or of the one value ``filler``.
        """
        top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
        shape = self.writer.shape(source)
        strides, dilations = attributes["strides"], attributes.get("dilations", [1, 1])
        amounts, same = [(0, 0)], True
        for side, stride, dilation, size, before, after in zip(
            shape[1:3], strides, dilations, kernel, (top, left), (bottom, right), strict=True
        ):
            span = dilation * (size - 1) + 1
            count = (side + before + after - span) // stride + 1
            total = max((-(-side // stride) - 1) * stride + span - side, 0)  # what SAME puts around
            same &= (before, after) == (total // 2, total - total // 2) and count == -(-side // stride)
            amounts.append((before, max((count - 1) * stride + span - side - before, 0)))  # no more than is read
        if same:
            return source, SAME
        if not any(map(sum, amounts)):
            return source, VALID
        facts = self.writer.facts[source]
        padded = [side + sum(amount) for side, amount in zip(shape, [*amounts, (0, 0)], strict=True)]
        result = self.writer.tensor(f"{node.name}.padded", padded, facts.type, facts.quantization)
        table = self.writer.constant(f"{node.name}.padding", np.array([*amounts, (0, 0)], np.int32))
        if filler is None:
            self.writer.operator("PAD", [source, table], [result])
        else:
            value = self.writer.constant(f"{node.name}.filler", filler, facts.quantization)
            self.writer.operator("PADV2", [source, table, value], [result])
        return result, VALID

    def _elementwise(self, node: NodeProto) -> None:
        operands, integer = self.operands(node, node.input)
        shape = np.broadcast_shapes(*map(self.writer.shape, operands))
        result, activation = self.result(node, shape, integer)
        self.writer.operator(ELEMENTWISE[node.op_type], operands, [result], {"fusedActivationFunction": activation})

    def _divide(self, node: NodeProto) -> None:
        divisor = self.value(node.input[1])
        if divisor is None:
            raise ExportError(f"LiteRT: expected a division by a constant, got another in {module_of(node)}")
        source = self._float(node.input[0])
        factor = self.writer.constant(f"{node.name}.factor", np.atleast_1d(to_pixels(1 / divisor)).astype(np.float32))
        result, _ = self.result(node, self.writer.shape(source), False)
        self.writer.operator("MUL", [source, factor], [result])

    def _unary(self, kind: str, node: NodeProto, options: dict[str, Any] | None = None) -> None:
        (source,), integer = self.operands(node, node.input[:1])
        result, _ = self.result(node, self.writer.shape(source), integer)
        self.writer.operator(kind, [source], [result], options)

    def _rectify(self, node: NodeProto) -> None:
        activation = self._activation(node)
        if activation == NONE:
            raise ExportError(f"LiteRT: expected a limit to 0 and 6, got another in {module_of(node)}")
        self._unary(ACTIVATION_OPERATORS[activation], node)

    def _leaky(self, node: NodeProto) -> None:
        self._unary("LEAKY_RELU", node, {"alpha": float(attributes_of(node).get("alpha", 0.01))})

    def _hard_sigmoid(self, node: NodeProto) -> None:
        """``relu6(x + 3) / 6``, in float: it stands behind a mean, where there are few values."""
        source = self._float(node.input[0])
        shape = self.writer.shape(source)
        three = self.writer.constant(f"{node.name}.three", np.full(1, 3, np.float32))
        sixth = self.writer.constant(f"{node.name}.sixth", np.full(1, 1 / 6, np.float32))
        limited = self.writer.apply(
            "ADD", [source, three], f"{node.name}.limited", shape, {"fusedActivationFunction": RELU6}
        )
        result, _ = self.result(node, shape, False)
        self.writer.operator("MUL", [limited, sixth], [result])

    def _mean(self, node: NodeProto) -> None:
        (source,), integer = self.operands(node, node.input[:1])
        axes = self.writer.constant(f"{node.name}.axes", np.array([1, 2], np.int32))
        result, _ = self.result(node, (1, 1, 1, self.writer.shape(source)[3]), integer)
        self.writer.operator("MEAN", [source, axes], [result], {"keepDims": True})

    def _product(self, node: NodeProto) -> None:
        """Of rows with a constant matrix [N, M]."""
        weight = self.value(node.input[1])
        source = self._float(node.input[0])
        *rows, _ = self.writer.shape(source)
        if weight is None or weight.ndim != 2 or len(rows) > 2:
            raise ExportError(f"LiteRT: expected a product of rows with a matrix, got another in {module_of(node)}")
        filters = self.writer.constant(f"{node.name}.weights", np.ascontiguousarray(weight.T, np.float32))
        result, _ = self.result(node, (*rows, weight.shape[1]), False)
        self.writer.operator("FULLY_CONNECTED", [source, filters, -1], [result], {"keepNumDims": True})

    def _softmax(self, node: NodeProto) -> None:
        source = self._float(node.input[0])
        shape = self.writer.shape(source)
        if len(shape) == 4 or attributes_of(node).get("axis", -1) not in (-1, len(shape) - 1):
            raise ExportError(f"LiteRT: expected a softmax along the last axis, got another in {module_of(node)}")
        result, _ = self.result(node, shape, False)
        self.writer.operator("SOFTMAX", [source], [result], {"beta": 1.0})

    def _cast(self, node: NodeProto) -> None:
        source = self._float(node.input[0])
        result, _ = self.result(node, self.writer.shape(source), False)
        self.writer.operator("CAST", [source], [result])

    def _quantize(self, node: NodeProto) -> None:
        source = self._integer(node.input[0])  # from uint8 to int8, with a scale of its own
        source = self._float(node.input[0]) if source is None else source
        name, quantization = node.output[0], self._quantization(node)
        self.integers[name] = self.writer.tensor(name, self.writer.shape(source), "int8", quantization)
        self.writer.operator("QUANTIZE", [source], [self.integers[name]])

    def _transpose(self, node: NodeProto) -> None:
        if tuple(attributes_of(node)["perm"]) != TO_NHWC:
            raise ExportError(f"LiteRT: expected a transposition to pixels, got another in {module_of(node)}")
        self.floats[node.output[0]] = self._float(node.input[0])
        self.pixels.add(node.output[0])

    def _reshape(self, node: NodeProto) -> None:
        if shuffle_channels(self, node):
            return
        source = self._float(node.input[0])
        if len(self.writer.shape(source)) == 4 and node.input[0] not in self.pixels:
            raise ExportError(f"LiteRT: expected pixels to be reshaped, got planes in {module_of(node)}")
        target = self.constants[node.input[1]].tolist()
        if -1 in target:
            rest = -int(np.prod(target))
            target[target.index(-1)] = int(np.prod(self.writer.shape(source))) // rest
        result, _ = self.result(node, target, False)
        write_reshape(self.writer, source, result)

    def _slice(self, node: NodeProto) -> None:
        """Of steps of 1."""
        values = [self.constants[name] for name in node.input[1:]]
        starts, ends, axes = (one.tolist() for one in values[:3])
        if len(values) > 3 and set(values[3].tolist()) != {1}:
            raise ExportError(f"LiteRT: expected a slice of steps of 1, got another in {module_of(node)}")
        (source,), integer = self.operands(node, node.input[:1])
        shape = self.writer.shape(source)
        begin, size = [0] * len(shape), list(shape)
        for start, end, axis in zip(starts, ends, axes, strict=True):
            place = self._axis(node, axis, len(shape))
            first, last, _ = slice(start, end).indices(shape[place])
            begin[place], size[place] = first, last - first
        result, _ = self.result(node, size, integer)
        tables = [
            self.writer.constant(f"{node.name}.{name}", np.array(value, np.int32))
            for name, value in (("begin", begin), ("size", size))
        ]
        self.writer.operator("SLICE", [source, *tables], [result])

    def _axis(self, node: NodeProto, axis: int, rank: int) -> int:
        """Where an axis of the graph's own, of its first input, stands in the file."""
        axis %= rank
        return TO_NHWC.index(axis) if rank == 4 and node.input[0] not in self.pixels else axis

    def _concatenate(self, node: NodeProto) -> None:
        operands, integer = self.operands(node, node.input)
        shape = list(self.writer.shape(operands[0]))
        axis = self._axis(node, attributes_of(node)["axis"], len(shape))
        shape[axis] = sum(self.writer.shape(one)[axis] for one in operands)
        result, _ = self.result(node, shape, integer)
        if integer:
            operands = [self.rescaled(one, result) for one in operands]
        self.writer.operator("CONCATENATION", operands, [result], {"axis": axis})

    def rescaled(self, source: int, like: int) -> int:
        """The integers ``source`` in the scale of those ``like``: operators that move values have but one."""
        facts, wanted = self.writer.facts[source], self.writer.facts[like].quantization
        own = facts.quantization
        assert own is not None and wanted is not None  # of what is computed in integers
        if np.array_equal(own.scale, wanted.scale) and np.array_equal(own.zero_point, wanted.zero_point):
            return source
        result = self.writer.tensor(f"{facts.name}.rescaled", facts.shape, facts.type, wanted)
        self.writer.operator("QUANTIZE", [source], [result])
        return result


_HANDLERS: dict[str, Callable[[BodyConverter, NodeProto], None]] = {
    "Add": BodyConverter._elementwise,
    "Cast": BodyConverter._cast,
    "Clip": BodyConverter._rectify,
    "Concat": BodyConverter._concatenate,
    "Conv": BodyConverter._convolution,
    "Div": BodyConverter._divide,
    "Exp": lambda converter, node: converter._unary("EXP", node),
    "GlobalAveragePool": BodyConverter._mean,
    "HardSigmoid": BodyConverter._hard_sigmoid,
    "HardSwish": lambda converter, node: converter._unary("HARD_SWISH", node),
    "LeakyRelu": BodyConverter._leaky,
    "Log": lambda converter, node: converter._unary("LOG", node),
    "MatMul": BodyConverter._product,
    "MaxPool": pool_maxima,
    "Mul": BodyConverter._elementwise,
    "QuantizeLinear": BodyConverter._quantize,
    "Relu": BodyConverter._rectify,
    "Reshape": BodyConverter._reshape,
    "Resize": enlarge,
    "Sigmoid": lambda converter, node: converter._unary("LOGISTIC", node),
    "Slice": BodyConverter._slice,
    "Softmax": BodyConverter._softmax,
    "Sub": BodyConverter._elementwise,
    "Transpose": BodyConverter._transpose,
}


def to_pixels(value: Array) -> Array:
    """A constant that meets planes -> one that meets pixels: [C, 1, 1] and [N, C, H, W] change their axes."""
    if value.ndim < 3:
        return value
    planes: Array = value.reshape((1,) * (4 - value.ndim) + value.shape)
    return np.ascontiguousarray(planes.transpose(TO_NHWC))
