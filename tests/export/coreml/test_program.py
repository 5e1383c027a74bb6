"""What Core ML programs compute, evaluated operator by operator by ``mil_evaluator``: Core ML runs on Apple's systems
only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

import ssdlite
from ssdlite.errors import ExportError
from ssdlite.export.coreml.package import Suppression, build_package
from ssdlite.export.coreml.program import coremltools_tools
from ssdlite.export.graphs import build_graph, model_spec
from ssdlite.export.onnx import take_floats
from ssdlite.export.options import GraphOptions
from tests.export.coreml.mil_evaluator import Program
from tests.export.coreml.packages import NAMES, golden_pixels, needs_coreml, random_detector
from tests.export.detectors import PRESET_SIZE, ExportedPreset


@needs_coreml
def test_every_preset_computes_what_pytorch_does(
    preset: ExportedPreset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """On pixels, the float32 program with all that stands before suppression; and nothing is printed on the way."""
    detector, model = preset.detector, preset.decoded
    take_floats(model)
    options = GraphOptions(variant="decoded", layout="NHWC")
    spec = replace(model_spec(detector, options, "vision.mlpackage"), variant="nms")
    names = detector.config.class_names
    capfd.readouterr()
    package = build_package(model, spec, Suppression(iou_threshold=0.5, confidence_threshold=0.3, class_names=names))
    assert capfd.readouterr() == ("", "")

    path = tmp_path / "Data" / "com.apple.CoreML"
    (path / "weights").mkdir(parents=True)
    (path / "model.mlmodel").write_bytes(package.specification.SerializeToString())
    (path / "weights" / "weight.bin").write_bytes(package.weights)
    pixels = np.random.default_rng(1).integers(0, 256, (*PRESET_SIZE, 3), np.uint8)
    found = Program(tmp_path).run(pixels)
    with torch.no_grad():
        scores, boxes = build_graph(detector, GraphOptions())(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    best = scores[0].max(dim=1, keepdim=True).values
    low, high = boxes[0, :, :2], boxes[0, :, 2:]
    assert float(best.std()) > 0.02 and float((high - low).std()) > 0.01  # there is something to compare
    expected = torch.where(scores[0] >= best, scores[0], 0.0)
    np.testing.assert_allclose(found["raw_confidence"], expected, rtol=0, atol=1e-3)
    np.testing.assert_allclose(
        found["raw_coordinates"], torch.cat([(low + high) / 2, high - low], 1), rtol=0, atol=1e-3
    )


@needs_coreml
@pytest.mark.parametrize(
    ("precision", "least", "most"), [("fp32", 0, 1e-5), ("fp16", 1e-6, 0.01), ("int8", 1e-4, 0.05)]
)
def test_precisions_differ_from_pytorch_by_so_much(
    precision: str, least: float, most: float, bundle: Path, checkpoint: Path
) -> None:
    """Scores, and sides of boxes, which are decoded in float32 whatever the precision."""
    pixels = golden_pixels(bundle, 0)
    found = Program(bundle / f"nms_{precision}.mlpackage").run(pixels)
    with torch.no_grad():
        graph = build_graph(ssdlite.load_detector(checkpoint), GraphOptions())
        scores, boxes = (one[0].numpy() for one in graph(torch.from_numpy(pixels).permute(2, 0, 1)[None]))
    sizes = boxes[:, 2:] - boxes[:, :2]
    assert least <= np.abs(found["raw_confidence"].max(axis=1) - scores.max(axis=1)).max() <= most
    assert least <= np.abs(found["raw_coordinates"][:, 2:] - sizes).max() <= most


@needs_coreml
def test_int8_is_of_the_convolutions_weights_alone(bundle: Path) -> None:
    program = Program(bundle / "nms_int8.mlpackage")
    stored = [one for one in program.block.operations if one.type == "constexpr_affine_dequantize"]
    assert len(stored) > 20
    assert {len(one.outputs[0].type.tensorType.dimensions) for one in stored} == {4}  # no bias, no anchor
    sizes = [len(Program(bundle / f"nms_{name}.mlpackage").weights) for name in ("fp32", "fp16", "int8")]
    assert sizes[1] < 0.6 * sizes[0] and sizes[2] < 0.65 * sizes[1]


@needs_coreml
def test_an_operator_without_translation_is_named_with_its_module(tmp_path: Path) -> None:
    nodes = [helper.make_node("Einsum", ["images"], ["scores"], name="head.attention.Einsum", equation="abcd->abdc")]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 96])
    output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)
    model = helper.make_model(helper.make_graph(nodes, "g", [image], [output]))
    detector = random_detector("ssdlite320_mobilenet_v1", width_mult=0.1, image_size=64)
    spec = model_spec(detector, GraphOptions(), "a.mlpackage")
    suppression = Suppression(iou_threshold=0.5, confidence_threshold=0.3, class_names=NAMES)
    with pytest.raises(ExportError, match=r"^Core ML: no translation for the operator Einsum of head\.attention$"):
        build_package(model, spec, suppression)


@needs_coreml
def test_what_coremltools_cannot_do_is_one_line() -> None:
    message = r"^coremltools cannot convert it \(the first line\)$"
    with pytest.raises(ExportError, match=message), coremltools_tools():
        raise AssertionError("the first line\nand others")
