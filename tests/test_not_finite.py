"""Weights that are no numbers are named, wherever a detector is asked, exported or saved; NaN becomes no detection."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import ssdlite
from ssdlite.checkpoint import Checkpoint, save_checkpoint
from ssdlite.detector import Detector
from ssdlite.errors import CheckpointError
from ssdlite.export.onnx import export_onnx
from ssdlite.export.options import GraphOptions
from ssdlite.heads.base import Outputs

PICTURE = np.full((20, 30, 3), 100, np.uint8)
DEPTHWISE = {  # a weight behind whose activation NaN would be a number in quick kernels
    "ssdlite320_mobilenet_v1": "backbone.features.3.depthwise.0.weight",
    "ssdlite320_mobilenet_v2": "backbone.features.3.conv.1.0.weight",
    "ssdlite320_mobilenet_v3_large": "backbone.features.3.block.1.0.weight",
}
USES: dict[str, Callable[[Detector, Path], object]] = {
    "predict": lambda detector, folder: detector.predict(PICTURE),
    "Predictor": lambda detector, folder: ssdlite.Predictor(detector),
    "export": lambda detector, folder: export_onnx(detector, GraphOptions(variant="raw")),
    "save": lambda detector, folder: save_checkpoint(
        Checkpoint(detector.config, detector.state_dict()), folder / "a.pt"
    ),
}


def build(preset: str) -> Detector:
    torch.manual_seed(0)
    return ssdlite.build_detector(preset, num_classes=2, width_mult=0.25, image_size=64).eval()


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("preset", DEPTHWISE)
def test_a_weight_that_is_no_number_is_named(preset: str, use: str, tmp_path: Path) -> None:
    detector = build(preset)
    weight = detector.state_dict()[DEPTHWISE[preset]]
    weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(CheckpointError) as caught:
        USES[use](detector, tmp_path)
    assert f"NaN or infinity in 1 of {weight.numel()} values of {DEPTHWISE[preset]}" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_statistics_count_too_and_so_does_infinity() -> None:
    detector = build("ssdlite320_mobilenet_v2")
    detector.backbone.features[0][1].running_mean.fill_(float("inf"))
    detector.backbone.features[0][0].weight.data.fill_(float("nan"))
    with pytest.raises(CheckpointError, match=r"values of backbone\.features\.0\.0\.weight, and in 1 more$"):
        ssdlite.Predictor(detector)


def test_outputs_that_overflow_are_no_detections() -> None:
    detector = build("ssdlite320_mobilenet_v2")
    detector.head.register_forward_hook(
        lambda module, maps, outputs: Outputs(outputs.class_logits * float("inf"), outputs.box_deltas)
    )
    with pytest.raises(CheckpointError, match="weights are finite, but its outputs are not: too large for float32"):
        detector.predict(PICTURE)


@pytest.mark.parametrize("which", ["class_logits", "box_deltas"])
def test_outputs_of_a_snapshot_that_overflow_are_no_detections(which: str) -> None:
    predictor = ssdlite.Predictor(build("ssdlite320_mobilenet_v2"))
    outputs = predictor.infer_batch(np.full((1, 3, 64, 64), 100, np.uint8))
    outputs = outputs._replace(**{which: torch.full_like(getattr(outputs, which), float("nan"))})
    with pytest.raises(CheckpointError, match="weights are finite, but its outputs are not: too large for float32"):
        predictor.postprocess(outputs)


def test_large_weights_that_are_finite_are_used() -> None:
    """Their sum overflows, they do not."""
    detector = build("ssdlite320_mobilenet_v2")
    detector.head.regression[0][-1].bias.data.fill_(3e38)
    assert len(detector.predict(PICTURE)) == 1
