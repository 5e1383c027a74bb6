"""Detectors whose distances are means of distributions, in every runtime: files have the means alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import ssdlite
from ssdlite.anchors import AnchorConfig
from ssdlite.checkpoint import Checkpoint, save_checkpoint
from ssdlite.config import PRESETS, HeadConfig, override
from ssdlite.detector import detector_from_config
from ssdlite.export.int8.calibration import calibrate
from ssdlite.export.int8.quantize import count_convolutions, quantize
from ssdlite.export.options import ExportOptions
from ssdlite.export.pipeline import export_bundle
from ssdlite.export.verify.bundle import verify_bundle
from ssdlite.runtime import load_model
from ssdlite.runtime.backends.onnxruntime import OnnxBackend
from ssdlite.runtime.contract import Variant
from tests.export.detectors import PRESET_SIZE, lively
from tests.export.runtimes import RUNTIMES, OneDetector
from tests.made_once import Trace

ANCHORS = {  # by which the size of a bin, a stride, is the same everywhere or another on each map and axis
    "alike": PRESETS["litepan320_small"].anchors,
    "by_map": AnchorConfig(tuple(((side, side),) for side in (0.1, 0.3, 0.4, 0.9)), "sides"),
}


@pytest.fixture(scope="module", params=ANCHORS)
def small(request: pytest.FixtureRequest, trace: Trace, tmp_path_factory: pytest.TempPathFactory) -> OneDetector:
    torch.manual_seed(0)
    config = override(
        PRESETS["litepan320_small"],
        head=HeadConfig(name="distances", score_function="sigmoid", bins=8),
        anchors=ANCHORS[request.param],
        width_mult=0.25,
        image_size=PRESET_SIZE,
        class_names=("a", "b", "c"),
    )
    return OneDetector(lively(detector_from_config(config)), trace, tmp_path_factory.mktemp(request.param))


def pictures(count: int) -> np.ndarray:
    """Coarse coloured blocks [B, 3, H, W]."""
    height, width = PRESET_SIZE
    blocks = np.random.default_rng(5).integers(0, 256, (count, 3, 13, 16), np.uint8)
    return np.ascontiguousarray(blocks.repeat(8, axis=2).repeat(8, axis=3)[:, :, :height, :width])


def test_onnx_runtime_answers_as_pytorch_with_two_outputs(small: OneDetector) -> None:
    image = pictures(1)
    found = small.onnxruntime("raw", image)
    with torch.no_grad():
        expected = small.detector(torch.from_numpy(image))
    assert list(found) == ["class_logits", "box_deltas"]
    assert float(expected.box_deltas.std()) > 0.1  # worth comparing
    np.testing.assert_allclose(found["class_logits"], expected.class_logits, atol=1e-4)
    np.testing.assert_allclose(found["box_deltas"], expected.box_deltas, atol=1e-4)


@pytest.mark.parametrize(
    ("runtime", "variant"), [(name, variant) for name, (_, variants) in RUNTIMES.items() for variant in variants]
)
def test_runtimes_answer_as_onnx_runtime(small: OneDetector, runtime: str, variant: Variant) -> None:
    pytest.importorskip(RUNTIMES[runtime][0])
    image = pictures(1)
    found, expected = small.answers(runtime, variant, image), small.onnxruntime(variant, image)
    assert found.keys() == expected.keys()
    for meaning, right in expected.items():
        assert np.abs(found[meaning] - right).max() < 1e-4


def test_integers_of_onnx_runtime_and_litert_agree(small: OneDetector) -> None:
    pytest.importorskip("ai_edge_litert")
    images = pictures(6)
    calibration = calibrate(small.raw, [image[None] for image in images], method="minmax")
    model = quantize(small.raw, calibration, activation_type="int8")
    integer, total = count_convolutions(model)
    assert integer == total
    found = small.litert_of(model, "raw", images[:1], "int8")
    expected = OnnxBackend(model.SerializeToString(), threads=1).run(images[:1])
    exact = small.onnxruntime("raw", images[:1])
    for meaning, right in expected.items():
        assert np.abs(found[meaning] - right).mean() < 0.02 * right.std()
        assert np.abs(right - exact[meaning]).mean() < 0.15 * right.std()


def test_a_bundle_of_all_variants_is_verified_and_finds_what_the_detector_finds(
    small: OneDetector, tmp_path: Path
) -> None:
    pytest.importorskip("ai_edge_litert")
    detector = small.detector
    save_checkpoint(Checkpoint(detector.config, detector.state_dict()), tmp_path / "best.pt")
    options = ExportOptions(
        checkpoint=tmp_path / "best.pt",
        output=tmp_path / "bundle",
        target=("onnxruntime", "litert"),
        variant=("raw", "decoded", "nms"),
        golden_images=1,
    )
    export_bundle(options)
    assert verify_bundle(tmp_path / "bundle").passed
    picture = pictures(1)[0].transpose(1, 2, 0)
    (expected,) = detector.predict(picture, score_threshold=0.05)
    (quick,) = ssdlite.Predictor(detector).predict(picture, score_threshold=0.05)
    np.testing.assert_allclose(quick.boxes, expected.boxes, atol=0.01)
    assert len(expected) > 3
    for file in ("raw_fp32.onnx", "decoded_fp32.tflite", "nms_fp32.onnx"):
        (found,) = load_model(tmp_path / "bundle", file).predict(picture, score_threshold=0.05)
        np.testing.assert_allclose(found.scores[:5], expected.scores[:5], atol=1e-4)
        np.testing.assert_allclose(found.boxes[:5], expected.boxes[:5], atol=0.05)
