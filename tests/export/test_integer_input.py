"""Pixels as the first convolution's integers, on graphs written by hand."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from ssdlite.export.int8.calibration import calibrate, find_body
from ssdlite.export.int8.quantize import count_convolutions, find_integer_input, quantize
from tests.export.runtimes import open_as_written

NORMALISE = "centred = Sub(values, mean) normal = Div(centred, std)"
LAYOUTS = {
    "NCHW": ("[1, 3, 8, 8]", "values = Cast<to = 1>(images)"),
    "NHWC": ("[1, 8, 8, 3]", "real = Cast<to = 1>(images) values = Transpose<perm = [0, 3, 1, 2]>(real)"),
}


def make_model(
    mean=(127.5,), std=(127.5,), *, layout: str = "NCHW", kind: str = "uint8", normalise: str = NORMALISE
) -> onnx.ModelProto:
    """Cast, normalise, and two convolutions of which the first pads."""
    shape, head = LAYOUTS[layout]
    model = parser.parse_model(
        f"""<ir_version: 7, opset_import: ["" : 13]>
        made ({kind}{shape} images) => (float[1, 2, 8, 8] found) {{
            {head}
            {normalise}
            hidden = Conv<pads = [1, 1, 1, 1]>(normal, weight, bias)
            limited = Clip(hidden, low, high)
            found = Conv(limited, weight2)
        }}"""
    )
    for i, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}{i}"
    rng = np.random.default_rng(1)
    for name, value in {
        "mean": np.array(mean).reshape(-1, 1, 1),
        "std": np.array(std).reshape(-1, 1, 1),
        "weight": rng.normal(size=(4, 3, 3, 3)) / 3,
        "bias": rng.normal(size=4) + 3,
        "low": np.array(0),
        "high": np.array(6),
        "weight2": rng.normal(size=(2, 4, 1, 1)),
    }.items():
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    onnx.checker.check_model(model, full_check=True)
    return model


def pictures(layout: str = "NCHW") -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    images = [rng.integers(20, 256, (1, 3, 8, 8), np.uint8) for _ in range(20)]
    return images if layout == "NCHW" else [image.transpose(0, 2, 3, 1).copy() for image in images]


def run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    return open_as_written(model.SerializeToString()).run(None, {"images": image})[0]


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if "Linear" not in node.op_type]


def pixel_scale(model: onnx.ModelProto) -> tuple[float, int]:
    """Scale and zero point of the DequantizeLinear that reads the pixels."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made = {node.output[0]: node for node in model.graph.node}
    (node,) = (
        node
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        and (node.input[0] == "images" or made.get(node.input[0], node).op_type == "Transpose")
    )
    return float(constants[node.input[1]]), int(constants[node.input[2]])


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("activation_type", ["uint8", "int8"])
@pytest.mark.parametrize(
    ("options", "scale", "zero_point"),
    [
        ({}, 1 / 127.5, 128),
        ({"mean": (127.5, 127.5, 127.5), "std": (127.5, 127.5, 127.5)}, 1 / 127.5, 128),
        ({"mean": (127,), "std": (128,)}, 1 / 128, 127),
        ({"mean": (0,), "std": (255,)}, 1 / 255, 0),  # nothing is subtracted, as in YOLOX
        (
            {"mean": (255,), "std": (1,), "normalise": "scaled = Div(values, mean) normal = Mul(scaled, std)"},
            1 / 255,
            0,
        ),
    ],
)
def test_pixels_are_the_integers(layout, activation_type, options, scale, zero_point) -> None:
    model = make_model(layout=layout, **options)
    calibration = calibrate(model, pictures(layout), method="minmax")
    quantized = quantize(model, calibration, activation_type=activation_type)
    onnx.checker.check_model(quantized, full_check=True)
    assert count_convolutions(quantized) == (2, 2)
    assert operators(quantized) == (["Transpose"] if layout == "NHWC" else []) + ["Conv", "Conv"]
    assert pixel_scale(quantized) == (pytest.approx(scale), zero_point)
    for image in pictures(layout)[:5]:
        wanted = run(model, image)
        assert np.abs(run(quantized, image) - wanted).max() < 0.03 * (wanted.max() - wanted.min())


@pytest.mark.parametrize(
    ("options", "largest_error"),
    [
        ({"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}, 0.03),  # not the same for all channels
        ({"kind": "float"}, 0.03),
        ({"normalise": "squared = Mul(values, values) normal = Div(squared, std)"}, 1.0),  # not affine
        ({"normalise": "scaled = Div(values, std) normal = Add(scaled, scaled)"}, 1.0),  # two readers
        ({"mean": (-9,)}, 1.0),  # no pixel stands for 0
        ({"mean": (300,)}, 1.0),
    ],
)
def test_other_normalisation_stays_as_it_is(options, largest_error) -> None:
    model = make_model(**options)
    assert find_integer_input(model, find_body(model)) is None
    images = [image.astype(np.float32) for image in pictures()] if options.get("kind") else pictures()
    quantized = quantize(model, calibrate(model, images, method="minmax"))
    onnx.checker.check_model(quantized, full_check=True)
    assert operators(quantized) == [node.op_type for node in model.graph.node if node.op_type != "Clip"]
    wanted = run(model, images[0])
    assert np.abs(run(quantized, images[0]) - wanted).max() < largest_error * (wanted.max() - wanted.min())


def test_first_convolution_in_float_keeps_its_normalisation() -> None:
    model = make_model()
    (first, second) = find_body(model).convolutions
    quantized = quantize(model, calibrate(model, pictures(), method="minmax"), float_layers=[first])
    assert operators(quantized) == ["Cast", "Sub", "Div", "Conv", "Clip", "Conv"]
    assert count_convolutions(quantized) == (1, 2)
    assert second == "Conv5"


def test_every_pixel_value_keeps_its_own_integer() -> None:
    """With a mean of 127.5, quantising the normalised float would round pixels 0 and 1 to one integer, 2 and 3 too."""
    model = make_model()
    quantized = quantize(model, calibrate(model, pictures(), method="minmax"))
    scale, zero_point = pixel_scale(quantized)
    pixels = np.arange(256)
    normalised = (pixels - 127.5) / 127.5
    seen = (pixels - zero_point) * scale
    assert np.abs(seen - normalised + 0.5 / 127.5).max() < 1e-6  # half a step, which the bias makes up for
    (bias,) = (
        numpy_helper.to_array(tensor)
        for tensor in quantized.graph.initializer
        if tensor.name.endswith("bias_quantized")
    )
    (bias_scale,) = (
        numpy_helper.to_array(tensor)
        for tensor in quantized.graph.initializer
        if tensor.name.endswith("bias_quantized_scale")
    )
    original = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    expected = original["bias"] + 0.5 / 127.5 * original["weight"].sum(axis=(1, 2, 3))
    assert bias * bias_scale == pytest.approx(expected, abs=1e-4)
