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
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.ops import box_iou

import ssdlite
from ssdlite.anchors import torchvision_anchors
from ssdlite.backbones.batch_norm import fold_batch_norms
from ssdlite.config import PRESETS, override
from ssdlite.detector import Detector
from ssdlite.errors import ExportError
from ssdlite.export.onnx import export_onnx, opset_of
from ssdlite.export.options import GraphOptions
from ssdlite.weights import ImportOptions
from ssdlite.weights.pytorch.ssd import read_torchvision_ssd

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
    height, width = detector.config.input.size
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
    assert found["count"].tolist() == list(map(len, expected))
    height, width = detector.config.input.size
    for i, (count, own) in enumerate(zip(found["count"].tolist(), expected, strict=True)):
        boxes = torch.from_numpy(found["boxes"][i]) * torch.tensor([width, height, width, height])
        same = box_iou(boxes[:count], torch.from_numpy(own.boxes)).numpy() > 0.99
        same &= found["labels"][i, :count, None] == own.labels
        same &= np.abs(found["scores"][i, :count, None] - own.scores) < 1e-3
        assert same.any(axis=0).all() and same.any(axis=1).all()
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
    height, width = detector.config.input.size
    boxes = detector.head.box_code.decode(outputs.box_deltas, detector.anchors) / torch.tensor(
        [width, height, width, height]
    )
    assert largest_difference(decoded["scores"], outputs.class_logits.softmax(-1)[..., 1:]) < 1e-4
    assert largest_difference(decoded["boxes"], boxes.clamp(0, 1)) < 1e-4


def test_nms_of_every_preset_gives_pytorchs_none_one_and_hundreds_of_objects(preset_detector: Detector) -> None:
    detector = preset_detector
    nothing = noise(detector, contrast=0.0, seed=0)[None]
    one = noise(detector, contrast=0.02, seed=11, patch=0.4)[None]
    many = noise(detector, contrast=1.0, seed=12)[None]
    best, second = detector.detect(one)[0].scores[:2].tolist()
    assert best > second
    detector.config = override(detector.config, score_threshold=(best + second) / 2)

    model = export_onnx(detector, GraphOptions(variant="nms"))

    assert assert_same_detections(run(model, nothing), detector, nothing) == [0]
    assert assert_same_detections(run(model, one), detector, one) == [1]
    assert assert_same_detections(run(model, many), detector, many)[0] >= 150


OF_OTHER_PROJECTS: dict[str, dict[str, Any]] = {
    "linear": {
        "extra_channels": (64, 64, 64, 32),
        "extra_hidden": (128, 64, 64, 32),
        "extra_output": "linear",
        "last_head_conv": "pointwise",
    },
    "plain": {"activation": "relu", "head_conv": "plain", "extra_conv": "plain"},
}


@pytest.mark.parametrize("layout", OF_OTHER_PROJECTS)
@torch.no_grad()
def test_what_other_projects_layouts_need_is_exported(layout: str) -> None:
    """Every option that an importer may set; anchors whose steps do not divide the input."""
    anchors = torchvision_anchors().changed(steps=(16.0, 30.0, 50.0, 50.0, 100.0, 100.0))
    detector = responsive(num_classes=3, width_mult=0.25, image_size=100, anchors=anchors, **OF_OTHER_PROJECTS[layout])
    picture = noise(detector, contrast=0.2, seed=10)[None]
    outputs = detector(picture)
    boxes = detector.head.box_code.decode(outputs.box_deltas, detector.anchors) / 100
    decoded = run(export_onnx(detector, GraphOptions(variant="decoded")), picture)
    assert largest_difference(decoded["scores"], outputs.class_logits.softmax(-1)[..., 1:]) < 1e-4
    assert largest_difference(decoded["boxes"], boxes.clamp(0, 1)) < 1e-4


@torch.no_grad()
def test_v3_with_torchvisions_weights_exports_to_torchvisions_detections() -> None:
    """91 slots, its thresholds (ours are the same), and an untrained network: 27,000 candidates."""
    torch.manual_seed(0)
    theirs = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91)
    norms = [module for module in theirs.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # the statistics of what reaches it; with initial ones all scores are the same
    theirs.train().head(list(theirs.backbone(torch.rand(4, 3, 320, 320) * 2 - 1).values()))
    theirs.eval()
    ours = read_torchvision_ssd(theirs.state_dict(), "torchvision's model", ImportOptions()).checkpoint.build_detector()
    picture = torch.randint(0, 256, (1, 3, 320, 320), generator=torch.Generator().manual_seed(1)).to(torch.uint8)

    (expected,) = theirs([picture[0].float() / 255])
    found = run(export_onnx(ours, GraphOptions(variant="nms")), picture)

    assert found["count"].tolist() == [300] == [len(expected["scores"])]
    same = box_iou(torch.from_numpy(found["boxes"][0]) * 320, expected["boxes"]) > 0.99
    same &= torch.from_numpy(found["labels"][0])[:, None] == expected["labels"] - 1
    same &= (torch.from_numpy(found["scores"][0])[:, None] - expected["scores"]).abs() < 1e-3
    assert same.any(dim=0).all() and same.any(dim=1).all()


@pytest.mark.parametrize(("variant", "opset"), [("raw", 13), ("nms", 16)])
def test_the_lowest_opset_and_a_higher_one_that_is_asked_for(variant: Any, opset: int) -> None:
    detector = ssdlite.build_detector(**SMALL)
    lowest = export_onnx(detector, GraphOptions(variant=variant))
    assert opset_of(lowest) == opset
    assert lowest.ir_version == {13: 7, 16: 8}[opset]
    assert {"TopK", "NonMaxSuppression"} & {node.op_type for node in lowest.graph.node} == (
        {"TopK", "NonMaxSuppression"} if variant == "nms" else set()
    )
    if variant == "raw":
        higher = export_onnx(detector, GraphOptions(variant=variant, opset=20))
        assert (opset_of(higher), higher.ir_version) == (20, 9)
        with pytest.raises(ExportError, match="opset: expected 13 to 23, got 24"):
            export_onnx(detector, GraphOptions(variant=variant, opset=24))


def test_nothing_of_the_machine_is_left_in_the_file() -> None:
    model = export_onnx(ssdlite.build_detector(**SMALL), GraphOptions(variant="decoded"))
    assert opset_of(model) == 13
    content = model.SerializeToString()
    assert b"ssdlite/detector" not in content and b"stack_trace" not in content and b".py" not in content
    names = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert names[0] == "backbone.features.0.0.Conv" and len(set(names)) == len(names)


def test_same_padding_is_inside_the_convolutions() -> None:
    detector = ssdlite.build_detector("ssd300_mobilenet_v2", num_classes=2, width_mult=0.25, image_size=96)
    model = export_onnx(detector, GraphOptions(variant="decoded"))
    assert "Pad" not in {node.op_type for node in model.graph.node}
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    assert next(list(item.ints) for item in first.attribute if item.name == "pads") == [0, 0, 1, 1]


@torch.no_grad()
def test_folding_keeps_the_function_and_leaves_the_original_alone() -> None:
    detector = responsive(**SMALL)
    picture = noise(detector, contrast=0.2, seed=1)[None]
    before = detector(picture)
    folded = fold_batch_norms(detector)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert sum(isinstance(module, nn.BatchNorm2d) for module in detector.modules()) == 66
    torch.testing.assert_close(folded(picture).class_logits, before.class_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(detector(picture).class_logits, before.class_logits, rtol=0, atol=0)
