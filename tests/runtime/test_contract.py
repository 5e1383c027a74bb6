"""Contracts come from files that anyone may have written."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ssdlite.errors import ContractError
from ssdlite.runtime.contract_file import MAX_CONTRACT_BYTES, parse_contract, read_contract
from ssdlite.runtime.plain import to_plain

INPUT = {"name": "images", "type": "uint8", "layout": "NCHW", "batch": 1, "height": 64, "width": 96}
POSTPROCESS = {
    "score_function": "softmax",
    "score_threshold": 0.01,
    "nms_threshold": 0.5,
    "candidates_per_class": 100,
    "max_detections": 50,
    "max_candidates": 1000,
}
ANCHORS = {
    "box_code_scales": [10, 10, 5, 5],
    "max_log_scale": 4.135,
    "values": [[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]],
}
RAW = {
    "file": "raw.onnx",
    "variant": "raw",
    "precision": "fp32",
    "input": INPUT,
    "outputs": [
        {"name": "class_logits", "meaning": "class_logits", "shape": [1, 2, 3]},
        {"name": "box_deltas", "meaning": "box_deltas", "shape": [1, 2, 4]},
    ],
}
DOCUMENT: dict[str, Any] = {
    "format": "ssdlite-contract",
    "format_version": 3,
    "name": "test",
    "class_names": ["cat", "dog"],
    "category_ids": [17, 18],
    "resize": {"mode": "stretch"},
    "postprocess": POSTPROCESS,
    "anchors": ANCHORS,
    "models": [RAW],
    "provenance": {"checkpoint": "best.pt", "checkpoint_sha256": "00", "license": "MIT"},
}


def changed(path: str, value: Any) -> str:
    """DOCUMENT as JSON with ``value`` at ``path``, such as ``models.0.input.height``."""
    document = copy.deepcopy(DOCUMENT)
    *parents, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    place: Any = document
    for part in parents:
        place = place[part]
    place[last] = value
    return json.dumps(document)


def test_a_contract_says_what_it_says() -> None:
    contract = parse_contract(json.dumps(DOCUMENT), "here")
    assert contract.class_names == ("cat", "dog")
    assert contract.category_ids == (17, 18)
    assert contract.models[0].input.shape == (1, 3, 64, 96)
    assert contract.resize.interpolation == "bilinear"
    assert contract.anchors is not None
    assert contract.anchors.array.tolist() == [[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]]
    assert parse_contract(json.dumps(to_plain(contract)), "there") == contract


def test_version_1_spelled_some_names_otherwise() -> None:
    facts = {
        "activation_type": "uint8",
        "calibration_method": "minmax",
        "calibration_images": 8,
        "calibration_data": "val",
        "quantised_layers": 70,
        "total_layers": 74,
        "float_layers": ["a.Conv"],
    }
    old = DOCUMENT | {
        "format_version": 1,
        "resize": {"mode": "letterbox", "half_pixel_centres": False, "padding_position": "centre"},
        "postprocess": POSTPROCESS | {"background_slot": 0},
        "models": [RAW | {"quantisation": facts, "input": INPUT | {"colour_order": "BGR"}}],
        "provenance": {"checkpoint": "best.pt", "checkpoint_sha256": "00", "licence": "MIT", "metrics": {"licence": 1}},
    }
    contract = parse_contract(json.dumps(old), "here")
    assert contract.format_version == 3
    assert (contract.resize.half_pixel_centers, contract.resize.padding_position) == (False, "center")
    assert contract.models[0].input.color_order == "BGR"
    assert contract.models[0].quantization is not None and contract.models[0].quantization.quantized_layers == 70
    assert (contract.provenance.license, contract.provenance.metrics) == ("MIT", {"licence": 1.0})
    for broken in ({"models": [3]}, {"models": {}}, {"resize": []}, {"provenance": None}):
        with pytest.raises(ContractError, match=r"^here: contract"):
            parse_contract(json.dumps(old | broken), "here")
    with pytest.raises(ContractError, match=r"contract.postprocess: unknown name 'background_slot'"):
        parse_contract(json.dumps(old | {"format_version": 2, "resize": {"mode": "stretch"}}), "here")


def test_before_version_3_the_operating_threshold_is_that_of_the_operating_points() -> None:
    def threshold(**changes: object) -> tuple[float, str]:
        spec = parse_contract(json.dumps(DOCUMENT | {"format_version": 2} | changes), "here").postprocess
        return spec.operating_threshold, spec.operating_threshold_source

    point = {"precision": 0.75, "recall": 0.5, "f1": 0.6}
    points = {"cat": point | {"score_threshold": 0.5}, "dog": point | {"score_threshold": 0.21}}
    assert threshold() == (0.3, "guess")
    assert threshold(operating_points=points) == (0.355, "measured")
    stated = POSTPROCESS | {"operating_threshold": 0.6, "operating_threshold_source": "measured"}
    assert threshold(format_version=3, postprocess=stated, operating_points=points) == (0.6, "measured")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", "other", "not a contract of ssdlite"),
        ("format_version", 4, "format version 4; this version of ssdlite reads 1 to 3"),
        ("postprocess.operating_threshold", 1.5, "operating_threshold: expected 0 to 1"),
        ("postprocess.operating_threshold_source", "felt", "expected one of 'measured', 'guess'"),
        ("surprise", 1, "unknown name 'surprise'"),
        ("class_names", [], "class_names: expected 1 to 100000 names, got 0"),
        ("class_names", ["cat", "cat"], "names must differ"),
        ("class_names", ["cat", 5], r"contract.class_names\[1\]: expected a string, got 5"),
        ("category_ids", [1], "category_ids: expected 2"),
        ("postprocess.score_threshold", 1.5, "score_threshold: expected 0 to 1"),
        ("postprocess.max_detections", 10**9, "max_detections: expected 1 to 500000"),
        ("postprocess.max_detections", True, "expected a whole number, got True"),
        ("postprocess.score_function", "argmax", "expected one of 'softmax', 'sigmoid'"),
        ("anchors.values.0.2", -1, "anchors.values: expected centres and positive sizes"),
        ("anchors.values.0.0", 1e300, "anchors.values: expected centres and positive sizes"),
        ("anchors.values.0", [1, 2, 3], r"anchors.values\[0\]: expected 4 values, got 3"),
        ("anchors.box_code_scales.0", 0, "box_code_scales: expected positive"),
        ("anchors.values", [[0.5, 0.5, 1, 1]], "2 anchors, the contract lists 1"),
        (
            "models.0.runtime",
            "tflite",
            "model raw.onnx: runtime: expected one of 'onnxruntime', .*'web', got 'tflite'",
        ),
        ("models.0.runtime", "ncnn", "model raw.onnx: weights_file is missing"),
        ("models.0.sha256", {"raw.onnx": "12"}, "model raw.onnx: sha256: expected 64 digits for a file of the model"),
        ("models.0.sha256", {"other.bin": "0" * 64}, "sha256: expected 64 digits for a file of the model"),
        ("models.0.file", "../../etc/passwd", "expected the name of a file in the bundle"),
        ("models.0.file", "/etc/passwd", "expected the name of a file in the bundle"),
        ("models.0.file", ".hidden.onnx", "expected the name of a file in the bundle"),
        ("models.0.file", "a\\b.onnx", "expected the name of a file in the bundle"),
        ("models.0.input.height", 10**9, "expected sides of 32 to 4096"),
        ("models.0.input.batch", 10**6, "expected a batch of 1 to 1024"),
        ("models.0.input.mean", [1, 1, 1], "a uint8 tensor cannot be normalised by the app"),
        ("models.0.input.layout", "NCWH", "expected one of 'NCHW', 'NHWC'"),
        ("models.0.outputs.0.shape", [1, 2, 99], r"output class_logits: expected shape \[1, 2, 3\]"),
        ("models.0.outputs", [], "a raw model has class_logits, box_deltas"),
        ("models", [], "models: expected 1 to 100, got 0"),
        ("models", [RAW, RAW], "files must differ"),
        ("models.0.variant", "nms", "a nms model has boxes, scores, labels, count"),
        ("anchors", None, "a model of raw needs anchors"),
        ("provenance", "me", "contract.provenance: expected an object"),
    ],
)
def test_what_is_wrong_is_named(path: str, value: Any, message: str) -> None:
    with pytest.raises(ContractError, match=f"^here: .*{message}"):
        parse_contract(changed(path, value), "here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed("postprocess.nms_threshold", float("nan")), "NaN is not a number of JSON"),
        (changed("anchors.max_log_scale", float("inf")), "Infinity is not a number of JSON"),
        (changed("anchors.max_log_scale", 12345).replace("12345", "1e999"), "expected a finite number"),
        (changed("models.0.opset", 12345).replace("12345", "9" * 5000), "is too large"),
        ("[" * 100_000, "nested too deeply"),
        ('{"format": "ssdlite-contract"', "not JSON"),
        ("[]", "not a contract of ssdlite"),
        (json.dumps(DOCUMENT)[:-1] + ', "name": "again"}', "a name comes twice"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_hostile_text(text: str | bytes, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        parse_contract(text, "here")


def test_files_that_are_missing_or_huge(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"contract.json: cannot be read as the contract of a bundle"):
        read_contract(tmp_path)
    (tmp_path / "contract.json").touch()
    os.truncate(tmp_path / "contract.json", MAX_CONTRACT_BYTES + 1)
    with pytest.raises(ContractError, match="larger than"):
        read_contract(tmp_path)
