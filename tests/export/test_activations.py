"""Every activation that a detector may have, in every runtime, and in integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ssdlite
from ssdlite.export.int8.calibration import calibrate
from ssdlite.export.int8.quantize import count_convolutions, quantize
from ssdlite.runtime.backends.onnxruntime import OnnxBackend
from ssdlite.runtime.contract import Variant
from tests.export.detectors import lively
from tests.export.runtimes import RUNTIMES, OneDetector
from tests.made_once import Trace

SIZE = (64, 96)
ACTIVATIONS = ("relu", "leaky_relu", "silu", "hardswish")  # relu6: every preset's test


@pytest.fixture(scope="module", params=ACTIVATIONS)
def small(request: pytest.FixtureRequest, trace: Trace, tmp_path_factory: pytest.TempPathFactory) -> OneDetector:
    torch.manual_seed(0)
    options = {"num_classes": 3, "width_mult": 0.25, "image_size": SIZE, "activation": request.param}
    detector = lively(ssdlite.build_detector("ssdlite192_mobilenet_v2_050", **options))
    return OneDetector(detector, trace, tmp_path_factory.mktemp(request.param))


def pictures(count: int) -> np.ndarray:
    """Coarse coloured blocks [B, 3, H, W]."""
    rng = np.random.default_rng(5)
    return rng.integers(0, 256, (count, 3, 8, 12), np.uint8).repeat(8, axis=2).repeat(8, axis=3)


def test_onnx_runtime_answers_as_pytorch(small: OneDetector) -> None:
    image = pictures(1)
    found = small.onnxruntime("raw", image)
    with torch.no_grad():
        expected = small.detector(torch.from_numpy(image))
    assert float(expected.class_logits.std()) > 0.3  # worth comparing
    for meaning, right in zip(("class_logits", "box_deltas"), expected[:2], strict=True):
        np.testing.assert_allclose(found[meaning], right.numpy(), atol=1e-4)


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
    """In integers wherever a sigmoid or another activation stands between two convolutions, with the same scales."""
    pytest.importorskip("ai_edge_litert")
    images = pictures(6)
    calibration = calibrate(small.raw, [image[None] for image in images], method="minmax")
    model = quantize(small.raw, calibration, activation_type="int8")
    integer, total = count_convolutions(model)
    assert integer == total
    found = small.litert_of(model, "raw", images[:1], "int8")
    expected = OnnxBackend(model.SerializeToString(), threads=1).run(images[:1])
    float_answer = small.onnxruntime("raw", images[:1])
    for meaning, right in expected.items():
        assert np.abs(found[meaning] - right).mean() < 0.02 * right.std()  # rounding falls otherwise here and there
        assert np.abs(right - float_answer[meaning]).mean() < 0.15 * right.std()
