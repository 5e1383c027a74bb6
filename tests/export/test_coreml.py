"""Core ML packages: what they say field by field, what their programs compute, and what becomes of damaged ones.

Core ML runs on Apple's systems only. Here a saved program is evaluated by ``mil_evaluator``, and suppression as Apple's
NonMaximumSuppression.proto describes it, step by step.
"""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

import ssdlite
from ssdlite import Detector
from ssdlite.benchmark.detectors import find_candidates
from ssdlite.checkpoint import Checkpoint, save_checkpoint
from ssdlite.config import PRESETS
from ssdlite.errors import CheckpointError, ConfigError, ContractError, ExportError
from ssdlite.export import ExportOptions, export_bundle
from ssdlite.export.coreml.package import Suppression, build_package
from ssdlite.export.coreml.program import coremltools_tools
from ssdlite.export.graphs import build_graph, model_spec
from ssdlite.export.onnx import export_onnx, take_floats
from ssdlite.export.options import GraphOptions
from ssdlite.export.targets.coreml import pick_top
from ssdlite.export.verify.bundle import verify_bundle
from ssdlite.export.verify.report import VerifyReport, format_report
from ssdlite.runtime import load_model
from ssdlite.runtime.backends import coreml
from ssdlite.runtime.contract import Contract, ModelSpec
from ssdlite.runtime.mlpackage import read_package
from ssdlite.tools import lint_model
from tests.export.mil_evaluator import Program

Array = npt.NDArray[Any]
NAMES = ("cat", "dog", "cow")
METRICS = {
    "operating_points": {
        name: {"score_threshold": threshold, "precision": 0.5, "recall": 0.5, "f1": 0.5}
        for name, threshold in zip(NAMES, (0.2, 0.6, 0.7), strict=True)
    }
}
MANIFEST = "Manifest.json"
MODEL, WEIGHTS = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"
ELSEWHERE = "Core ML runs on Apple's systems only"
needs_coreml = pytest.mark.skipif(find_spec("coremltools") is None, reason="writing needs coremltools")


def random_detector(preset: str, class_names: tuple[str, ...] = NAMES, **changes: Any) -> Detector:
    """With weights that let activations keep their size, so that every layer counts, and scores of all sizes."""
    torch.manual_seed(0)
    detector = ssdlite.build_detector(preset, class_names=class_names, **changes).eval()
    for name, module in detector.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
            if name.startswith("head.classification"):
                module.weight.data *= 3
                if module.bias is not None:
                    torch.nn.init.zeros_(module.bias)
    return detector


def documented_suppression(confidence: Array, coordinates: Array, iou: float, least: float) -> tuple[Array, Array]:
    """pickTop, perClass: the five steps of NonMaximumSuppression.proto. confidence [A, K], coordinates [A, 4]."""
    label = confidence.argmax(axis=1)
    left = [row for row in np.argsort(-confidence.max(axis=1), kind="stable") if confidence[row].max() >= least]
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [row for row in left if label[row] != label[best] or overlap(coordinates[row], coordinates[best]) <= iou]
    return confidence[kept], coordinates[kept]


def overlap(one: Array, other: Array) -> float:
    """IoU of centre x, centre y, width, height."""
    low = np.maximum(one[:2] - one[2:] / 2, other[:2] - other[2:] / 2)
    high = np.minimum(one[:2] + one[2:] / 2, other[:2] + other[2:] / 2)
    shared = float(np.prod(np.maximum(high - low, 0)))
    return shared / max(float(np.prod(one[2:]) + np.prod(other[2:])) - shared, 1e-30)


class FakeCoreMl:
    """``coremltools.models.MLModel`` of a Mac, as far as it is used: ``predict`` with a picture and thresholds."""

    def __init__(self, path: Path) -> None:
        self.program = Program(path)

    def predict(self, values: dict[str, Any]) -> dict[str, Array]:
        stages = self.program.specification.pipeline.models
        outputs = self.program.run(np.array(values["image"].convert("RGB")))
        if not stages:
            return outputs
        nms = stages[1].nonMaximumSuppression
        least = values.get(nms.confidenceThresholdInputFeatureName, nms.confidenceThreshold)
        raw = outputs[nms.confidenceInputFeatureName], outputs[nms.coordinatesInputFeatureName]
        return dict(
            zip(("confidence", "coordinates"), documented_suppression(*raw, nms.iouThreshold, least), strict=True)
        )


# --- What programs compute.


@needs_coreml
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_computes_what_pytorch_does(
    preset: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """On pixels, the float32 program with all that stands before suppression; and nothing is printed on the way."""
    detector = random_detector(preset, width_mult=0.25, image_size=(64, 96))
    model = export_onnx(detector, GraphOptions(variant="decoded"))
    take_floats(model)
    options = GraphOptions(variant="decoded", layout="NHWC")
    spec = replace(model_spec(detector, options, "vision.mlpackage"), variant="nms")
    capfd.readouterr()
    package = build_package(model, spec, Suppression(iou_threshold=0.5, confidence_threshold=0.3, class_names=NAMES))
    assert capfd.readouterr() == ("", "")

    path = tmp_path / "Data" / "com.apple.CoreML"
    (path / "weights").mkdir(parents=True)
    (path / "model.mlmodel").write_bytes(package.specification.SerializeToString())
    (path / "weights" / "weight.bin").write_bytes(package.weights)
    pixels = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
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


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sigmoid scores, an input that is not square, operating points of 0.2, 0.6 and 0.7."""
    detector = random_detector(
        "ssdlite320_mobilenet_v1", width_mult=0.25, image_size=(64, 96), score_function="sigmoid", nms_threshold=0.45
    )
    path = tmp_path_factory.mktemp("run") / "best.pt"
    save_checkpoint(Checkpoint(detector.config, detector.state_dict(), metrics=METRICS), path)
    return path


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The detector for Vision in all three precisions; not to be changed."""
    path = tmp_path_factory.mktemp("coreml") / "bundle"
    options = ExportOptions(
        checkpoint=checkpoint,
        output=path,
        target=("coreml",),
        precision=("fp32", "fp16", "int8"),
        golden_images=2,
        license="MIT",
    )
    export_bundle(options)
    return path


@pytest.fixture(scope="module")
def second(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both variants, in the precision that is the default; not to be changed."""
    path = tmp_path_factory.mktemp("coreml") / "second"
    options = ExportOptions(
        checkpoint=checkpoint,
        output=path,
        target=("coreml",),
        variant=("nms", "decoded"),
        golden_images=2,
        license="MIT",
    )
    export_bundle(options)
    return path


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """Of the bundle with one package, to be changed."""
    path = tmp_path / "copy"
    shutil.copytree(bundle, path)
    return path


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
def test_what_coremltools_cannot_do_is_one_line() -> None:
    message = r"^coremltools cannot convert it \(the first line\)$"
    with pytest.raises(ExportError, match=message), coremltools_tools():
        raise AssertionError("the first line\nand others")


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


# --- What packages say, field by field.


@needs_coreml
def test_the_specification_is_that_of_a_detector_for_vision(bundle: Path) -> None:
    program = Program(bundle / "nms_fp16.mlpackage")
    model = program.specification
    assert model.specificationVersion == 6  # iOS 15, macOS 12
    assert model.WhichOneof("Type") == "pipeline"
    first, second = model.pipeline.models
    assert (first.WhichOneof("Type"), second.WhichOneof("Type")) == ("mlProgram", "nonMaximumSuppression")
    assert (first.specificationVersion, second.specificationVersion) == (6, 6)

    image, iou, confidence = model.description.input
    assert (image.name, image.type.WhichOneof("Type"), image.type.isOptional) == ("image", "imageType", False)
    assert (image.type.imageType.height, image.type.imageType.width) == (64, 96)
    assert image.type.imageType.colorSpace == image.type.imageType.RGB == 20
    for feature, name in ((iou, "iouThreshold"), (confidence, "confidenceThreshold")):
        assert (feature.name, feature.type.WhichOneof("Type"), feature.type.isOptional) == (name, "doubleType", True)
    assert [one.name for one in model.description.output] == ["confidence", "coordinates"]
    for feature, columns in zip(model.description.output, (3, 4), strict=True):
        array = feature.type.multiArrayType
        assert (array.dataType, list(array.shape)) == (array.FLOAT32, [])
        ranges = [(one.lowerBound, one.upperBound) for one in array.shapeRange.sizeRanges]
        assert ranges == [(0, -1), (columns, columns)]  # any number of rows

    nms = second.nonMaximumSuppression
    assert nms.pickTop.perClass
    assert (nms.iouThreshold, nms.confidenceThreshold) == (0.45, 0.6)  # 0.6: the operating threshold
    assert list(nms.stringClassLabels.vector) == ["cat", "dog", "cow"]
    assert (nms.iouThresholdInputFeatureName, nms.confidenceThresholdInputFeatureName) == (iou.name, confidence.name)
    assert (nms.confidenceInputFeatureName, nms.coordinatesInputFeatureName) == ("raw_confidence", "raw_coordinates")
    assert (nms.confidenceOutputFeatureName, nms.coordinatesOutputFeatureName) == ("confidence", "coordinates")
    computed = {one.outputs[0].name: one.outputs[0].type.tensorType.dataType for one in program.block.operations}
    assert computed["raw_coordinates"] == 11 and computed["decode_Exp"] == 11  # float32
    names = ["raw_confidence", "raw_coordinates", "iouThreshold", "confidenceThreshold"]
    assert [one.name for one in second.description.input] == names
    produced = {one.name: one.type for one in first.description.output}
    for feature, columns in zip(second.description.input[:2], (3, 4), strict=True):
        assert feature.type == produced[feature.name]
        assert list(feature.type.multiArrayType.shape) == [138, columns]
    assert first.description.input[0].type == image.type


@needs_coreml
def test_a_package_says_what_it_is_and_holds_its_contract(bundle: Path, second: Path) -> None:
    for package, version in ((bundle / "nms_fp32", 6), (second / "decoded_fp16", 6), (bundle / "nms_int8", 7)):
        model = Program(package.with_suffix(".mlpackage")).specification
        assert model.specificationVersion == version  # 7: iOS 16, macOS 13
        metadata = model.description.metadata
        assert (metadata.author, metadata.license) == ("ssdlite", "MIT")
        assert metadata.shortDescription == "ssdlite96x64_mobilenet_v1_025: finds cat, dog, cow"
        held = dict(metadata.userDefined)
        contract = json.loads(held.pop("ssdlite.contract"))
        assert [one["file"] for one in contract["models"]] == [f"{package.name}.mlpackage"]
        assert metadata.versionString == contract["provenance"]["checkpoint_sha256"][:12]
        texts = {"classes": "cat, dog, cow", "precision": package.name[-4:], "score_threshold": "0.001"}
        assert held == texts | {"checkpoint": "best.pt"}
        assert "scaleFill" in model.description.input[0].shortDescription
        assert all(one.shortDescription for one in (*model.description.input, *model.description.output))


@needs_coreml
def test_decoded_is_a_program_alone(second: Path) -> None:
    model = Program(second / "decoded_fp16.mlpackage").specification
    assert model.WhichOneof("Type") == "mlProgram"
    assert [one.name for one in model.description.input] == ["image"]
    outputs = {one.name: list(one.type.multiArrayType.shape) for one in model.description.output}
    assert outputs == {"scores": [1, 138, 3], "boxes": [1, 138, 4]}


@needs_coreml
def test_the_contract_says_how_to_feed_it(bundle: Path) -> None:
    spec = load_spec(bundle, "nms_fp16.mlpackage")
    assert (spec.runtime, spec.variant, spec.precision) == ("coreml", "nms", "fp16")
    assert (spec.input.name, spec.input.type, spec.input.layout) == ("image", "uint8", "NHWC")
    assert (spec.input.shape, spec.accuracy, spec.latency) == ((1, 64, 96, 3), None, None)


@needs_coreml
def test_a_score_threshold_above_the_operating_threshold_takes_its_place(checkpoint: Path, tmp_path: Path) -> None:
    contract = export_with(checkpoint, tmp_path / "bundle", score_threshold=0.65, golden_images=1)
    shown = contract.postprocess
    assert (shown.operating_threshold, shown.operating_threshold_source) == (0.65, "score_threshold")
    with coremltools_tools() as tools:
        package = tools.models.MLModel(str(tmp_path / "bundle" / "nms_fp16.mlpackage"), skip_model_load=True)
        assert package.get_spec().pipeline.models[1].nonMaximumSuppression.confidenceThreshold == 0.65
    card = (tmp_path / "bundle" / "README.md").read_text("utf-8")
    assert "for each object from 0.65 on" in card and "Show only detections with a score of at least 0.65" in card
    assert "It is the score threshold that these files were exported with" in card and "was measured:" not in card


def test_the_same_export_gives_the_same_bytes(bundle: Path, second: Path) -> None:
    package = second / "nms_fp16.mlpackage"
    files = sorted(str(path.relative_to(package)) for path in package.rglob("*") if path.is_file())
    assert files == [MODEL, WEIGHTS, MANIFEST]
    assert b"conversion_date" not in (package / MODEL).read_bytes()
    assert all((package / file).read_bytes() == (bundle / package.name / file).read_bytes() for file in files)


@needs_coreml
def test_coremltools_reads_the_package_and_leaves_it_as_it_is(copy: Path) -> None:
    with coremltools_tools() as tools:
        model = tools.models.MLModel(str(copy / "nms_fp16.mlpackage"), skip_model_load=True)
        assert [one.name for one in model.get_spec().description.input] == [
            "image",
            "iouThreshold",
            "confidenceThreshold",
        ]
    (package,) = (one for one in verify_bundle(copy).models if one.file == "nms_fp16.mlpackage")
    assert package.notes == (), "coremltools writes the manifest anew when it opens a package"


# --- Suppression.


def test_what_vision_gives_is_what_we_find_with_one_class_an_anchor(small_data: Path) -> None:
    """On photographs at the default threshold: the names, boxes and scores of the same detector's ``predict``.

    What differs: an anchor has its best class alone there, and ours has every class of it that scores enough: on these
    pictures two boxes more, each in the place of a better one of another class.
    """
    detector = ssdlite.load_detector("openimages")
    graph = build_graph(detector, GraphOptions())
    spec = SimpleNamespace(score_threshold=0.3, nms_threshold=detector.config.postprocess.nms_threshold)
    total = further = 0
    for path in sorted((small_data / "coco-cc" / "val2017").glob("*.jpg"))[:4]:
        picture = np.array(Image.open(path).convert("RGB").resize((300, 300)))
        with torch.no_grad():
            scores, boxes = (one[0].numpy() for one in graph(torch.from_numpy(picture).permute(2, 0, 1)[None]))
        centers = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
        confidence, coordinates = documented_suppression(scores, centers, spec.nms_threshold, spec.score_threshold)
        (all_ours,) = detector.predict(picture, score_threshold=0.3)
        first = [
            all(np.abs(box - better).max() > 0.01 for better in all_ours.boxes[:i])
            for i, box in enumerate(all_ours.boxes)
        ]
        ours = all_ours[np.array(first, bool)]
        further += len(all_ours) - len(ours)
        assert confidence.argmax(axis=1).tolist() == ours.labels.tolist()
        np.testing.assert_allclose(confidence.max(axis=1, initial=0), ours.scores, atol=1e-5)
        half = coordinates[:, 2:] / 2
        corners = np.concatenate([coordinates[:, :2] - half, coordinates[:, :2] + half], axis=1)
        np.testing.assert_allclose(300 * corners, ours.boxes, atol=0.01)
        total += len(ours)
        stand_in = pick_top(scores, boxes, spec)  # type: ignore[arg-type]
        np.testing.assert_allclose(stand_in["coordinates"], coordinates, atol=1e-6)
    assert (total, further) == (20, 2)


def test_an_anchor_has_its_best_class_alone() -> None:
    scores = np.array([[0.9, 0.8], [0.7, 0.1], [0.05, 0.6], [0.29, 0.1]], np.float32)
    boxes = np.array([[0, 0, 0.4, 0.4], [0, 0, 0.4, 0.38], [0, 0, 0.4, 0.36], [0.6, 0.6, 1, 1]], np.float32)
    spec: Any = SimpleNamespace(score_threshold=0.3, nms_threshold=0.5)
    found = pick_top(scores, boxes, spec)
    # The second overlaps the first, of its class; the third does too, but is of the other class, in which the first,
    # with 0.8, has no part; the fourth scores too little.
    np.testing.assert_allclose(found["confidence"], [[0.9, 0], [0, 0.6]], atol=1e-6)
    np.testing.assert_allclose(found["coordinates"], [[0.2, 0.2, 0.4, 0.4], [0.2, 0.18, 0.4, 0.36]], atol=1e-6)


@needs_coreml
def test_the_saved_pipeline_finds_what_the_reference_vectors_say(bundle: Path) -> None:
    """The float32 program evaluated, then the documented suppression, both independent of what wrote the vectors."""
    for number in range(2):
        found = FakeCoreMl(bundle / "nms_fp32.mlpackage").predict(
            {"image": Image.fromarray(golden_pixels(bundle, number)), "confidenceThreshold": 0.001}
        )
        stem = bundle / "golden" / f"image_{number}.nms_fp32.mlpackage"
        count = int(np.fromfile(f"{stem}.count.bin", np.int32)[0])
        assert count == min(len(found["confidence"]), 300) and count > 20
        scores = np.fromfile(f"{stem}.scores.bin", np.float32)[:count]
        np.testing.assert_allclose(found["confidence"].max(axis=1)[:count], scores, atol=1e-4)
        assert (
            np.fromfile(f"{stem}.labels.bin", np.int32)[:count] == found["confidence"].argmax(axis=1)[:count]
        ).mean() > 0.97
        assert np.count_nonzero(found["confidence"], axis=1).max() == 1


# --- Beyond the export: verify, predict and others, here and, with a stand-in for Core ML, as on a Mac.


@pytest.fixture
def on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreml.CoreMlBackend, "unsupported", "")
    monkeypatch.setattr(coreml, "_load", FakeCoreMl)


def steps(report: VerifyReport, file: str) -> dict[str, str]:
    (model,) = [one for one in report.models if one.file == file]
    return {step.step: step.status for step in model.steps}


@needs_coreml
def test_verify_checks_here_what_needs_no_core_ml(bundle: Path) -> None:
    report = verify_bundle(bundle)
    assert report.passed and report.missing == ("coreml",) and "coreml" not in report.runtimes
    for model in report.models:
        assert {one.step for one in model.steps if one.status == "skipped"} == {"outputs"}
        assert next(one.text for one in model.steps if one.step == "outputs") == ELSEWHERE
    lines = "\n".join(format_report(report))
    assert f"{ELSEWHERE}: its models were not run" in lines


@needs_coreml
def test_verify_finds_a_changed_package(copy: Path) -> None:
    file = copy / "nms_fp16.mlpackage" / "Data" / "com.apple.CoreML" / "model.mlmodel"
    content = file.read_bytes()
    file.write_bytes(content.replace(b'"nms_threshold":0.45', b'"nms_threshold":0.55'))
    report = verify_bundle(copy, model="nms_fp16.mlpackage")
    (model,) = report.models
    assert model.steps[0].status == "fail" and "nms_threshold" in model.steps[0].text
    assert model.notes == ("nms_fp16.mlpackage: not the file that the reference vectors were made with (SHA-256)",)


@needs_coreml
def test_verify_on_a_mac_passes_and_finds_faults(
    bundle: Path, second: Path, on_a_mac: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = ((bundle, "nms_fp32.mlpackage"), (second, "decoded_fp16.mlpackage"))
    for folder, file in packages:
        report = verify_bundle(folder, model=file)
        assert report.passed and set(steps(report, file).values()) == {"pass"}, "\n".join(format_report(report))
    monkeypatch.setattr(FakeCoreMl, "predict", swap_sides(FakeCoreMl.predict))
    for folder, file in packages:
        found = steps(verify_bundle(folder, model=file), file)
        assert {step for step, status in found.items() if status == "fail"} == {"outputs"}


def swap_sides(predict: Any) -> Any:
    def wrong(self: FakeCoreMl, values: dict[str, Any]) -> dict[str, Array]:
        return {
            n: v[..., [1, 0, 3, 2]] if n in ("coordinates", "boxes") else v for n, v in predict(self, values).items()
        }

    return wrong


@needs_coreml
def test_predict_on_a_mac_finds_what_the_detector_finds(
    bundle: Path, second: Path, checkpoint: Path, on_a_mac: None
) -> None:
    picture = golden_pixels(bundle, 0)
    (ours,) = ssdlite.load_detector(checkpoint).predict(picture, score_threshold=0.3)
    for path, tolerance in ((second / "decoded_fp16.mlpackage", 0.02), (bundle / "nms_fp32.mlpackage", 1e-4)):
        model = load_model(path)  # by its own contract
        (found,) = pickle.loads(pickle.dumps(model)).predict(picture, score_threshold=0.3)
        assert found.scores[0] == pytest.approx(ours.scores[0], abs=tolerance)
        assert found.labels[0] == ours.labels[0]
        np.testing.assert_allclose(found.boxes[0], ours.boxes[0], atol=100 * tolerance)
        assert len(found) > 10 and (found.scores[:-1] >= found.scores[1:]).all()


@needs_coreml
def test_what_runs_models_says_why_it_cannot(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ContractError, match=rf"nms_fp16\.mlpackage: {ELSEWHERE}$"):
        load_model(bundle / "nms_fp16.mlpackage")
    with pytest.raises(ContractError, match=rf"nms_fp32\.mlpackage: {ELSEWHERE}$"):
        load_model(bundle)
    with pytest.raises(ContractError, match=ELSEWHERE):
        find_candidates([bundle])
    with pytest.raises(CheckpointError, match="expected a checkpoint file, this is an exported model"):
        ssdlite.load_detector(bundle / "nms_fp16.mlpackage")
    monkeypatch.setattr(coreml.CoreMlBackend, "unsupported", "")
    monkeypatch.setitem(sys.modules, "coremltools", None)
    model = load_model(bundle / "nms_fp16.mlpackage")
    with pytest.raises(ContractError, match=r'running it needs coremltools: pip install "ssdlite\[coreml\]"'):
        model.predict(golden_pixels(bundle, 0))


# --- Bad input.


def cut(file: Path, share: float = 0.6) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


def replace_bytes(file: Path, old: bytes, new: bytes) -> None:
    content = file.read_bytes()
    assert content.count(old)
    file.write_bytes(content.replace(old, new, 1))


def link_out(file: Path) -> None:
    outside = file.parents[4] / "outside.bin"
    file.replace(outside)
    file.symlink_to(outside)


DAMAGES: dict[str, tuple[str, Any, str]] = {
    "no manifest": (MANIFEST, Path.unlink, r"Manifest\.json: no such file"),
    "half a manifest": (MANIFEST, cut, r"Manifest\.json: expected the manifest of a Core ML package"),
    "a manifest that leaves the folder": (
        MANIFEST,
        lambda file: replace_bytes(file, b"com.apple.CoreML/model.mlmodel", b"../../../etc/passwd"),
        r"Manifest\.json: expected the parts .*, got '\.\./\.\./",
    ),
    "no specification": (MODEL, Path.unlink, r"model\.mlmodel: no such file"),
    "half a specification": (MODEL, cut, r"model\.mlmodel: not the specification of a Core ML model, or damaged"),
    "an empty specification": (
        MODEL,
        lambda file: file.write_bytes(b""),
        r"model\.mlmodel: expected 1 to \d+ bytes, got 0",
    ),
    "weights elsewhere": (
        MODEL,
        lambda file: replace_bytes(file, b"@model_path/weights/weight.bin", b"@model_path/../../../../passwd"),
        r"it refers to the file '@model_path/\.\./",
    ),
    "no weights": (WEIGHTS, Path.unlink, r"weight\.bin: no such file"),
    "half the weights": (WEIGHTS, cut, r"weight\.bin: expected \d+ blobs, it ends within number \d+"),
    "few bytes of weights": (
        WEIGHTS,
        lambda file: file.write_bytes(b"\1"),
        r"weight\.bin: expected the weights of an ML",
    ),
    "fewer blobs": (
        WEIGHTS,
        lambda file: replace_bytes(file, file.read_bytes()[:1], b"\1"),
        "which has values at other",
    ),
    "a damaged blob": (
        WEIGHTS,
        lambda file: replace_bytes(file, b"\xef\xbe\xad\xde", b"\0\0\0\0"),
        r"damaged at byte 64",
    ),
    "linked weights": (WEIGHTS, link_out, r"weight\.bin: a link that leads elsewhere is not followed"),
}


@needs_coreml
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_packages_are_one_clear_error(damage: str, bundle: Path, tmp_path: Path) -> None:
    package = tmp_path / "bundle" / "nms_fp16.mlpackage"
    shutil.copytree(bundle / package.name, package)
    name, spoil, message = DAMAGES[damage]
    spoil(package / name)
    with pytest.raises(ContractError, match=message):
        load_model(package)


@needs_coreml
def test_verify_fails_on_a_damaged_package_and_on_a_file_in_its_place(copy: Path) -> None:
    cut(copy / "nms_fp16.mlpackage" / WEIGHTS)
    report = verify_bundle(copy, model="nms_fp16.mlpackage")
    assert not report.passed and steps(report, "nms_fp16.mlpackage")["outputs"] == "fail"
    shutil.rmtree(copy / "nms_fp32.mlpackage")
    (copy / "nms_fp32.mlpackage").write_bytes(b"a file")
    report = verify_bundle(copy, model="nms_fp32.mlpackage")
    assert steps(report, "nms_fp32.mlpackage")["contract"] == "fail"
    with pytest.raises(ContractError, match="expected a Core ML package, which is a folder, found a file"):
        read_package(copy / "nms_fp32.mlpackage")


@needs_coreml
def test_no_truncation_of_a_specification_is_anything_but_an_error(bundle: Path, tmp_path: Path) -> None:
    package = tmp_path / "a.mlpackage"
    shutil.copytree(bundle / "nms_fp16.mlpackage", package)
    content = (package / MODEL).read_bytes()
    for share in np.random.default_rng(0).uniform(0, 1, 40):
        (package / MODEL).write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ContractError):
            read_package(package)


@needs_coreml
def test_changed_bytes_are_read_or_refused(bundle: Path, tmp_path: Path) -> None:
    package = tmp_path / "a.mlpackage"
    shutil.copytree(bundle / "nms_int8.mlpackage", package)
    rng, refused = np.random.default_rng(0), 0
    for name in (MANIFEST, MODEL, WEIGHTS):
        content = (package / name).read_bytes()
        for _ in range(30):
            changed = bytearray(content)
            for place in rng.integers(0, min(len(content), 4096), 12):
                changed[place] = rng.integers(256)
            (package / name).write_bytes(changed)
            try:
                read_package(package)
            except ContractError:
                refused += 1
        (package / name).write_bytes(content)
    assert refused > 60
    read_package(package)


def export_with(checkpoint: Path, output: Path, **changes: Any) -> Contract:
    return export_bundle(ExportOptions(checkpoint=checkpoint, output=output, target=("coreml",), **changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batch": "2"}, ExportError, "a package takes one picture: use a batch of 1, got 2"),
        ({"batch": "dynamic"}, ExportError, "got a free one"),
        ({"input_type": "float32"}, ConfigError, "--input-type: got float32, but coreml has uint8"),
        ({"variant": ("raw",)}, ConfigError, "coreml has nms, decoded"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_a_remedy(
    changes: dict[str, Any], error: type[Exception], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        export_with(checkpoint, tmp_path / "bundle", **changes)
    assert list(tmp_path.iterdir()) == []


def test_vision_has_no_such_letterbox(tmp_path: Path) -> None:
    detector = random_detector("ssdlite320_mobilenet_v1", width_mult=0.1, image_size=64, resize="letterbox")
    path = tmp_path / "best.pt"
    save_checkpoint(Checkpoint(detector.config, detector.state_dict()), path)
    with pytest.raises(ExportError, match=r"pads them with black .* --variant decoded .* --resize stretch"):
        export_with(path, tmp_path / "bundle")
    assert [one.name for one in tmp_path.iterdir()] == ["best.pt"]


def test_without_coremltools_it_says_what_to_install(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(ExportError, match=r'^coremltools is not installed: pip install "ssdlite\[coreml\]"$'):
        export_with(checkpoint, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_coremltools_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, ssdlite.export.targets, ssdlite.runtime.files; sys.exit('coremltools' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def golden_pixels(bundle: Path, number: int) -> npt.NDArray[np.uint8]:
    """A reference picture at the input's size."""
    return np.fromfile(bundle / "golden" / f"image_{number}.resized.bin", np.uint8).reshape(64, 96, 3)


@needs_coreml
def test_the_card_says_what_an_app_does(bundle: Path) -> None:
    card = (bundle / "README.md").read_text("utf-8")
    assert (
        "- `nms_fp32.mlpackage`, `nms_fp16.mlpackage`, `nms_int8.mlpackage` in Vision: give `VNCoreMLRequest`" in card
    )
    assert "for each object from 0.6 on" in card
    assert "| iOS | `nms_fp16.mlpackage` |" in card


@needs_coreml
def test_lint_says_what_a_package_needs_and_what_vision_takes_it_for(
    bundle: Path, second: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lint(path: Path) -> tuple[dict[str, Any], dict[str, int], str]:
        assert lint_model.main([str(path), "--json", "--strict"]) == 0
        (report,) = json.loads(capsys.readouterr().out)
        *floats, vision = report["findings"]
        assert report["target"] == "coreml-package" and report["taken"] == report["nodes"]
        return report, {one["operator"]: one["count"] for one in floats}, vision["why"]

    half, floats, vision = lint(bundle / "nms_fp16.mlpackage")
    assert half["needs"] == "iOS 15, macOS 12 or newer (version 6)"
    assert vision.startswith("nonMaximumSuppression with class labels at its end: Vision answers VNRecognizedObject")
    assert floats["exp"] == 1 and "conv" not in floats  # boxes are decoded in float32
    full, floats, _ = lint(bundle / "nms_fp32.mlpackage")
    assert floats["conv"] > 10 and sum(floats.values()) > full["nodes"] - 3  # all but a comparison
    assert {one["remedy"] for one in full["findings"]} == {"--precision fp16", "nothing has to be done"}
    assert lint(bundle / "nms_int8.mlpackage")[0]["needs"] == "iOS 16, macOS 13 or newer (version 7)"
    assert lint(second / "decoded_fp16.mlpackage")[2].startswith("no nonMaximumSuppression")


def load_spec(bundle: Path, file: str) -> ModelSpec:
    from ssdlite.runtime import read_contract

    return read_contract(bundle).for_model(file).models[0]
