"""Exported graphs against PyTorch, for every preset, on pictures that they were not traced with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

import ssdlite
from ssdlite.boxes import decode_boxes
from ssdlite.config import override
from ssdlite.detector import Detector
from ssdlite.export.graphs import GraphOptions
from ssdlite.export.onnx_export import export_onnx
from ssdlite.presets import PRESETS

Arrays = dict[str, npt.NDArray[Any]]
SMALL = {"preset": "ssdlite192_mobilenet_v2_050", "num_classes": 3, "width_mult": 0.25, "image_size": 96}


def responsive(**options: Any) -> Detector:
    """A random detector that sees next to nothing in grey, and more the more contrast there is.

    Its norms have the variances of noise pictures and no means. Boxes stay near their anchors: random ones overlap
    so much that rounding alone decides which of them survive.
    """
    torch.manual_seed(1)
    detector = ssdlite.build_detector(**options)
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain average over the pictures below
    with torch.no_grad():
        detector.train()(torch.stack([noise(detector, contrast=1.0, seed=i) for i in range(4)]))
        for norm in norms:
            norm.running_mean.zero_()  # type: ignore[union-attr]
        for part in detector.head.regression:
            part[-1].weight *= 0.1  # type: ignore[index, operator]
        for part in detector.head.classification:
            part[-1].bias[:: detector.config.num_classes + 1] = 3.0  # type: ignore[index]
    return detector.eval()


def noise(detector: Detector, *, contrast: float, seed: int, patch: float = 1.0) -> Tensor:
    """uint8 [3, H, W]: grey, with noise of blocks in the middle ``patch`` of it."""
    height, width = detector.config.image_size
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.rand(1, 3, height // 8, width // 8, generator=generator)
    values = nn.functional.interpolate(blocks, (height, width), mode="bilinear")[0]
    picture = torch.full((3, height, width), 127.5)
    rows, columns = (slice(int(side * (1 - patch) / 2), int(side * (1 + patch) / 2)) for side in (height, width))
    picture[:, rows, columns] += 255 * contrast * (values[:, rows, columns] - 0.5)
    return picture.round().to(torch.uint8)


def run(model: onnx.ModelProto, images: Tensor) -> Arrays:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images.numpy()}), strict=True))


def largest_difference(found: npt.NDArray[Any], expected: Tensor) -> float:
    assert found.shape == tuple(expected.shape)
    return float(np.abs(found - expected.numpy()).max())


def assert_same_detections(found: Arrays, detector: Detector, images: Tensor) -> list[int]:
    """Every detection of PyTorch is there: same class, IoU above 0.99, score within 1e-3, and no other -> counts."""
    expected = detector.detect(images)
    assert found["count"].tolist() == expected.counts.tolist()
    height, width = detector.config.image_size
    for i, count in enumerate(found["count"].tolist()):
        boxes = torch.from_numpy(found["boxes"][i]) * torch.tensor([width, height, width, height])
        same = box_iou(boxes[:count], expected.boxes[i, :count]) > 0.99
        same &= torch.from_numpy(found["labels"][i, :count])[:, None] == expected.labels[i, :count]
        same &= (torch.from_numpy(found["scores"][i, :count])[:, None] - expected.scores[i, :count]).abs() < 1e-3
        assert same.any(dim=0).all() and same.any(dim=1).all()
        assert (found["labels"][i, count:] == -1).all() and not found["scores"][i, count:].any()
        assert not found["boxes"][i, count:].any()
    return [int(count) for count in found["count"]]


@pytest.fixture(scope="module", params=PRESETS)
def preset_detector(request: pytest.FixtureRequest) -> Iterator[Detector]:
    yield responsive(preset=request.param, num_classes=5)


@torch.no_grad()
def test_raw_and_decoded_outputs_of_every_preset_are_pytorchs(preset_detector: Detector) -> None:
    detector = preset_detector
    picture = noise(detector, contrast=0.2, seed=10)[None]
    outputs = detector(picture)

    raw = run(export_onnx(detector, GraphOptions(variant="raw")), picture)
    assert largest_difference(raw["class_logits"], outputs.class_logits) < 1e-4
    assert largest_difference(raw["box_deltas"], outputs.box_deltas) < 1e-4

    decoded = run(export_onnx(detector, GraphOptions(variant="decoded")), picture)
    height, width = detector.config.image_size
    scales = torch.tensor(detector.config.box_code_scales)
    boxes = decode_boxes(outputs.box_deltas, detector.anchors, scales) / torch.tensor([width, height, width, height])
    assert largest_difference(decoded["scores"], outputs.class_logits.softmax(-1)[..., 1:]) < 1e-4
    assert largest_difference(decoded["boxes"], boxes.clamp(0, 1)) < 1e-4


def test_nms_of_every_preset_gives_pytorchs_none_one_and_hundreds_of_objects(preset_detector: Detector) -> None:
    detector = preset_detector
    nothing = noise(detector, contrast=0.0, seed=0)[None]
    one = noise(detector, contrast=0.02, seed=11, patch=0.4)[None]
    many = noise(detector, contrast=1.0, seed=12)[None]
    best, second = detector.detect(one).scores[0, :2].tolist()
    assert best > second
    detector.config = override(detector.config, score_threshold=(best + second) / 2)

    model = export_onnx(detector, GraphOptions(variant="nms"))

    assert assert_same_detections(run(model, nothing), detector, nothing) == [0]
    assert assert_same_detections(run(model, one), detector, one) == [1]
    assert assert_same_detections(run(model, many), detector, many)[0] >= 150
