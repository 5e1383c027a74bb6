"""LiteRT files against ONNX Runtime, for every preset; their metadata, as MediaPipe's readers look for them."""

from __future__ import annotations

import io
import json
import struct
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from torch import nn

import ssdlite
from ssdlite.checkpoint import Checkpoint, save_checkpoint
from ssdlite.cli import main
from ssdlite.config import override
from ssdlite.datasets.shapes import draw_scene
from ssdlite.detections import Detections
from ssdlite.detector import Detector, detector_from_config
from ssdlite.errors import ConfigError, ContractError, ExportError
from ssdlite.export.bundle import anchor_spec, build_contract
from ssdlite.export.graphs import model_spec
from ssdlite.export.int8.calibration import calibrate, calibration_inputs
from ssdlite.export.int8.quantize import count_convolutions, quantize
from ssdlite.export.onnx import export_onnx
from ssdlite.export.options import ExportOptions, GraphOptions
from ssdlite.export.pipeline import export_bundle
from ssdlite.export.targets.litert import ROWS_FIRST, build_litert
from ssdlite.export.verify.bundle import verify_bundle
from ssdlite.runtime import load_model
from ssdlite.runtime.backends.onnxruntime import OnnxBackend
from ssdlite.runtime.contract import Contract, Precision, Provenance, Variant
from ssdlite.runtime.contract_file import read_contract
from ssdlite.runtime.model import RuntimeDetector
from tests.export.detectors import ExportedPreset, lively
from tests.made_once import Trace

pytest.importorskip("ai_edge_litert", reason="needs the package ai-edge-litert, which is not installed")
from ssdlite.runtime.backends.litert import LiteRtBackend

pytestmark = pytest.mark.usefixtures("traced_once")
PROVENANCE = Provenance(checkpoint="best.pt", checkpoint_sha256="0", license="MIT")


def as_checkpoint(detector: Detector) -> Checkpoint:
    return Checkpoint(detector.config, detector.state_dict())


def contract_of(
    detector: Detector, variant: Variant, precision: Precision = "fp32", *, litert: bool = True, **others: Any
) -> Contract:
    options = GraphOptions(variant=variant, precision=precision, layout="NHWC" if litert else "NCHW", **others)
    spec = model_spec(detector, options, "model.tflite" if litert else "model.onnx")
    if litert:
        spec = replace(spec, runtime="litert")
    if variant in ("nms", "anchors"):
        outputs = tuple(replace(one, type="float32") for one in spec.outputs)
        spec = replace(spec, boxes=ROWS_FIRST, outputs=outputs)
    return build_contract(detector, [spec], PROVENANCE, 2048)


def open_litert(model: onnx.ModelProto, contract: Contract, detector: Detector) -> RuntimeDetector:
    backend = LiteRtBackend(build_litert(model, contract, anchor_spec(detector)), threads=1)
    backend.check(contract.models[0])
    return RuntimeDetector(contract, contract.models[0], backend)


def open_onnx(model: onnx.ModelProto, detector: Detector) -> RuntimeDetector:
    contract = contract_of(detector, "raw", litert=False)
    return RuntimeDetector(contract, contract.models[0], OnnxBackend(model.SerializeToString(), threads=1))


def pictures(detector: Detector, count: int, seed: int = 5) -> np.ndarray:
    """Drawn scenes [B, 3, H, W] at the input's size, from the same pixels for every runtime."""
    rng, (height, width) = np.random.default_rng(seed), detector.config.input.size
    scenes = [draw_scene(rng, with_objects=True).image for _ in range(count)]
    cut = [np.resize(scene, (height, width, 3)) for scene in scenes]
    return np.stack(cut).transpose(0, 3, 1, 2)


def assert_same(found: Detections, expected: Detections, *, share: float = 0.0) -> None:
    """Every detection but a ``share`` has its like: same class, score within 1e-3, corners within 0.05 pixels."""
    assert abs(len(found) - len(expected)) <= share * len(expected)
    missing = 0
    for one in expected:
        near = (np.abs(found.scores - one.score) < 1e-3) & (found.labels == one.label)
        missing += not (near & (np.abs(found.boxes - one.box).max(axis=1) < 0.05)).any()
    assert missing <= share * len(expected)


def test_every_preset_answers_as_in_onnx_runtime(preset: ExportedPreset) -> None:
    detector, model = preset.detector, preset.raw
    images = pictures(detector, 2)
    reference = open_onnx(model, detector)
    expected = reference.infer_batch(images)
    assert np.abs(expected["class_logits"]).max() > 1  # worth comparing

    raw = open_litert(model, contract_of(detector, "raw"), detector).infer_batch(images)
    for meaning, right in expected.items():
        assert np.abs(raw[meaning] - right).max() < 1e-4

    decoded = open_litert(model, contract_of(detector, "decoded"), detector).infer_batch(images)
    right = OnnxBackend(preset.decoded.SerializeToString(), threads=1).run(images[:1])
    for meaning, value in right.items():
        assert np.abs(decoded[meaning][:1] - value).max() < 1e-4

    for variant in ("nms", "anchors"):
        found = open_litert(model, contract_of(detector, variant), detector).detect(images)
        for one, other in zip(found, reference.detect(images), strict=True):
            assert_same(one, other, share=0.02)  # random boxes crowd so much that rounding decides about some


@pytest.fixture(scope="module")
def small() -> Detector:
    torch.manual_seed(0)
    return lively(
        ssdlite.build_detector(
            "ssdlite192_mobilenet_v2_050",
            num_classes=3,
            width_mult=0.25,
            image_size=(96, 128),
            class_names=["ant", "Käfer", "bee"],
        )
    )


@pytest.fixture(scope="module")
def small_model(small: Detector, trace: Trace) -> onnx.ModelProto:
    return trace(small, GraphOptions(variant="raw"))


def test_sigmoid_scores_and_an_input_that_the_app_normalizes() -> None:
    torch.manual_seed(0)
    detector = lively(
        ssdlite.build_detector(
            "ssdlite192_mobilenet_v2_050",
            num_classes=3,
            width_mult=0.25,
            image_size=96,
            score_function="sigmoid",
            mean=(120, 110, 100),
            std=(60, 50, 70),
        )
    )
    images = pictures(detector, 1)
    models = {
        kind: export_onnx(detector, GraphOptions(variant="raw", input_type=kind)) for kind in ("uint8", "float32")
    }
    expected = open_onnx(models["uint8"], detector).detect(images)[0]
    for input_type, model in models.items():
        contract = contract_of(detector, "decoded", input_type=input_type)
        found = open_litert(model, contract, detector).detect(images)[0]
        assert_same(found.above(0.3), expected.above(0.3))


def test_half_precision_stores_half_the_bytes(small: Detector, small_model: onnx.ModelProto) -> None:
    full, half = (
        build_litert(small_model, contract_of(small, "raw", precision), anchor_spec(small))
        for precision in ("fp32", "fp16")
    )
    assert len(half) < 0.65 * len(full)  # the contract's text is in both
    images = pictures(small, 1).transpose(0, 2, 3, 1)
    answers = [LiteRtBackend(content).run(np.ascontiguousarray(images)) for content in (full, half)]
    difference = np.abs(answers[0]["class_logits"] - answers[1]["class_logits"]).max()
    assert 0 < difference < 0.1


@pytest.mark.parametrize("name", ["ssdlite192_mobilenet_v2_050", "ssdlite320_mobilenet_v3_large"])
def test_int8_computes_what_onnx_runtime_computes(name: str, trace: Trace) -> None:
    """From the same scales: all convolutions in integers, and scores apart by single rounding steps."""
    preset = ExportedPreset(name, trace)
    detector, model = preset.detector, preset.raw
    reader = open_onnx(model, detector)
    samples = [image.transpose(1, 2, 0) for image in pictures(detector, 6, seed=1)]
    quantized = quantize(model, calibrate(model, calibration_inputs(reader, samples)), activation_type="int8")
    images = pictures(detector, 2)
    expected = open_onnx(quantized, detector).infer_batch(images)["class_logits"]
    exact = reader.infer_batch(images)["class_logits"]

    content = build_litert(quantized, contract_of(detector, "raw", "int8"), anchor_spec(detector))
    assert len(content) < 0.5 * len(build_litert(model, contract_of(detector, "raw"), anchor_spec(detector)))
    backend = LiteRtBackend(content, threads=1)
    kinds = [one["op_name"] for one in backend._interpreter._get_ops_details()]
    assert kinds.count("QUANTIZE") == 1 + kinds.count("LOGISTIC") + 8 * (name == "ssdlite320_mobilenet_v3_large")
    found = open_litert(quantized, contract_of(detector, "raw", "int8"), detector).infer_batch(images)["class_logits"]
    rounding = np.abs(expected - exact).mean()
    assert np.abs(found - expected).mean() < 0.5 * rounding
    decoded = open_litert(quantized, contract_of(detector, "decoded", "int8"), detector).infer_batch(images)
    assert np.isfinite(decoded["boxes"]).all() and decoded["scores"].max() > 0.3


def test_int8_leaves_the_logit_of_a_product_in_float(trace: Trace) -> None:
    """All of YOLOX's convolutions are in integers, its exponentials and the logarithm behind them are not."""
    preset = ExportedPreset("yolox", trace)
    detector, model = preset.detector, preset.raw
    reader = open_onnx(model, detector)
    samples = [image.transpose(1, 2, 0) for image in pictures(detector, 6, seed=1)]
    quantized = quantize(model, calibrate(model, calibration_inputs(reader, samples)), activation_type="int8")
    assert count_convolutions(quantized) == (113, 113)
    quantized_names = {node.input[0] for node in quantized.graph.node if node.op_type == "QuantizeLinear"}
    of_the_score = {name for node in quantized.graph.node if node.op_type in ("Exp", "Log") for name in node.output}
    assert len(of_the_score) == 3 and not of_the_score & quantized_names
    images = pictures(detector, 2)
    exact = reader.infer_batch(images)["class_logits"]
    spread = exact.std(axis=1).mean()
    litert = open_litert(quantized, contract_of(detector, "raw", "int8"), detector)
    for found in (open_onnx(quantized, detector), litert):
        assert np.abs(found.infer_batch(images)["class_logits"] - exact).mean() < 0.05 * spread


def test_int8_pixels_are_the_bytes_less_128(small: Detector, small_model: onnx.ModelProto, tmp_path: Path) -> None:
    for scene in range(4):
        picture = draw_scene(np.random.default_rng(scene), with_objects=True).image
        Image.fromarray(picture).save(tmp_path / f"{scene}.png")
    save_checkpoint(as_checkpoint(small), tmp_path / "best.pt")

    def export(name: str, **others: Any) -> RuntimeDetector:
        common = {"target": ("litert",), "variant": ("decoded",), "precision": ("int8",), "golden_images": 1}
        paths = {"checkpoint": tmp_path / "best.pt", "output": tmp_path / name, "calibration_folder": tmp_path}
        export_bundle(ExportOptions(**{**common, **paths, **others}))
        assert verify_bundle(tmp_path / name).passed
        return load_model(tmp_path / name)

    unsigned, signed = export("unsigned"), export("signed", input_type="int8")
    assert (signed.model.input.type, signed.model.input.mean) == ("int8", (128.0, 128.0, 128.0))
    images = pictures(small, 1)
    assert np.array_equal(
        signed.to_input(images), (images.astype(np.int16) - 128).astype(np.int8).transpose(0, 2, 3, 1)
    )
    found, expected = signed.infer_batch(images), unsigned.infer_batch(images)
    for meaning, right in expected.items():
        assert np.abs(found[meaning] - right).mean() < 1e-3
    with pytest.raises(ConfigError, match="--input-type int8: is for int8 files: ask for --precision int8 alone"):
        export("other", precision=("fp32",), input_type="int8")
    with pytest.raises(ExportError, match="MediaPipe takes uint8 or float32 pixels"):
        export("other", variant=("nms",), input_type="int8")


# --- Metadata: read here by the numbers of the fields in MediaPipe's metadata_schema.fbs.


class Table:
    """A table of a flatbuffer, its fields by number."""

    def __init__(self, content: bytes, place: int | None = None) -> None:
        self.content = content
        self.place = self._offset(0) if place is None else place

    def _offset(self, place: int) -> int:
        return place + int(struct.unpack_from("<I", self.content, place)[0])

    def _field(self, number: int) -> int:
        table = self.place - struct.unpack_from("<i", self.content, self.place)[0]
        size = struct.unpack_from("<H", self.content, table)[0]
        offset = struct.unpack_from("<H", self.content, table + 4 + 2 * number)[0] if 4 + 2 * number < size else 0
        assert offset, f"no field {number}"
        return int(self.place + offset)

    def number(self, number: int, form: str) -> Any:
        return struct.unpack_from(form, self.content, self._field(number))[0]

    def table(self, number: int) -> Table:
        return Table(self.content, self._offset(self._field(number)))

    def numbers(self, number: int, form: str) -> list[Any]:
        start = self._offset(self._field(number))
        count = struct.unpack_from("<I", self.content, start)[0]
        return list(struct.unpack_from(f"<{count}{form}", self.content, start + 4))

    def text(self, number: int) -> str:
        return bytes(self.numbers(number, "B")).decode()

    def tables(self, number: int) -> list[Table]:
        start = self._offset(self._field(number))
        count = struct.unpack_from("<I", self.content, start)[0]
        return [Table(self.content, self._offset(start + 4 + 4 * place)) for place in range(count)]

    def texts(self, number: int) -> list[str]:
        start = self._offset(self._field(number))
        places = [start + 4 + 4 * place for place in range(struct.unpack_from("<I", self.content, start)[0])]
        lengths = [
            (self._offset(place), struct.unpack_from("<I", self.content, self._offset(place))[0]) for place in places
        ]
        return [self.content[begin + 4 : begin + 4 + length].decode() for begin, length in lengths]


def metadata_of(content: bytes, name: str) -> bytes:
    """Of the model's list of metadata (field 6 of Model): the buffer (field 4) that an entry names."""
    model = Table(content)
    (entry,) = [one for one in model.tables(6) if one.text(0) == name]
    return bytes(model.tables(4)[entry.number(1, "<I")].numbers(0, "B"))


def names_of(tables: Sequence[Table]) -> list[str]:
    return [one.text(0) for one in tables]


def test_metadata_of_four_outputs(small: Detector, small_model: onnx.ModelProto) -> None:
    contract = contract_of(small, "nms")
    content = build_litert(small_model, contract, anchor_spec(small))
    with zipfile.ZipFile(io.BytesIO(content)) as labels:
        assert labels.read("labels.txt").decode() == "ant\nKäfer\nbee\n"
    assert json.loads(metadata_of(content, "ssdlite.contract"))["models"][0]["file"] == "model.tflite"

    metadata = metadata_of(content, "TFLITE_METADATA")
    assert metadata[4:8] == b"M001"
    (graph,) = Table(metadata).tables(3)
    assert Table(metadata).text(5) == "MIT"
    (image,) = graph.tables(2)
    assert image.table(3).number(0, "<B") == 2 and image.table(3).table(1).number(0, "<b") == 1  # a picture, RGB
    location, category, score, _ = outputs = graph.tables(3)
    assert names_of(outputs) == ["location", "category", "score", "number of detections"]
    box = location.table(3).table(1)
    assert box.numbers(0, "I") == [1, 0, 3, 2] and (box.number(1, "<b"), box.number(2, "<b")) == (1, 0)
    assert [(one.text(0), one.number(2, "<b")) for one in category.tables(6)] == [("labels.txt", 3)]
    (unit,) = score.tables(4)
    assert unit.number(0, "<B") == 3 and unit.table(1).number(0, "<f") == pytest.approx(0.3)
    (group,) = graph.tables(8)
    assert (group.text(0), group.texts(1)) == ("detection_result", ["location", "category", "score"])


def test_metadata_of_two_outputs_hold_the_anchors(small: Detector, small_model: onnx.ModelProto) -> None:
    model = export_onnx(small, GraphOptions(variant="raw", input_type="float32"))
    contract = contract_of(small, "anchors", input_type="float32")
    anchors = anchor_spec(small)
    (graph,) = Table(metadata_of(build_litert(model, contract, anchors), "TFLITE_METADATA")).tables(3)
    (image,) = graph.tables(2)
    (unit,) = image.tables(4)
    assert unit.number(0, "<B") == 1  # NormalizationOptions
    assert (unit.table(1).numbers(0, "f"), unit.table(1).numbers(1, "f")) == ([127.5], [127.5])
    location, score = graph.tables(3)
    assert names_of([location, score]) == ["location", "score"]
    assert [(one.text(0), one.number(2, "<b")) for one in score.tables(6)] == [("labels.txt", 2)]
    (custom,) = graph.tables(9)
    assert custom.text(0) == "DETECTOR_METADATA"
    detector = bytes(custom.numbers(1, "B"))
    assert detector[4:8] == b"V001"
    options = Table(detector)
    fixed = options.table(1).table(0).tables(0)
    assert [one.number(field, "<f") for one in fixed[:1] for field in range(4)] == pytest.approx(anchors.values[0])
    decoding = options.table(2)
    assert [decoding.number(field, "<i") for field in range(3)] == [3, len(anchors.values), 4]
    assert [decoding.number(field, "<f") for field in range(6, 10)] == [10, 10, 5, 5]
    assert (decoding.number(10, "<?"), decoding.number(11, "<?")) == (True, False)


def test_mediapipe_finds_what_we_find(small: Detector, small_model: onnx.ModelProto, tmp_path: Path) -> None:
    """From the same pixels: class, score within 1e-3, and the box truncated to whole pixels."""
    mediapipe = pytest.importorskip("mediapipe", reason="needs the package mediapipe (650 MB), which is not installed")
    from mediapipe.tasks.python import BaseOptions, vision

    contract = contract_of(small, "nms")
    path = tmp_path / "model.tflite"
    path.write_bytes(build_litert(small_model, contract, anchor_spec(small)))
    (image,) = pictures(small, 1)
    (expected,) = load_model(path).detect(image[None])
    options = vision.ObjectDetectorOptions(base_options=BaseOptions(model_asset_path=str(path)), max_results=30)
    pixels = mediapipe.Image(
        image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image.transpose(1, 2, 0))
    )
    with vision.ObjectDetector.create_from_options(options) as detector:
        found = detector.detect(pixels).detections
    own = sorted(expected.above(0.3), key=lambda one: -one.score)[:30]
    assert len(found) == len(own) > 0
    for one, right in zip(found, own, strict=True):
        category, box = one.categories[0], one.bounding_box
        assert category.score == pytest.approx(right.score, abs=1e-3)
        corners = (box.origin_x, box.origin_y, box.origin_x + box.width, box.origin_y + box.height)
        assert max(abs(a - b) for a, b in zip(corners, right.box, strict=True)) <= 2


# --- Bundles, and what is wrong.


@pytest.fixture(scope="module")
def bundle(small: Detector, tmp_path_factory: pytest.TempPathFactory, traced_once: None) -> Path:
    folder = tmp_path_factory.mktemp("litert")
    save_checkpoint(as_checkpoint(small), folder / "best.pt")
    said: list[str] = []
    options = ExportOptions(
        checkpoint=folder / "best.pt",
        output=folder / "bundle",
        target=("litert",),
        variant=("nms", "anchors", "decoded", "raw"),
        golden_images=1,
    )
    export_bundle(options, said.append)
    slow = "from lower ones on the suppression in the file takes longer than the network"
    assert [line for line in said if "threshold" in line] == [
        f"  scores above 0.01 alone: {slow}; --score-threshold sets another"
    ]
    return folder / "bundle"


def test_the_threshold_for_litert_is_not_that_of_other_files(bundle: Path, tmp_path: Path) -> None:
    exported = ExportOptions(
        checkpoint=bundle.parent / "best.pt",
        output=tmp_path / "bundle",
        target=("onnxruntime", "litert"),
        variant=("nms", "decoded"),
        golden_images=1,
        max_detections=3000,  # enough to reach down to the threshold
    )
    contract = export_bundle(exported)
    assert contract.postprocess.score_threshold == 0.001
    assert {one.file: one.score_threshold for one in contract.models} == {
        "nms_fp32.onnx": None,
        "decoded_fp32.onnx": None,
        "nms_fp32.tflite": 0.01,
        "decoded_fp32.tflite": None,
    }
    assert max(one.difference_from_pytorch or 1.0 for one in contract.models) < 1e-4  # of what the file is to have
    assert read_contract(tmp_path / "bundle") == contract and verify_bundle(tmp_path / "bundle").passed
    card = (tmp_path / "bundle" / "README.md").read_text("utf-8")
    assert "`nms_fp32.tflite`: scores above 0.01 alone are kept" in card

    scene = draw_scene(np.random.default_rng(3), with_objects=True).image
    least = {
        one.file: load_model(tmp_path / "bundle", one.file).predict(scene, score_threshold=0.0)[0].scores.min()
        for one in contract.models
    }
    assert least["nms_fp32.tflite"] > 0.01 > max(score for file, score in least.items() if file != "nms_fp32.tflite")
    own = load_model(tmp_path / "bundle" / "nms_fp32.tflite")
    with pytest.raises(ConfigError, match=r"score_threshold 0\.01 is built into .*, and cannot be 0\.001"):
        own.with_thresholds(score_threshold=0.001)

    asked = replace(exported, output=tmp_path / "asked", target=("litert",), variant=("nms",), score_threshold=0.002)
    contract = export_bundle(asked)
    assert (contract.postprocess.score_threshold, contract.models[0].score_threshold) == (0.002, None)


def test_detections_that_are_to_be_shown_are_not_below_the_threshold_for_litert(
    small: Detector, tmp_path: Path
) -> None:
    points = {
        name: {"score_threshold": 0.004, "precision": 0.5, "recall": 0.5, "f1": 0.5} for name in small.class_names
    }
    save_checkpoint(replace(as_checkpoint(small), metrics={"operating_points": points}), tmp_path / "best.pt")
    options = {"checkpoint": tmp_path / "best.pt", "output": tmp_path / "bundle", "golden_images": 1}
    contract = export_bundle(ExportOptions(**options, target=("litert",)))
    assert (contract.postprocess.operating_threshold, contract.models[0].score_threshold) == (0.004, 0.004)


@pytest.mark.parametrize(("file", "value"), [("nms_fp32.tflite", 1.5), ("decoded_fp32.tflite", 0.01)])
def test_a_threshold_of_a_file_is_checked(bundle: Path, tmp_path: Path, file: str, value: float) -> None:
    def change(document: Any) -> None:
        next(one for one in document["models"] if one["file"] == file)["score_threshold"] = value

    message = f"model {file}: score_threshold: expected 0 to 1, of an nms model alone, got {value} of {file[:-12]}"
    with pytest.raises(ContractError, match=message):
        read_contract(edit(bundle, tmp_path / "copy", change))


def edit(bundle: Path, copy: Path, change: Any) -> Path:
    """A copy of a bundle with another contract."""
    import shutil

    shutil.copytree(bundle, copy)
    document = json.loads((copy / "contract.json").read_text("utf-8"))
    change(document)
    (copy / "contract.json").write_text(json.dumps(document), "utf-8")
    return copy


def test_a_bundle_is_verified_and_predicts(bundle: Path, tmp_path: Path) -> None:
    report = verify_bundle(bundle)
    assert report.passed and len(report.models) == 4
    scene = draw_scene(np.random.default_rng(3), with_objects=True).image
    results = [load_model(bundle / f"{name}_fp32.tflite").predict(scene)[0] for name in ("nms", "decoded", "raw")]
    assert_same(results[0], results[1])
    assert_same(results[2], results[1])


@pytest.mark.parametrize(("change", "file", "step"), [
    (lambda own: own["resize"].update(mode="letterbox"), "decoded_fp32.tflite", "resize"),
    (lambda own: [one["input"].update(color_order="BGR") for one in own["models"]], "raw_fp32.tflite", "input"),
    (lambda own: own["models"][0].update(boxes=None), "nms_fp32.tflite", "detections"),
    (lambda own: own["class_names"].reverse(), "raw_fp32.tflite", "detections"),
    (lambda own: own["anchors"]["box_code_scales"].reverse(), "anchors_fp32.tflite", "detections"),
])  # fmt: skip
def test_a_fault_in_the_contract_fails_its_step(
    bundle: Path, tmp_path: Path, change: Any, file: str, step: str
) -> None:
    report = verify_bundle(edit(bundle, tmp_path / "copy", change), model=file)
    failed = report.failed_steps()[file]
    assert step in failed and "outputs" not in failed


@pytest.mark.parametrize("labels", [None, "circle\nsquare\n", "\0" * 9])
def test_labels_for_mediapipe_that_are_not_the_contracts_fail_the_contract(
    bundle: Path, tmp_path: Path, labels: str | None
) -> None:
    file = edit(bundle, tmp_path / "copy", lambda document: None) / "nms_fp32.tflite"
    content = file.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (entry,) = archive.infolist()
        known = archive.read(entry).decode()
    file.write_bytes(content[: entry.header_offset])
    if labels is not None:
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("labels.txt", labels)
    report = verify_bundle(tmp_path / "copy")
    assert report.failed_steps() == {"nms_fp32.tflite": ["contract"]}
    said = next(one.steps[0].text for one in report.models if one.file == "nms_fp32.tflite")
    where = "contract.json and the file's own metadata differ: labels.txt, where MediaPipe reads names"
    assert said.startswith(where) and repr(known.split()[0]) in said and said.endswith("None") == (labels is None)


def test_other_weights_fail_the_outputs(
    bundle: Path, small: Detector, small_model: onnx.ModelProto, tmp_path: Path
) -> None:
    copy = edit(bundle, tmp_path / "copy", lambda document: None)
    other = onnx.ModelProto.FromString(small_model.SerializeToString())
    (weight,) = (one for one in other.graph.initializer if one.name.endswith("classification.0.1.weight"))
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    contract = load_model(bundle / "raw_fp32.tflite").contract
    (copy / "raw_fp32.tflite").write_bytes(build_litert(other, contract, anchor_spec(small)))
    assert "outputs" in verify_bundle(copy, model="raw_fp32.tflite").failed_steps()["raw_fp32.tflite"]


def test_lint_says_what_is_left_outside_xnnpack_and_the_gpu(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", str(bundle / "nms_fp32.tflite"), "--target", "litert-gpu", "--strict"]) == 1
    assert capsys.readouterr().out.splitlines()[2:] == [
        "  left to the CPU: CAST 1 (such as _to_copy)",
        "    why: the GPU delegate does not cast uint8 to float32",
        "    what to do: --input-type float32",
        "  left to the CPU: TFLite_Detection_PostProcess 1 (such as boxes)",
        "    why: not among the operators of LiteRT's GPU delegate",
        "    what to do: --variant decoded",
        "",
    ]
    assert main(["lint", str(bundle), "--target", "litert", "--strict", "--json"]) == 0
    reports = {Path(one["model"]).name: one for one in json.loads(capsys.readouterr().out)}
    assert list(reports) == [f"{variant}_fp32.tflite" for variant in ("nms", "anchors", "decoded", "raw")]
    notes = [finding for finding in reports["raw_fp32.tflite"]["findings"] if finding["operator"] == "CAST"]
    assert [(one["kind"], one["count"], one["remedy"]) for one in notes] == [("note", 1, "--input-type float32")]
    (bundle / "cut.tflite").write_bytes((bundle / "raw_fp32.tflite").read_bytes()[:9000])
    assert main(["lint", str(bundle / "cut.tflite")]) == 2
    assert "a damaged LiteRT file (it is cut off" in capsys.readouterr().err
    (bundle / "cut.tflite").unlink()


def test_damaged_files_are_refused(small: Detector, small_model: onnx.ModelProto) -> None:
    """Cut off anywhere, or with bytes of its tables changed: one error, or a file that runs."""
    content = build_litert(small_model, contract_of(small, "raw"), anchor_spec(small))
    image = np.zeros((1, 96, 128, 3), np.uint8)
    for length in (0, 7, 8, 100, len(content) // 2, len(content) - 2000):
        with pytest.raises(ContractError, match="LiteRT"):  # expected a LiteRT file, or a damaged one
            LiteRtBackend(content[:length])
    with pytest.raises(ContractError, match=r"a damaged LiteRT file \(it is cut off, or refers to what is not in it\)"):
        LiteRtBackend(content[: len(content) // 2])
    rng, refused = np.random.default_rng(0), 0
    for _ in range(60):
        changed = bytearray(content)
        for place in rng.integers(8, len(content), 12):
            changed[place] ^= int(rng.integers(1, 256))
        try:
            LiteRtBackend(bytes(changed)).run(image)
        except ContractError:
            refused += 1
    assert refused > 5


def test_what_litert_or_mediapipe_cannot_do(small: Detector, tmp_path: Path) -> None:
    save_checkpoint(as_checkpoint(small), tmp_path / "best.pt")

    def export(**others: Any) -> None:
        options = {"checkpoint": tmp_path / "best.pt", "output": tmp_path / "bundle", "target": ("litert",)}
        export_bundle(ExportOptions(**{**options, **others}))

    with pytest.raises(ConfigError, match=r"--batch: got 2, but litert takes 1$"):
        export(batch="2")
    boxed = detector_from_config(override(small.config, resize="letterbox"))
    save_checkpoint(as_checkpoint(boxed), tmp_path / "best.pt")
    with pytest.raises(ExportError, match=r"MediaPipe stretches pictures, .* expects a letterbox"):
        export()
    colored = detector_from_config(override(small.config, mean=(120, 110, 100)))
    save_checkpoint(as_checkpoint(colored), tmp_path / "best.pt")
    with pytest.raises(ExportError, match="MediaPipe normalises all channels alike"):
        export(input_type="float32")
    assert not (tmp_path / "bundle").exists()


def test_an_operator_without_a_counterpart_is_named_with_its_module(small: Detector) -> None:
    class Odd(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.sin(inputs)

    odd = detector_from_config(small.config).eval()
    odd.head.regression[0].append(Odd())  # type: ignore[operator]
    model = export_onnx(odd, GraphOptions(variant="raw"))
    with pytest.raises(ExportError, match=r"LiteRT: no operator is known for Sin of .*head"):
        build_litert(model, contract_of(small, "raw"), anchor_spec(small))


def test_without_the_package_the_extra_is_named(
    small: Detector, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(ContractError, match=r"needs ai-edge-litert: pip install \"ssdlite\[litert\]\""):
        load_model(bundle / "raw_fp32.tflite")
    with monkeypatch.context() as patched:
        patched.setattr("ssdlite.export.verify.bundle.installed_runtimes", lambda: {"onnxruntime": "1.20"})
        with pytest.raises(ContractError, match=r'litert is not installed: pip install "ssdlite\[litert\]"$'):
            verify_bundle(bundle)
    save_checkpoint(as_checkpoint(small), tmp_path / "best.pt")
    with pytest.raises(ExportError, match=r"ai-edge-litert is not installed: pip install \"ssdlite\[litert\]\""):
        export_bundle(ExportOptions(checkpoint=tmp_path / "best.pt", output=tmp_path / "out", target=("litert",)))
