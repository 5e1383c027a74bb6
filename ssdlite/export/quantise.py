"""Static INT8 quantisation of an exported graph, as QuantizeLinear/DequantizeLinear pairs (ONNX Runtime's QDQ form).

Weights are signed, with a scale for every output channel: one scale for a whole layer destroys a MobileNet, whose
depthwise filters differ by orders of magnitude. Activations are unsigned or signed by what will run the model: x86
with VNNI multiplies unsigned by signed, and ONNX Runtime runs signed ones there in float; NNAPI takes unsigned ones,
XNNPACK signed ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ssdlite.contract import QuantisationFacts
from ssdlite.errors import ExportError
from ssdlite.export.body import Body, find_body, folded_activations
from ssdlite.export.calibration import Calibration
from ssdlite.export.integer_input import find_integer_input, read_pixels_as_integers, shift_bias

ActivationType = Literal["uint8", "int8"]

LOWEST_OPSET = 13  # QuantizeLinear per channel


def quantise(
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
    nodes = _nodes_to_quantise(body, chosen, others=only is None)
    result = _insert_pairs(source, nodes, ranges, activation_type)
    if pixels is not None and pixels.convolution.name in chosen:
        read_pixels_as_integers(result, pixels)
    _keep_in_float(result, convolutions - chosen)
    _tidy(result, model)
    return result


def quantisation_facts(
    model: onnx.ModelProto,
    calibration: Calibration,
    *,
    activation_type: ActivationType,
    calibration_data: str,
    float_layers: Sequence[str],
) -> QuantisationFacts:
    """What the contract says about the quantised ``model``; ``float_layers`` in the order to report them.

    Layers are counted in the model itself, not taken from what was asked for.
    """
    integer, total = count_convolutions(model)
    return QuantisationFacts(
        activation_type=activation_type,
        calibration_method=calibration.method,
        calibration_images=calibration.images,
        calibration_data=calibration_data,
        quantised_layers=integer,
        total_layers=total,
        float_layers=tuple(float_layers),
    )


def count_convolutions(model: onnx.ModelProto) -> tuple[int, int]:
    """(how many convolutions have integers on all sides, how many there are)."""
    nodes = model.graph.node
    dequantised = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    quantised = {node.input[0] for node in nodes if node.op_type == "QuantizeLinear"}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    integer = sum(dequantised.issuperset(node.input) and node.output[0] in quantised for node in convolutions)
    return integer, len(convolutions)


def _check_opset(model: onnx.ModelProto) -> None:
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < LOWEST_OPSET:
        raise ExportError(f"quantisation per channel needs opset {LOWEST_OPSET} or newer, the model has {opset}")


def _copy_with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with every tensor's type and shape, marked so that the quantiser does not infer them again."""
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    copy = onnx.shape_inference.infer_shapes(model)
    add_infer_metadata(copy)
    return copy


def _ranges(model: onnx.ModelProto, body: Body, calibration: Calibration) -> dict[str, tuple[float, float]]:
    """The calibration's, and those of results whose activation becomes part of the convolution: the activation's."""
    missing = calibration.missing(model)
    if missing:
        raise ExportError(f"quantisation: the calibration is of another graph: it has no tensor {missing[0]!r}")
    ranges = dict(calibration.ranges)
    return ranges | {before: ranges[after] for before, after in folded_activations(model, body).items()}


def _nodes_to_quantise(body: Body, convolutions: Collection[str], *, others: bool) -> list[str]:
    """The chosen convolutions with the activations behind them; with ``others``, all else of the body that no float
    convolution leads to: a sum would round what that convolution was kept in float for.
    """
    results = {node.output[0] for node in body.nodes if node.name in convolutions}
    in_float: set[str] = set()
    chosen = []
    for node in body.nodes:
        if node.op_type == "Conv":
            quantised = node.name in convolutions
        elif others:
            quantised = in_float.isdisjoint(node.input)
        else:
            quantised = node.input[0] in results
        if quantised:
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
    quantiser = QDQQuantizer(
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
    quantiser.quantize_model()
    result: onnx.ModelProto = quantiser.model.model
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
