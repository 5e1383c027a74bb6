"""What Core ML packages say, field by field, and what is written beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ssdlite.export.coreml.program import coremltools_tools
from ssdlite.export.verify.bundle import verify_bundle
from ssdlite.runtime import read_contract
from ssdlite.tools import lint_model
from tests.export.coreml.mil_evaluator import Program
from tests.export.coreml.packages import MANIFEST, MODEL, WEIGHTS, export_with, needs_coreml


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
    (spec,) = read_contract(bundle).for_model("nms_fp16.mlpackage").models
    assert (spec.runtime, spec.variant, spec.precision) == ("coreml", "nms", "fp16")
    assert (spec.input.name, spec.input.type, spec.input.layout) == ("image", "uint8", "NHWC")
    assert (spec.input.shape, spec.accuracy, spec.latency) == ((1, 64, 96, 3), None, None)


@needs_coreml
@pytest.mark.usefixtures("traced_once")
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


@needs_coreml
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
