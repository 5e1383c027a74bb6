"""The pictures' own 8-bit values as the first convolution's quantised input, without any float in between.

``(pixel - mean) / std`` and quantisation are one and the same affine map, so the graph needs neither: the pixel is
the quantised value, 1 / std its scale, and mean its zero point. Going through floats instead costs time on every
pixel, and with a mean of 127.5 it rounds every second pixel value onto its neighbour.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ssdlite.export.body import Body


@dataclass(frozen=True)
class IntegerInput:
    """What stands between a uint8 input and the first convolution.

    ``tensor``, that convolution's input, is ``(pixel - zero_point) * scale + shift``; ``shift`` is what is left
    over by rounding the mean to a whole zero point, and goes into the convolution's bias.
    """

    source: str  # the graph's input
    tensor: str
    convolution: NodeProto
    nodes: tuple[NodeProto, ...]  # from the input on
    transpose: NodeProto | None
    scale: float
    zero_point: int
    shift: float

    @property
    def range(self) -> tuple[float, float]:
        """The values of ``tensor`` for pixels of 0 and 255, shift apart."""
        return -self.zero_point * self.scale, (255 - self.zero_point) * self.scale


def find_integer_input(model: onnx.ModelProto, body: Body) -> IntegerInput | None:
    """None where the input is not uint8, or its normalisation differs between channels."""
    graph = model.graph
    if graph.input[0].type.tensor_type.elem_type != TensorProto.UINT8:
        return None
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    by_input = {node.input[0]: node for node in reversed(graph.node) if node.input}
    tensor, scale, offset = graph.input[0].name, 1.0, 0.0
    nodes: list[NodeProto] = []
    while readers[tensor] == 1 and (node := by_input.get(tensor)) is not None:
        if node.op_type == "Conv":
            return _integer_input(graph.input[0].name, node, nodes, scale, offset) if node in body.nodes else None
        step = _affine(node, constants)
        if step is None:
            return None
        scale, offset = scale * step[0], offset * step[0] + step[1]
        nodes.append(node)
        tensor = node.output[0]
    return None


def _integer_input(
    source: str, convolution: NodeProto, nodes: list[NodeProto], scale: float, offset: float
) -> IntegerInput | None:
    zero_point = round(-offset / scale) if scale > 0 else -1
    transposes = [node for node in nodes if node.op_type == "Transpose"]
    if not 0 <= zero_point <= 255 or len(transposes) > 1:
        return None
    return IntegerInput(
        source=source,
        tensor=convolution.input[0],
        convolution=convolution,
        nodes=tuple(nodes),
        transpose=transposes[0] if transposes else None,
        scale=scale,
        zero_point=zero_point,
        shift=offset + zero_point * scale,
    )


def _affine(node: NodeProto, constants: dict[str, TensorProto]) -> tuple[float, float] | None:
    """(factor, term) of a node that multiplies and adds one and the same constant everywhere."""
    if node.op_type in ("Cast", "Transpose"):
        return 1.0, 0.0
    constant = constants.get(node.input[1]) if len(node.input) == 2 else None
    if constant is None or node.op_type not in ("Sub", "Add", "Div", "Mul"):
        return None
    values = np.unique(numpy_helper.to_array(constant))
    if len(values) != 1 or values[0] == 0:
        return None
    value = float(values[0])
    return {"Sub": (1.0, -value), "Add": (1.0, value), "Div": (1 / value, 0.0), "Mul": (value, 0.0)}[node.op_type]


def shift_bias(model: onnx.ModelProto, found: IntegerInput) -> None:
    """Give the first convolution the bias that makes up for ``shift``: exact but for the padding at the border,
    where it is off by ``shift`` (at most half a pixel's step) times the weights that see padding.
    """
    name = found.convolution.name
    (convolution,) = (node for node in model.graph.node if node.name == name)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    weight = numpy_helper.to_array(constants[convolution.input[1]])
    bias = numpy_helper.to_array(constants[convolution.input[2]]) if len(convolution.input) > 2 else np.float32(0)
    shifted = (bias + found.shift * weight.sum(axis=(1, 2, 3))).astype(np.float32)
    new = f"{name}.shifted_bias"
    model.graph.initializer.append(numpy_helper.from_array(shifted, new))
    del convolution.input[2:]
    convolution.input.append(new)


def read_pixels_as_integers(model: onnx.ModelProto, found: IntegerInput) -> None:
    """In the quantised ``model``, put the pixels in the place of what was computed from them.

    Unsigned activations: ``pixel -> DequantizeLinear -> Conv``. Signed ones need one more pair of QuantizeLinear and
    DequantizeLinear, of the same scale. The nodes are not in order afterwards.
    """
    graph = model.graph
    (quantise,) = (node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == found.tensor)
    names = {node.name for node in found.nodes}
    for node in [node for node in graph.node if node.name in names]:
        graph.node.remove(node)
    source = found.source
    if found.transpose is not None:
        source = f"{found.source}.transposed"
        attributes = {item.name: helper.get_attribute_value(item) for item in found.transpose.attribute}
        graph.node.append(helper.make_node("Transpose", [found.source], [source], found.transpose.name, **attributes))
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    if types[quantise.input[2]] == TensorProto.UINT8:
        (dequantise,) = (node for node in graph.node if node.input[:1] == quantise.output[:1])
        dequantise.input[0] = source
        graph.node.remove(quantise)
        return
    zero_point = f"{found.source}.zero_point"
    graph.initializer.append(numpy_helper.from_array(np.uint8(found.zero_point), zero_point))
    inputs = [source, quantise.input[1], zero_point]
    graph.node.append(helper.make_node("DequantizeLinear", inputs, [found.tensor], f"{found.source}.DequantizeLinear"))
