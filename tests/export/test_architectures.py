"""Small detectors of every activation and of other projects' parts, in every runtime and in integers."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

import ssdlite
from ssdlite.anchors import AnchorConfig
from ssdlite.checkpoint import Checkpoint, save_checkpoint
from ssdlite.config import PRESETS, DetectorConfig, HeadConfig, NeckConfig, override
from ssdlite.detector import detector_from_config
from ssdlite.export.int8.calibration import calibrate
from ssdlite.export.int8.quantize import count_convolutions, quantize
from ssdlite.export.options import ExportOptions
from ssdlite.export.pipeline import export_bundle
from ssdlite.export.verify.bundle import verify_bundle
from ssdlite.runtime import load_model
from ssdlite.runtime.backends.onnxruntime import OnnxBackend
from ssdlite.runtime.contract import Variant
from ssdlite.weights.pytorch.nanodet import NANODET_CONFIG
from tests.cells import CELLS
from tests.export.detectors import PRESET_SIZE, lively
from tests.export.runtimes import RUNTIMES, OneDetector
from tests.made_once import Trace

ODD_SIZE = (72, 96)  # which the strides do not divide
ACTIVATIONS = ("relu", "leaky_relu", "silu", "hardswish")  # relu6: every preset's test
DISTRIBUTIONS = HeadConfig(name="distances", score_function="sigmoid", bins=8)
UNALIKE = AnchorConfig(tuple(((side, side),) for side in (0.1, 0.3, 0.4, 0.9)), "sides")


class Case(NamedTuple):
    config: DetectorConfig
    rounding: float = 0.02  # mean difference of integer kernels, in standard deviations of what they give


def _narrow(config: DetectorConfig, size: tuple[int, int], **changes: object) -> DetectorConfig:
    return override(config, **changes, width_mult=0.25, image_size=size, class_names=("cat", "dog", "bird"))


CASES: dict[str, Case] = {
    **{name: Case(_narrow(PRESETS["ssdlite192_mobilenet_v2_050"], (64, 96), activation=name)) for name in ACTIVATIONS},
    # the size of a bin, a stride, is the same everywhere, or another on each map and axis
    "distributions": Case(_narrow(CELLS, PRESET_SIZE, head=DISTRIBUTIONS)),
    "distributions_by_map": Case(_narrow(CELLS, PRESET_SIZE, head=DISTRIBUTIONS, anchors=UNALIKE)),
    "nanodet": Case(_narrow(NANODET_CONFIG, ODD_SIZE), 0.04),
    "picodet": Case(
        _narrow(
            CELLS,
            ODD_SIZE,
            backbone="lcnet",
            neck=NeckConfig(name="pan", channels=(96,), kernel_size=5, joint="separable_pair"),
            head=HeadConfig(name="aligned_distances", score_function="sigmoid", depth=1, kernel_size=5, bins=8),
            activation="hardswish",
            norm_eps=1e-5,
        ),
        0.04,
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def small(case: Case, trace: Trace, tmp_path_factory: pytest.TempPathFactory) -> OneDetector:
    torch.manual_seed(0)
    return OneDetector(lively(detector_from_config(case.config)), trace, tmp_path_factory.mktemp("small"))


def pictures(detector: ssdlite.Detector, count: int) -> np.ndarray:
    """Coarse coloured blocks [B, 3, H, W]."""
    height, width = detector.config.input.size
    blocks = np.random.default_rng(5).integers(0, 256, (count, 3, -(-height // 8), -(-width // 8)), np.uint8)
    return np.ascontiguousarray(blocks.repeat(8, axis=2).repeat(8, axis=3)[:, :, :height, :width])


def test_onnx_runtime_answers_as_pytorch(small: OneDetector) -> None:
    """With two outputs: of distributions a file has the means alone."""
    image = pictures(small.detector, 1)
    found = small.onnxruntime("raw", image)
    with torch.no_grad():
        expected = small.detector(torch.from_numpy(image))
    assert list(found) == ["class_logits", "box_deltas"]
    assert float(expected.class_logits.std()) > 0.3 and float(expected.box_deltas.std()) > 0.1  # worth comparing
    for meaning, answer in found.items():
        np.testing.assert_allclose(answer, getattr(expected, meaning).numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("runtime", "variant"), [(name, variant) for name, (_, variants) in RUNTIMES.items() for variant in variants]
)
def test_runtimes_answer_as_onnx_runtime(small: OneDetector, runtime: str, variant: Variant) -> None:
    pytest.importorskip(RUNTIMES[runtime][0])
    image = pictures(small.detector, 1)
    found, expected = small.answers(runtime, variant, image), small.onnxruntime(variant, image)
    assert found.keys() == expected.keys()
    for meaning, right in expected.items():
        assert np.abs(found[meaning] - right).max() < 1e-4


def test_integers_of_onnx_runtime_and_litert_agree(small: OneDetector, case: Case) -> None:
    """All convolutions are in integers; what stands between them is calibrated."""
    pytest.importorskip("ai_edge_litert")
    images = pictures(small.detector, 6)
    calibration = calibrate(small.raw, [image[None] for image in images], method="minmax")
    model = quantize(small.raw, calibration, activation_type="int8")
    integer, total = count_convolutions(model)
    assert integer == total
    found = small.litert_of(model, "raw", images[:1], "int8")
    expected = OnnxBackend(model.SerializeToString(), threads=1).run(images[:1])
    exact = small.onnxruntime("raw", images[:1])
    for meaning, right in expected.items():
        assert np.abs(found[meaning] - right).mean() < case.rounding * right.std()
        assert np.abs(right - exact[meaning]).mean() < 0.15 * right.std()


@pytest.mark.parametrize("name", ["distributions", "distributions_by_map"])
def test_a_bundle_of_distributions_is_verified_and_finds_what_the_detector_finds(name: str, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    torch.manual_seed(0)
    detector = lively(detector_from_config(CASES[name].config))
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
    picture = pictures(detector, 1)[0].transpose(1, 2, 0)
    (expected,) = detector.predict(picture, score_threshold=0.05)
    (quick,) = ssdlite.Predictor(detector).predict(picture, score_threshold=0.05)
    np.testing.assert_allclose(quick.boxes, expected.boxes, atol=0.01)
    assert len(expected) > 3
    for file in ("raw_fp32.onnx", "decoded_fp32.tflite", "nms_fp32.onnx"):
        (found,) = load_model(tmp_path / "bundle", file).predict(picture, score_threshold=0.05)
        np.testing.assert_allclose(found.scores[:5], expected.scores[:5], atol=1e-4)
        np.testing.assert_allclose(found.boxes[:5], expected.boxes[:5], atol=0.05)
