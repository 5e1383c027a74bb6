"""A training loop of one's own hears in its first steps of pictures, boxes and labels of another form."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ssdlite import build_detector, build_loss
from ssdlite.errors import ConfigError, DataError
from ssdlite.heads.assigners import TaskAlignedAssigner
from ssdlite.heads.base import Outputs
from ssdlite.heads.losses import BOX_LOSSES, LOSSES, MultiBoxLoss, QualityFocalLoss

BOXES = [[10.0, 20, 40, 60], [50, 10, 90, 30]]


@pytest.fixture(scope="module")
def detector() -> Any:
    return build_detector("ssdlite192_mobilenet_v2_050", num_classes=3, width_mult=0.25, image_size=96)


def one_step(detector: Any, loss: Any, boxes: Any, labels: Any) -> Tensor:
    criterion = loss(detector.anchors, detector.head.box_code) if isinstance(loss, type) else loss
    outputs = Outputs(torch.zeros(1, len(detector.anchors), 4), torch.zeros(1, len(detector.anchors), 4))
    total: Tensor = criterion(outputs, torch.tensor([boxes]), torch.tensor([labels])).total
    return total


@pytest.mark.parametrize(("boxes", "labels", "message"), [
    (BOXES, [1, 3], r"^labels: expected 0 to 2 for 3 classes, got 3; torchvision's count from 1: subtract 1 \("),
    (BOXES, [0, 5], r"^labels: expected 0 to 2 for 3 classes, got 5 \("),
    (BOXES, [0, -3], "^labels: expected 0 to 2 for 3 classes, -1 for padding or -2 for an ignored region, got -3"),
    ([[10.0, 20, 30, 40], [50, 10, 40, 20]], [0, 1], r"x1, y1, x2, y2 in input pixels, got \(50, 10, 40, 20\); are th"),
    ([[10.0, 20, float("nan"), 40], BOXES[0]], [0, 1], r"in input pixels, got \(10, 20, nan, 40\)"),
    ([[0.1, 0.2, 0.4, 0.6], [0.5, 0.1, 1.0, 0.3]], [0, 1], "got none beyond 1: multiply fractions by the input's"),
])  # fmt: skip
@pytest.mark.parametrize("loss", LOSSES.values())
def test_targets_of_another_form_are_one_error(detector: Any, loss: Any, boxes: Any, labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        one_step(detector, loss, boxes, labels)


@pytest.mark.parametrize(("boxes", "labels", "found"), [
    ([torch.tensor(BOXES)], [torch.tensor([0, 1])], "got list and list"),
    (torch.tensor(BOXES), torch.tensor([0, 1, 1]), r"got \[2, 4\] and \[3\]"),
])  # fmt: skip
def test_targets_of_another_shape_are_one_error(detector: Any, boxes: Any, labels: Any, found: str) -> None:
    outputs = Outputs(torch.zeros(1, len(detector.anchors), 4), torch.zeros(1, len(detector.anchors), 4))
    with pytest.raises(DataError, match=rf"^targets: expected boxes \[B, M, 4\] and labels \[B, M\].*{found}$"):
        build_loss(detector)(outputs, boxes, labels)


def test_the_loss_is_the_one_that_the_head_asks_for(detector: Any) -> None:
    litepan = build_detector("litepan320_small", num_classes=3, width_mult=0.25, image_size=96)
    assert isinstance(build_loss(detector), MultiBoxLoss)
    loss = build_loss(litepan)
    assert isinstance(loss, QualityFocalLoss) and isinstance(loss.matcher, TaskAlignedAssigner)
    assert loss.box_loss is BOX_LOSSES["giou"] and loss.box_weight == 2
    with pytest.raises(ConfigError, match=r"^loss multibox: it trains scores by softmax, those of the detector"):
        build_loss(litepan, loss="multibox")


@pytest.mark.parametrize("loss", LOSSES.values())
def test_sound_targets_pass_and_only_the_first_steps_are_checked(detector: Any, loss: Any) -> None:
    criterion = loss(detector.anchors, detector.head.box_code)
    for labels in ([0, 2], [1, -2], [-1, -1]):
        assert bool(torch.isfinite(one_step(detector, criterion, BOXES, labels)))
    assert bool(torch.isfinite(one_step(detector, criterion, [BOXES[0], [0.0, 0, 0, 0]], [2, -1])))
    for _ in range(16):
        one_step(detector, criterion, BOXES, [0, 2])
    assert criterion.checked_steps == 0
    inverted = [BOXES[1], [50.0, 10, 40, 20]]
    one_step(detector, criterion, inverted, [0, 1])
    criterion.checked_steps = 1
    with pytest.raises(DataError, match="are they x, y, width, height"):
        one_step(detector, criterion, inverted, [0, 1])


@pytest.mark.parametrize(("low", "high", "message"), [
    (0.0, 1.0, r"^images: expected RGB values in 0\.\.255, uint8 or float, got 0 to 1; multiply by 255 \("),
    (-2.0, 2.5, "got -2 to 2.5; the detector normalizes them itself"),
    (0.0, 65535.0, r"got 0 to 6.55e\+04 \("),
    (0.0, float("nan"), "got nan to nan"),
])  # fmt: skip
def test_pictures_of_another_range_are_one_error(detector: Any, low: float, high: float, message: str) -> None:
    images = torch.linspace(0, 1, 2 * 3 * 96 * 96).view(2, 3, 96, 96) * (high - low) + low
    with pytest.raises(DataError, match=message):
        detector.train()(images)
    detector.eval()(images)  # scores whatever it is given, as it always did


def test_sound_pictures_pass_and_the_check_can_be_left_out() -> None:
    detector = build_detector("ssdlite192_mobilenet_v2_050", num_classes=3, width_mult=0.25, image_size=96).train()
    gray = torch.linspace(0, 255, 2 * 3 * 96 * 96).view(2, 3, 96, 96)
    for images in (gray, gray.to(torch.uint8), torch.zeros(2, 3, 96, 96), (gray > 99).float()):
        detector(images)
    assert detector.checked_steps == 17  # bytes need none
    detector.checked_steps = 0
    detector(gray / 255)
