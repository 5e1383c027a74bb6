"""Static INT8: what is quantised, how far the outputs move from the float model's, and what ONNX Runtime runs."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

import ssdlite
from ssdlite.errors import ExportError
from ssdlite.export.int8.calibration import METHODS, Calibration, calibrate
from ssdlite.export.int8.quantize import count_convolutions, quantization_facts, quantize
from ssdlite.export.int8.sensitivity import choose_float_layers, output_error, rank_layers
from ssdlite.export.onnx import export_onnx
from ssdlite.export.options import GraphOptions
from tests.export.runtimes import open_as_written

CONVOLUTIONS = 74
PLANTED = "backbone.features.2.conv.0.0.Conv"  # everything passes through it


def pictures(count: int) -> Iterator[np.ndarray]:
    """Input tensors of coarse coloured blocks."""
    rng = np.random.default_rng(5)
    for _ in range(count):
        yield rng.integers(0, 256, (1, 3, 12, 12), np.uint8).repeat(8, axis=2).repeat(8, axis=3)


@pytest.fixture(scope="module")
def detector() -> ssdlite.Detector:
    """A random detector whose activations are of the size of a trained one's, thanks to its batch norms."""
    torch.manual_seed(0)
    detector = ssdlite.build_detector(
        "ssdlite192_mobilenet_v2_050", num_classes=3, width_mult=0.25, image_size=96, norm_momentum=0.3
    )
    with torch.no_grad():
        for _ in range(10):
            detector.train()(torch.from_numpy(np.concatenate(list(pictures(4)))))
    return detector.eval()


@pytest.fixture(scope="module")
def raw(detector: ssdlite.Detector) -> onnx.ModelProto:
    return export_onnx(detector, GraphOptions(variant="raw"))


@pytest.fixture(scope="module")
def calibration(raw: onnx.ModelProto) -> Calibration:
    return calibrate(raw, pictures(6), method="minmax")


@pytest.fixture(scope="module")
def int8(raw: onnx.ModelProto, calibration: Calibration) -> onnx.ModelProto:
    return quantize(raw, calibration)


def run(model: onnx.ModelProto, count: int = 3) -> list[np.ndarray]:
    session = open_as_written(model.SerializeToString())
    runs = [session.run(None, {"images": tensor}) for tensor in pictures(count)]
    return [np.concatenate(values) for values in zip(*runs, strict=True)]


def executed(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """How often each operator stands in the graph that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def initialisers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def change(model: onnx.ModelProto, layer: str, position: int, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace the constant that the node ``layer`` has as its input ``position``."""
    (node,) = (node for node in model.graph.node if node.name == layer)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == node.input[position])
    tensor.CopyFrom(numpy_helper.from_array(edit(numpy_helper.to_array(tensor)).astype(np.float32), tensor.name))


def test_every_convolution_and_residual_is_computed_in_integers(
    raw: onnx.ModelProto, int8: onnx.ModelProto, tmp_path: Path
) -> None:
    onnx.checker.check_model(int8, full_check=True)
    assert count_convolutions(raw) == (0, CONVOLUTIONS)
    assert count_convolutions(int8) == (CONVOLUTIONS, CONVOLUTIONS)
    operators = executed(int8, tmp_path)
    assert operators["QLinearConv"] == CONVOLUTIONS
    assert operators["QLinearAdd"] == 11  # residuals of MobileNetV2
    assert operators["DequantizeLinear"] == 8  # one for the result of each head: no other way back to float
    assert not {"Conv", "Clip", "Add", "Cast", "Sub", "Div", "QuantizeLinear"} & set(operators)


@pytest.mark.parametrize("activation_type", ["uint8", "int8"])
def test_outputs_stay_close_to_the_float_model(
    raw: onnx.ModelProto, calibration: Calibration, activation_type: str
) -> None:
    model = quantize(raw, calibration, activation_type=activation_type)  # type: ignore[arg-type]
    onnx.checker.check_model(model, full_check=True)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    zero_points = {types[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert zero_points == {getattr(onnx.TensorProto, activation_type.upper())}
    for wanted, got in zip(run(raw), run(model), strict=True):
        error = np.sqrt(np.square(wanted - got).mean()) / wanted.std()
        assert 0 < error < 0.05


def test_weights_have_a_scale_for_each_channel(raw: onnx.ModelProto, int8: onnx.ModelProto) -> None:
    """Every int8 weight is within half a step of what it stands for, with steps of a 127th of the channel's largest."""
    floats, integers = initialisers(raw), initialisers(int8)
    sources = {node.output[0]: node for node in int8.graph.node if node.op_type == "DequantizeLinear"}
    originals = {node.name: floats[node.input[1]] for node in raw.graph.node if node.op_type == "Conv"}
    for convolution in [node for node in int8.graph.node if node.op_type == "Conv"]:
        source = sources[convolution.input[1]]
        original = originals[convolution.name]
        weight, scale, zero_point = (integers[name] for name in source.input)
        assert weight.dtype == np.int8
        assert scale.shape == zero_point.shape == (len(original),)
        assert not zero_point.any()
        largest = np.abs(original).reshape(len(original), -1).max(axis=1)
        assert scale == pytest.approx(2 * largest / 254, rel=1e-5)
        steps = scale.reshape(-1, 1, 1, 1)
        assert (np.abs(weight * steps - original) <= 0.501 * steps).all()


def test_file_is_small_and_has_nothing_of_the_tools(raw: onnx.ModelProto, int8: onnx.ModelProto) -> None:
    weights = sum(value.size for value in initialisers(raw).values() if value.ndim == 4)
    stored = [value for value in initialisers(int8).values() if value.ndim == 4]
    assert len(stored) == CONVOLUTIONS
    assert sum(value.nbytes for value in stored) == weights  # a byte each
    assert int8.ByteSize() < 0.5 * raw.ByteSize()  # a quarter, but for the names and scales of so small a network
    assert [entry.key for entry in int8.metadata_props] == [entry.key for entry in raw.metadata_props]
    assert not int8.graph.value_info
    assert int8.producer_name == raw.producer_name
    assert int8.opset_import == raw.opset_import


def test_decoding_stays_float(detector: ssdlite.Detector, int8: onnx.ModelProto, calibration: Calibration) -> None:
    """The decoded int8 model gives numpy's softmax of the raw int8 model's logits, to float accuracy."""
    decoded = export_onnx(detector, GraphOptions(variant="decoded"))
    assert calibration.missing(decoded) == []
    scores, boxes = run(quantize(decoded, calibration))
    logits, _ = run(int8)
    powers = np.exp(logits.astype(np.float64))
    assert np.abs(scores - (powers / powers.sum(axis=-1, keepdims=True))[..., 1:]).max() < 1e-6
    assert boxes.min() >= 0
    assert boxes.max() <= 1


def test_float_layers_are_really_computed_in_float(
    raw: onnx.ModelProto, calibration: Calibration, tmp_path: Path
) -> None:
    layers = ("backbone.features.0.0.Conv", "backbone.features.1.conv.1.Conv", "head.regression.0.1.Conv")
    model = quantize(raw, calibration, float_layers=layers)
    onnx.checker.check_model(model, full_check=True)
    assert count_convolutions(model) == (CONVOLUTIONS - 3, CONVOLUTIONS)
    operators = executed(model, tmp_path)
    assert (operators["QLinearConv"], operators["Conv"]) == (CONVOLUTIONS - 3, 3)
    facts = quantization_facts(
        model, calibration, activation_type="uint8", calibration_data="blocks", float_layers=layers
    )
    assert (facts.quantized_layers, facts.total_layers, facts.float_layers) == (71, 74, layers)
    assert (facts.calibration_method, facts.calibration_images) == ("minmax", 6)


def test_one_layer_alone(raw: onnx.ModelProto, calibration: Calibration) -> None:
    alone = quantize(raw, calibration, only=[PLANTED])
    assert count_convolutions(alone) == (1, CONVOLUTIONS)
    counts = Counter(node.op_type for node in alone.graph.node)
    assert (counts["QuantizeLinear"], counts["DequantizeLinear"]) == (2, 4)  # input and output; with weight and bias


def test_planted_outlier_is_found_and_kept_in_float(raw: onnx.ModelProto) -> None:
    """Weights of 500 for a channel that is always 0 change nothing in float, and leave an int8 layer no resolution."""
    model = onnx.ModelProto()
    model.CopyFrom(raw)
    for layer in ("backbone.features.0.0.Conv", "backbone.features.1.conv.1.Conv"):  # their sum is what it reads
        change(model, layer, 1, lambda weight: weight * (np.arange(len(weight)) > 0)[:, None, None, None])
        change(model, layer, 2, lambda bias: bias * (np.arange(len(bias)) > 0))
    change(model, PLANTED, 1, lambda weight: np.where(np.arange(weight.shape[1])[:, None, None] == 0, 500, weight))
    calibration = calibrate(model, pictures(4), method="minmax")
    ranking = rank_layers(model, calibration, pictures(2))
    assert len(ranking) == CONVOLUTIONS
    assert ranking[0].layer == PLANTED
    assert ranking[0].error > 4 * ranking[1].error
    expected = run(model)
    gated = choose_float_layers(
        lambda layers: quantize(model, calibration, float_layers=layers),
        lambda candidate: output_error(expected, run(candidate)),
        lambda: [item.layer for item in ranking],
        max_drop=0.03,
    )
    assert gated.float_layers == (PLANTED,)
    assert 0 < gated.drop <= 0.03


@pytest.mark.parametrize(
    ("needed", "tried"),
    [(0, [0]), (1, [0, 1]), (2, [0, 1, 2]), (3, [0, 1, 2, 4, 3]), (5, [0, 1, 2, 4, 8, 6, 5]), (9, [0, 1, 2, 4, 8, 9])],
)
def test_fewest_float_layers_by_doubling_and_halving(needed: int, tried: list[int]) -> None:
    names = [f"layer{i}" for i in range(10)]
    counts: list[int] = []

    def build(layers: tuple[str, ...]) -> onnx.ModelProto:
        assert layers == tuple(names[: len(layers)])
        counts.append(len(layers))
        return onnx.ModelProto(model_version=len(layers))

    def rank() -> list[str]:
        assert needed > 0, "a model that passes at once needs no ranking"
        return names

    gated = choose_float_layers(
        build, lambda model: 0.001 if model.model_version >= needed else 0.03, rank, max_drop=0.01
    )
    assert gated.float_layers == tuple(names[:needed])
    assert gated.model.model_version == needed
    assert gated.drop == 0.001
    assert counts == tried


@pytest.mark.parametrize("drop", [0.25, float("nan")])
def test_gate_that_never_holds(drop: float) -> None:
    with pytest.raises(
        ExportError, match=r"AP falls by (0\.2500|nan) at best, with . of 6 convolutions.* 0\.01 allowed"
    ):
        choose_float_layers(
            lambda layers: onnx.ModelProto(),
            lambda model: drop,
            lambda: [f"layer{i}" for i in range(6)],
            max_drop=0.01,
        )


@pytest.mark.parametrize("method", METHODS)
def test_calibration_methods(raw: onnx.ModelProto, calibration: Calibration, method: str) -> None:
    """All see the same extremes; percentile and entropy may cut, and never widen."""
    found = calibrate(raw, pictures(6), method=method)  # type: ignore[arg-type]
    assert (found.method, found.images) == (method, 6)
    assert found.ranges.keys() == calibration.ranges.keys()
    for name, (low, high) in found.ranges.items():
        lowest, highest = calibration.ranges[name]
        assert lowest <= low <= high <= highest
    assert output_error(run(raw), run(quantize(raw, found))) < 0.05


def test_range_of_the_input_is_minmax_of_the_pictures(raw: onnx.ModelProto, calibration: Calibration) -> None:
    pixels = np.concatenate(list(pictures(6))).astype(np.float32)
    (first,) = (node.input[0] for node in raw.graph.node if node.name == "backbone.features.0.0.Conv")
    assert calibration.ranges[first] == pytest.approx(((pixels.min() - 127.5) / 127.5, (pixels.max() - 127.5) / 127.5))


def test_bad_calibration_input(raw: onnx.ModelProto) -> None:
    with pytest.raises(ExportError, match="no images came; at least 1 is needed"):
        calibrate(raw, [])
    with pytest.raises(ExportError, match=r"image 1: expected uint8 \[1, 3, 96, 96\], got uint8 \[1, 3, 64, 96\]"):
        calibrate(raw, [np.zeros((1, 3, 64, 96), np.uint8)])
    with pytest.raises(ExportError, match=r"image 2: expected uint8 .* got float32"):
        calibrate(raw, [*pictures(1), np.zeros((1, 3, 96, 96), np.float32)])
    with pytest.raises(ExportError, match="expected one of minmax, percentile, entropy, got 'kl'"):
        calibrate(raw, pictures(1), method="kl")  # type: ignore[arg-type]


def test_values_that_are_not_finite(raw: onnx.ModelProto) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(raw)
    change(broken, "backbone.features.2.conv.2.Conv", 2, lambda bias: np.full_like(bias, np.inf))
    (node,) = (node for node in raw.graph.node if node.name == "backbone.features.2.conv.2.Conv")
    with pytest.raises(ExportError, match=f"tensor '{node.output[0]}' goes from inf to inf"):
        calibrate(broken, pictures(1), method="minmax")


def test_what_cannot_be_quantised(raw: onnx.ModelProto, calibration: Calibration) -> None:
    with pytest.raises(ExportError, match=r"the model has no convolution 'backbone\.nothing'"):
        quantize(raw, calibration, float_layers=["backbone.nothing"])
    with pytest.raises(ExportError, match="calibration is of another graph: it has no tensor"):
        quantize(raw, Calibration({}, "minmax", 1))
    old = onnx.ModelProto()
    old.CopyFrom(raw)
    old.opset_import[0].version = 12
    with pytest.raises(ExportError, match="needs opset 13 or newer, the model has 12"):
        quantize(old, calibration)
    with pytest.raises(ExportError, match="there are no images to measure it on"):
        rank_layers(raw, calibration, [])
    count = onnx.ModelProto()
    count.CopyFrom(raw)
    count.graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.INT32
    with pytest.raises(ExportError, match=r"expected a raw or decoded model.*got class_logits, box_deltas"):
        rank_layers(count, calibration, pictures(1))
