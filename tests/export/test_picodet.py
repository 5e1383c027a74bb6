"""LCNet, LC-PAN and the aligned head, what PicoDet is made of, in every runtime and in integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ssdlite
from ssdlite.config import HeadConfig, NeckConfig
from ssdlite.export.int8.calibration import calibrate
from ssdlite.export.int8.quantize import count_convolutions, quantize
from ssdlite.runtime.backends.onnxruntime import OnnxBackend
from ssdlite.runtime.contract import Variant
from tests.export.detectors import lively
from tests.export.runtimes import RUNTIMES, OneDetector
from tests.made_once import Trace

PARTS = {
    "backbone": "lcnet",
    "neck": NeckConfig(name="pan", channels=(96,), kernel_size=5, joint="separable_pair"),
    "head": HeadConfig(name="aligned_distances", score_function="sigmoid", depth=1, kernel_size=5, bins=8),
    "activation": "hardswish",
    "norm_eps": 1e-5,
}


@pytest.fixture(scope="module")
def narrow(trace: Trace, tmp_path_factory: pytest.TempPathFactory) -> OneDetector:
    """Of a side that the strides do not divide."""
    torch.manual_seed(0)
    options = {"num_classes": 3, "width_mult": 0.25, "image_size": (72, 96)}
    detector = lively(ssdlite.build_detector("litepan320_medium", **options, **PARTS))
    return OneDetector(detector, trace, tmp_path_factory.mktemp("narrow"))


def pictures(count: int) -> np.ndarray:
    """Coarse coloured blocks [B, 3, H, W]."""
    rng = np.random.default_rng(5)
    return rng.integers(0, 256, (count, 3, 9, 12), np.uint8).repeat(8, axis=2).repeat(8, axis=3)


def test_onnx_runtime_answers_as_pytorch(narrow: OneDetector) -> None:
    image = pictures(1)
    found = narrow.onnxruntime("raw", image)
    with torch.no_grad():
        expected = narrow.detector(torch.from_numpy(image))
    assert float(expected.class_logits.std()) > 0.3  # worth comparing
    np.testing.assert_allclose(found["class_logits"], expected.class_logits.numpy(), atol=1e-4)
    np.testing.assert_allclose(found["box_deltas"], expected.box_deltas.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("runtime", "variant"), [(name, variant) for name, (_, variants) in RUNTIMES.items() for variant in variants]
)
def test_runtimes_answer_as_onnx_runtime(narrow: OneDetector, runtime: str, variant: Variant) -> None:
    pytest.importorskip(RUNTIMES[runtime][0])
    image = pictures(1)
    found, expected = narrow.answers(runtime, variant, image), narrow.onnxruntime(variant, image)
    assert found.keys() == expected.keys()
    for meaning, right in expected.items():
        assert np.abs(found[meaning] - right).max() < 1e-4


def test_integers_of_onnx_runtime_and_litert_agree(narrow: OneDetector) -> None:
    """All convolutions are in integers; what makes one score of two logits stays in floats."""
    pytest.importorskip("ai_edge_litert")
    images = pictures(6)
    calibration = calibrate(narrow.raw, [image[None] for image in images], method="minmax")
    model = quantize(narrow.raw, calibration, activation_type="int8")
    integer, total = count_convolutions(model)
    assert integer == total
    found = narrow.litert_of(model, "raw", images[:1], "int8")
    expected = OnnxBackend(model.SerializeToString(), threads=1).run(images[:1])
    float_answer = narrow.onnxruntime("raw", images[:1])
    for meaning, right in expected.items():
        assert np.abs(found[meaning] - right).mean() < 0.04 * right.std()  # rounding falls otherwise here and there
        assert np.abs(right - float_answer[meaning]).mean() < 0.15 * right.std()
