"""An exported ONNX graph as an ML program, operator by operator.

The graph is the one that all runtimes get, batch norms folded and padding inside the convolutions. Building from it
rather than from a traced module leaves coremltools' own PyTorch front end out, which is tested with PyTorch up to 2.7.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, helper, numpy_helper

from ssdlite.errors import ExportError
from ssdlite.runtime.backends.base import quiet

Array = npt.NDArray[Any]
LOUD = ("coremltools", "torch.utils._pytree")  # loggers that speak while coremltools is imported


@contextmanager
def coremltools_tools() -> Iterator[Any]:
    """The package ``coremltools``, which warns of what is not there, and draws progress bars, to nobody.

    Raises:
        ExportError: it is not installed, or what is done with it fails.
    """
    with quiet(*LOUD), contextlib.redirect_stderr(io.StringIO()):
        try:
            import coremltools
        except ImportError:
            raise ExportError('coremltools is not installed: pip install "ssdlite[coreml]"') from None
        try:
            yield coremltools
        except ExportError:
            raise
        except Exception as error:  # it raises what it likes, assertions among them
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ExportError(f"coremltools cannot convert it ({said})") from error


def build_program(model: onnx.ModelProto, finish: Finish, target: Any) -> Any:
    """``model``, whose input is float32 [1, 3, H, W], as a program of coremltools' with the input ``image``.

    Args:
        finish: makes the program's outputs of the graph's, both by name.
        target: the oldest system, one of ``coremltools.target``.

    Raises:
        ExportError: an operator that this has no translation for; the message names it and the module it is of.
    """
    from coremltools.converters.mil import Builder

    (graph_input,) = model.graph.input
    shape = [side.dim_value for side in graph_input.type.tensor_type.shape.dim]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}

    @Builder.program(  # type: ignore[untyped-decorator]
        input_specs=[Builder.TensorSpec(shape=shape)], opset_version=target
    )
    def program(image: Any) -> Any:
        values: dict[str, Any] = {**constants, graph_input.name: image}
        for node in model.graph.node:
            translate = MIL_OPERATORS.get(node.op_type)
            if translate is None:
                raise ExportError(
                    f"Core ML: no translation for the operator {node.op_type} of {node.name.rpartition('.')[0]}"
                )
            values[node.output[0]] = translate(Builder, GraphNode(node, values))
        return tuple(finish(Builder, {output.name: values[output.name] for output in model.graph.output}).values())

    return program


Finish = Callable[[Any, Mapping[str, Any]], Mapping[str, Any]]


class GraphNode:
    """A node of the graph: its inputs, constants as arrays, and its attributes."""

    def __init__(self, node: NodeProto, values: Mapping[str, Any]) -> None:
        self.name = node.name
        self.inputs: list[Any] = [values[name] if name else None for name in node.input]
        self.attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}

    def numbers(self, position: int, default: list[int]) -> list[int]:
        """A constant input of integers."""
        given = self.inputs[position] if position < len(self.inputs) else None
        return default if given is None else [int(value) for value in given]


def _convolution(mb: Any, op: GraphNode) -> Any:
    weight = op.inputs[1]
    spatial = weight.ndim - 2
    pads = op.attributes.get("pads", [0] * 2 * spatial)
    options = {"bias": op.inputs[2]} if len(op.inputs) > 2 else {}
    return mb.conv(
        x=op.inputs[0],
        weight=weight,
        strides=op.attributes.get("strides", [1] * spatial),
        pad_type="custom",
        pad=[side for pair in zip(pads[:spatial], pads[spatial:], strict=True) for side in pair],
        dilations=op.attributes.get("dilations", [1] * spatial),
        groups=op.attributes.get("group", 1),
        name=op.name,
        **options,
    )


def _clip(mb: Any, op: GraphNode) -> Any:
    low, high = (float(limit) for limit in op.inputs[1:3])
    if (low, high) == (0.0, 6.0):
        return mb.relu6(x=op.inputs[0], name=op.name)
    return mb.clip(x=op.inputs[0], alpha=np.float32(low), beta=np.float32(high), name=op.name)


def _slice(mb: Any, op: GraphNode) -> Any:
    """Along one axis or more, with constant bounds; a bound beyond the end is the end."""
    source = op.inputs[0]
    starts, ends = op.numbers(1, []), op.numbers(2, [])
    axes, steps = op.numbers(3, list(range(len(starts)))), op.numbers(4, [1] * len(starts))
    begin, end, stride = [0] * source.rank, list(source.shape), [1] * source.rank
    for axis, first, last, step in zip(axes, starts, ends, steps, strict=True):
        side = source.shape[axis]
        begin[axis] = max(first + side, 0) if first < 0 else min(first, side)
        end[axis] = max(last + side, 0) if last < 0 else min(last, side)
        stride[axis] = step
    return mb.slice_by_index(x=source, begin=begin, end=end, stride=stride, name=op.name)


def _resize(mb: Any, op: GraphNode) -> Any:
    mode, places, rounding = (
        op.attributes.get(name) for name in ("mode", "coordinate_transformation_mode", "nearest_mode")
    )
    height, width = (float(factor) for factor in op.inputs[2][2:])
    factors = {"scale_factor_height": height, "scale_factor_width": width}
    if (mode, places, rounding) == (b"nearest", b"asymmetric", b"floor"):
        return mb.upsample_nearest_neighbor(x=op.inputs[0], **factors, name=op.name)
    if (mode, places) == (b"linear", b"half_pixel"):
        return mb.upsample_bilinear(x=op.inputs[0], **factors, align_corners=False, name=op.name)
    raise ExportError(
        f"Core ML: expected an enlargement to the nearest pixel or between pixels' middles, got another in {op.name}"
    )


def _max_pool(mb: Any, op: GraphNode) -> Any:
    """Of what is there: the padding is less than any value, as in PyTorch."""
    if op.attributes.get("ceil_mode") or set(op.attributes.get("dilations", [1])) != {1}:
        raise ExportError(f"Core ML: expected a plain maximum pooling, got another in {op.name}")
    top, left, bottom, right = op.attributes.get("pads", [0] * 4)
    return mb.max_pool(
        x=op.inputs[0],
        kernel_sizes=op.attributes["kernel_shape"],
        strides=op.attributes["strides"],
        pad_type="custom",
        pad=[top, bottom, left, right],
        name=op.name,
    )


def _hard_sigmoid(mb: Any, op: GraphNode) -> Any:
    alpha, beta = op.attributes.get("alpha", 0.2), op.attributes.get("beta", 0.5)
    return mb.sigmoid_hard(x=op.inputs[0], alpha=np.float32(alpha), beta=np.float32(beta), name=op.name)


def _hard_swish(mb: Any, op: GraphNode) -> Any:
    gate = mb.relu6(x=mb.add(x=op.inputs[0], y=np.float32(3)))
    return mb.mul(x=op.inputs[0], y=mb.mul(x=gate, y=np.float32(1 / 6)), name=op.name)


def _unary(kind: str) -> Callable[[Any, GraphNode], Any]:
    return lambda mb, op: getattr(mb, kind)(x=op.inputs[0], name=op.name)


def _binary(kind: str) -> Callable[[Any, GraphNode], Any]:
    return lambda mb, op: getattr(mb, kind)(x=op.inputs[0], y=op.inputs[1], name=op.name)


MIL_OPERATORS: dict[str, Callable[[Any, GraphNode], Any]] = {
    **{name: _binary(kind) for name, kind in (("Add", "add"), ("Sub", "sub"), ("Mul", "mul"), ("Div", "real_div"))},
    "MatMul": _binary("matmul"),
    **{name: _unary(name.lower()) for name in ("Relu", "Sigmoid", "Exp", "Log")},
    "Conv": _convolution,
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "LeakyRelu": lambda mb, op: mb.leaky_relu(
        x=op.inputs[0], alpha=np.float32(op.attributes.get("alpha", 0.01)), name=op.name
    ),
    "GlobalAveragePool": lambda mb, op: mb.reduce_mean(x=op.inputs[0], axes=[2, 3], keep_dims=True, name=op.name),
    "Softmax": lambda mb, op: mb.softmax(x=op.inputs[0], axis=op.attributes.get("axis", -1), name=op.name),
    "Transpose": lambda mb, op: mb.transpose(x=op.inputs[0], perm=op.attributes["perm"], name=op.name),
    "Reshape": lambda mb, op: mb.reshape(x=op.inputs[0], shape=op.numbers(1, []), name=op.name),
    "Concat": lambda mb, op: mb.concat(values=op.inputs, axis=op.attributes["axis"], name=op.name),
    "MaxPool": _max_pool,
    "Slice": _slice,
    "Resize": _resize,
}
