"""Static INT8 quantisation of an exported graph, as QuantizeLinear/DequantizeLinear pairs (ONNX Runtime's QDQ form)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ssdlite.errors import ExportError
from ssdlite.export.int8.calibration import Body, Calibration, find_body, folded_activations
from ssdlite.export.onnx import opset_of
from ssdlite.export.options import LOWEST_OPSET
from ssdlite.runtime.contract import ActivationType, QuantizationFacts

SIGMOID_RANGE = (0.0, 255 / 256)


def quantize(
    model: onnx.ModelProto,
    calibration: Calibration,
    *,
    activation_type: ActivationType = "uint8",
    float_layers: Collection[str] = (),
    only: Collection[str] | None = None,
) -> onnx.ModelProto:
    """The body of the float ``model`` in integers; what comes after the last convolutions stays float.

    Args:
        model: in float32, batch norms folded; not changed.
        calibration: of this very graph.
        float_layers: convolutions to keep in float, by node name.
        only: quantise these convolutions and nothing else, to see what they alone do.

    Raises:
        ExportError: an operator set without per-channel quantisation, a layer that is not there, or a calibration
            of another graph.
    """
    _check_opset(model)
    body = find_body(model)
    convolutions = set(body.convolutions)
    unknown = sorted((set(float_layers) | set(only or ())) - convolutions)
    if unknown:
        raise ExportError(f"quantisation: the model has no convolution {unknown[0]!r}")
    chosen = convolutions - set(float_layers) if only is None else set(only)
    source = _copy_with_shapes(model)
    ranges = _ranges(model, body, calibration)
    pixels = find_integer_input(model, body)
    if pixels is not None and pixels.convolution.name in chosen:
        shift_bias(source, pixels)
        ranges[pixels.tensor] = pixels.range
    nodes = _nodes_to_quantize(body, chosen, others=only is None)
    result = _insert_pairs(source, nodes, ranges, activation_type)
    if pixels is not None and pixels.convolution.name in chosen:
        read_pixels_as_integers(result, pixels)
    _keep_in_float(result, convolutions - chosen)
    _tidy(result, model)
    return result


def quantization_facts(
    model: onnx.ModelProto,
    calibration: Calibration,
    *,
    activation_type: ActivationType,
    calibration_data: str,
    float_layers: Sequence[str],
) -> QuantizationFacts:
    """What the contract says about the quantised ``model``; ``float_layers`` in the order to report them.

    Layers are counted in the model itself, not taken from what was asked for.
    """
    integer, total = count_convolutions(model)
    return QuantizationFacts(
        activation_type=activation_type,
        calibration_method=calibration.method,
        calibration_images=calibration.images,
        calibration_data=calibration_data,
        quantized_layers=integer,
        total_layers=total,
        float_layers=tuple(float_layers),
    )


def count_convolutions(model: onnx.ModelProto) -> tuple[int, int]:
    """(how many convolutions have integers on all sides, how many there are)."""
    nodes = model.graph.node
    dequantized = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    quantized = {node.input[0] for node in nodes if node.op_type == "QuantizeLinear"}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    integer = sum(dequantized.issuperset(node.input) and node.output[0] in quantized for node in convolutions)
    return integer, len(convolutions)


def _check_opset(model: onnx.ModelProto) -> None:
    opset = opset_of(model)
    if opset < LOWEST_OPSET:
        raise ExportError(f"quantisation per channel needs opset {LOWEST_OPSET} or newer, the model has {opset}")


def _copy_with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with every tensor's type and shape, marked so that the quantiser does not infer them again."""
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    copy = onnx.shape_inference.infer_shapes(model)
    add_infer_metadata(copy)
    return copy


def _ranges(model: onnx.ModelProto, body: Body, calibration: Calibration) -> dict[str, tuple[float, float]]:
    """The calibration's; of results whose activation becomes part of the convolution, the activation's; of sigmoids
    what they can give, in the steps of 1/256 that LiteRT's integer sigmoid has and takes no others."""
    missing = calibration.missing(model)
    if missing:
        raise ExportError(f"quantisation: the calibration is of another graph: it has no tensor {missing[0]!r}")
    ranges = dict(calibration.ranges)
    ranges |= {before: ranges[after] for before, after in folded_activations(model, body).items()}
    sigmoids = {node.output[0] for node in model.graph.node if node.op_type == "Sigmoid"}
    return ranges | dict.fromkeys(sigmoids & ranges.keys(), SIGMOID_RANGE)


def _nodes_to_quantize(body: Body, convolutions: Collection[str], *, others: bool) -> list[str]:
    """The chosen convolutions with the activations behind them; with ``others``, all else of the body that no float
    convolution leads to: a sum would round what that convolution was kept in float for.
    """
    results = {node.output[0] for node in body.nodes if node.name in convolutions}
    in_float: set[str] = set()
    chosen = []
    for node in body.nodes:
        if node.op_type == "Conv":
            quantized = node.name in convolutions
        elif others:
            quantized = in_float.isdisjoint(node.input)
        else:
            quantized = node.input[0] in results
        if quantized:
            chosen.append(node.name)
        else:
            in_float.update(node.output)
    return chosen


def _insert_pairs(
    model: onnx.ModelProto,
    nodes: list[str],
    ranges: Mapping[str, tuple[float, float]],
    activation_type: ActivationType,
) -> onnx.ModelProto:
    """ONNX Runtime's own quantiser."""
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorsData

    data = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    quantizer = QDQQuantizer(
        model=model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8 if activation_type == "uint8" else QuantType.QInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=nodes,
        nodes_to_exclude=[],
        op_types_to_quantize=sorted({node.op_type for node in model.graph.node}),
        extra_options={},
    )
    quantizer.quantize_model()
    result: onnx.ModelProto = quantizer.model.model
    return result


def _keep_in_float(model: onnx.ModelProto, layers: Collection[str]) -> None:
    """See to it that ONNX Runtime really computes ``layers`` in float.

    Recent ones (WeightBiasQuantization) quantise the weights of a convolution that stands between integers, and that
    with one scale for the whole layer; but not where the input is dequantised with a scale for every channel. So
    those get one: the same value for all.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    sources = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    for node in [node for node in graph.node if node.name in layers and node.input[0] in sources]:
        weight = constants[node.input[1]]
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        source = sources[node.input[0]]
        inputs, output = [source.input[0]], f"{node.name}.input"
        for kind, name in zip(("scale", "zero_point"), source.input[1:], strict=True):
            inputs.append(f"{output}_{kind}")
            value = numpy_helper.to_array(constants[name]).reshape(1).repeat(weight.dims[1] * groups)
            graph.initializer.append(numpy_helper.from_array(value, inputs[-1]))
        node.input[0] = output
        graph.node.append(helper.make_node("DequantizeLinear", inputs, [output], f"{output}_DequantizeLinear", axis=1))


def _tidy(model: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """Sort the nodes, leave nothing of the tools' own in the file, and equal constants once: a tenth of its size."""
    from onnxruntime.quantization.onnx_model import ONNXModel

    graph = model.graph
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for node in [node for node in graph.node if node.op_type == "DequantizeLinear" and node.output[0] not in read]:
        graph.node.remove(node)
    ONNXModel(model).topological_sort()
    del graph.value_info[:]
    del model.metadata_props[:]
    model.metadata_props.extend(original.metadata_props)
    model.producer_name, model.producer_version = original.producer_name, original.producer_version
    model.ir_version = original.ir_version
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    first: dict[tuple[Any, ...], str] = {}
    names: dict[str, str] = {}
    kept: list[TensorProto] = []
    for tensor in graph.initializer:
        if tensor.name not in used:
            continue
        value = numpy_helper.to_array(tensor)
        key = (tensor.data_type, value.shape, value.tobytes())
        names[tensor.name] = first.setdefault(key, tensor.name)
        if names[tensor.name] == tensor.name:
            kept.append(tensor)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)


# --- The pictures' own 8-bit values as the first convolution's quantised input, without any float in between.
#
# ``(pixel - mean) / std`` and quantisation are one and the same affine map, so the graph needs neither: the pixel is
# the quantised value, 1 / std its scale, and mean its zero point. Going through floats instead costs time on every
# pixel, and with a mean of 127.5 it rounds every second pixel value onto its neighbour.


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
    if len(values) != 1 or (values[0] == 0 and node.op_type in ("Div", "Mul")):
        return None
    value = float(values[0])
    if node.op_type in ("Sub", "Add"):
        return 1.0, value if node.op_type == "Add" else -value
    return value if node.op_type == "Mul" else 1 / value, 0.0


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
    (quantize,) = (node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == found.tensor)
    names = {node.name for node in found.nodes}
    for node in [node for node in graph.node if node.name in names]:
        graph.node.remove(node)
    source = found.source
    if found.transpose is not None:
        source = f"{found.source}.transposed"
        attributes = {item.name: helper.get_attribute_value(item) for item in found.transpose.attribute}
        graph.node.append(helper.make_node("Transpose", [found.source], [source], found.transpose.name, **attributes))
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    if types[quantize.input[2]] == TensorProto.UINT8:
        (dequantize,) = (node for node in graph.node if node.input[:1] == quantize.output[:1])
        dequantize.input[0] = source
        graph.node.remove(quantize)
        return
    zero_point = f"{found.source}.zero_point"
    graph.initializer.append(numpy_helper.from_array(np.uint8(found.zero_point), zero_point))
    inputs = [source, quantize.input[1], zero_point]
    graph.node.append(helper.make_node("DequantizeLinear", inputs, [found.tensor], f"{found.source}.DequantizeLinear"))
