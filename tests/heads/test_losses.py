"""The losses: numbers worked out by hand, torchvision's SSD.compute_loss, and the focal loss written as a loop."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.ssd import SSD

from ssdlite.anchors import generate_anchors
from ssdlite.config import PRESETS
from ssdlite.heads.assigners import MaxIoUAssigner
from ssdlite.heads.base import IGNORE_LABEL, PADDING_LABEL, Outputs
from ssdlite.heads.boxes import CenterSizeCode
from ssdlite.heads.losses import BOX_LOSSES, FocalLoss, Losses, MultiBoxLoss, QualityFocalLoss

CODE = CenterSizeCode()
LOG = math.log

# Six anchors of 10 x 10 in a row, far apart.
ANCHORS = torch.tensor([[x, 0.0, x + 10, 10.0] for x in (0, 20, 40, 60, 80, 100)])
BOX = [[1.0, 0, 11, 10]]  # IoU 90/110 with the first anchor; its code is (10 * 0.1, 0, 0, 0)
# (background, object): the object's probability is 3/4 in anchor 0; the background's 1/2, 1/4, 1/8, 2/3, 9/10 elsewhere
LOGITS = [[0, LOG(3)], [0, 0], [0, LOG(3)], [0, LOG(7)], [0, LOG(0.5)], [LOG(9), 0]]


def one_image(boxes, labels, *, loss=None, logits=LOGITS, deltas=None) -> Losses:
    criterion = loss or MultiBoxLoss(ANCHORS, CODE)
    outputs = Outputs(torch.tensor([logits]), torch.zeros(1, 6, 4) if deltas is None else deltas)
    return criterion(outputs, torch.tensor(boxes).view(1, -1, 4), torch.tensor(labels, dtype=torch.int64).view(1, -1))


def random_case(images: int, slots: int, seed: int, *, preset: str = "ssdlite320_mobilenet_v2"):
    """Anchors, outputs and padded targets; every image has at least one object."""
    config = PRESETS[preset]
    anchors = torch.from_numpy(generate_anchors(config.anchors, config.input.size, config.grid_sizes))
    random = np.random.default_rng(seed)
    boxes = np.zeros((images, 10, 4), np.float32)
    labels = np.full((images, 10), PADDING_LABEL)
    for i in range(images):
        count = int(random.integers(1, 11))
        sides = np.exp(random.uniform(np.log(12), np.log(300), (count, 2)))
        centres = random.uniform(10, 310, (count, 2))
        boxes[i, :count] = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1).clip(0, 320)
        labels[i, :count] = random.integers(0, slots - 1, count)
    generator = torch.Generator().manual_seed(seed)
    outputs = Outputs(
        torch.randn(images, len(anchors), slots, generator=generator) * 2,
        torch.randn(images, len(anchors), 4, generator=generator),
    )
    return anchors, outputs, torch.from_numpy(boxes), torch.from_numpy(labels)


# -- multibox --------------------------------------------------------------------------------------------------------


def test_multibox_loss_by_hand():
    deltas = torch.zeros(1, 6, 4)
    deltas[0, 0] = torch.tensor([1.5, 0.0, 0.0, 2.0])  # off by 0.5 and by 2: 0.5 * 0.5^2 + (2 - 0.5) = 1.625
    deltas[0, 1:] = 9.0  # of no interest
    losses = one_image(BOX, [0], deltas=deltas)
    # matched: ln 4/3; the three hardest of the others: ln 8 + ln 4 + ln 2; one match
    assert losses.classification.item() == pytest.approx(LOG(4 / 3) + LOG(64))
    assert losses.box.item() == pytest.approx(1.625)
    assert losses.total.item() == pytest.approx(LOG(4 / 3) + LOG(64) + 1.625)


def test_box_loss_has_a_weight():
    losses = one_image(BOX, [0], loss=MultiBoxLoss(ANCHORS, CODE, box_weight=4.0))
    assert losses.box.item() == pytest.approx(0.5)  # off by 1
    assert losses.total.item() == pytest.approx(LOG(4 / 3) + LOG(64) + 4 * 0.5)


def test_two_matches_take_six_negatives_and_divide_by_two():
    losses = one_image([*BOX, [20, 0, 30, 10]], [0, 0])
    # matched: ln 4/3 and ln 2; all four others: ln 4, ln 8, ln 3/2, ln 10/9
    expected = LOG(4 / 3) + LOG(2) + LOG(4) + LOG(8) + LOG(3 / 2) + LOG(10 / 9)
    assert losses.classification.item() == pytest.approx(expected / 2)
    assert losses.box.item() == pytest.approx(0.5 / 2)


def test_ignored_anchors_are_no_negatives():
    losses = one_image([*BOX, [60, 0, 70, 10]], [0, IGNORE_LABEL])
    assert losses.classification.item() == pytest.approx(LOG(4 / 3) + LOG(4) + LOG(2) + LOG(3 / 2))
    assert losses.box.item() == pytest.approx(0.5)


def test_padding_changes_nothing():
    padded = one_image([*BOX, [0, 0, 0, 0], [20, 0, 30, 10]], [0, PADDING_LABEL, PADDING_LABEL])
    assert padded == one_image(BOX, [0])


def test_an_image_without_objects_still_teaches_background():
    losses = one_image([], [])
    assert losses.classification.item() == pytest.approx(LOG(8) + LOG(4) + LOG(4))  # the hardest three of all six
    assert losses.box.item() == 0
    assert one_image([[0, 0, 0, 0]], [PADDING_LABEL]) == losses


def test_an_image_of_nothing_but_ignored_regions():
    losses = one_image([[0, 0, 70, 10]], [IGNORE_LABEL])
    assert losses.classification.item() == pytest.approx(LOG(3 / 2) + LOG(10 / 9))  # two anchors are left
    everywhere = one_image([[0, 0, 200, 200]], [IGNORE_LABEL])
    assert [loss.item() for loss in everywhere] == [0, 0, 0, 0]


def test_a_batch_divides_by_its_number_of_matches():
    """Image 0 has one match, image 1 two, image 2 none (counted as one): every sum is divided by 4."""
    outputs = Outputs(torch.tensor([LOGITS] * 3), torch.zeros(3, 6, 4))
    boxes = torch.zeros(3, 2, 4)
    boxes[0, 0] = boxes[1, 0] = torch.tensor(BOX[0])
    boxes[1, 1] = torch.tensor([20.0, 0, 30, 10])
    labels = torch.tensor([[0, -1], [0, 0], [-1, -1]])
    losses = MultiBoxLoss(ANCHORS, CODE)(outputs, boxes, labels)
    first, second = LOG(4 / 3) + LOG(64), LOG(4 / 3) + LOG(2) + LOG(4) + LOG(8) + LOG(3 / 2) + LOG(10 / 9)
    assert losses.classification.item() == pytest.approx((first + second + LOG(128)) / 4)
    assert losses.box.item() == pytest.approx((0.5 + 0.5) / 4)


def test_an_all_empty_batch_has_a_finite_loss_that_teaches_background():
    logits = torch.tensor([LOGITS, LOGITS], requires_grad=True)
    deltas = torch.zeros(2, 6, 4, requires_grad=True)
    losses = MultiBoxLoss(ANCHORS, CODE)(
        Outputs(logits, deltas), torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64)
    )
    assert losses.total.item() == pytest.approx(LOG(128))
    losses.total.backward()
    mined = torch.tensor([True, False, True, True, False, False])  # background probabilities 1/4, 1/4 and 1/8
    assert (logits.grad[:, mined, 0] < 0).all()
    assert (logits.grad[:, mined, 1] > 0).all()
    assert (logits.grad[:, ~mined] == 0).all()
    assert (deltas.grad == 0).all()


@pytest.mark.parametrize("slots", [2, 21, 91])
@pytest.mark.parametrize("preset", ["ssdlite320_mobilenet_v2", "ssdlite320_mobilenet_v3_large"])
def test_multibox_loss_is_torchvisions(slots, preset):
    anchors, outputs, boxes, labels = random_case(images=8, slots=slots, seed=slots, preset=preset)
    losses = MultiBoxLoss(anchors, CODE)(outputs, boxes, labels)
    theirs = torchvision_losses(anchors, outputs, boxes, labels)
    torch.testing.assert_close(losses.classification, theirs["classification"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses.box, theirs["bbox_regression"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses.total, sum(theirs.values()), rtol=1e-5, atol=1e-5)


def test_multibox_gradients_are_torchvisions():
    anchors, outputs, boxes, labels = random_case(images=3, slots=6, seed=5)
    gradients = []
    for compute in (
        lambda out: MultiBoxLoss(anchors, CODE)(out, boxes, labels).total,
        lambda out: sum(torchvision_losses(anchors, out, boxes, labels).values()),
    ):
        leaves = Outputs(*(tensor.clone().requires_grad_() for tensor in outputs[:2]))
        compute(leaves).backward()
        gradients.append((leaves.class_logits.grad, leaves.box_deltas.grad))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def torchvision_losses(anchors: Tensor, outputs: Outputs, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """torchvision's own matcher and loss; its labels count from 1."""
    stand_in = SimpleNamespace(box_coder=BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)), neg_to_pos_ratio=3.0)
    targets, matches = [], []
    for image_boxes, image_labels in zip(boxes, labels, strict=True):
        real = image_labels >= 0
        targets.append({"boxes": image_boxes[real], "labels": image_labels[real] + 1})
        matches.append(SSDMatcher(0.5)(torchvision.ops.box_iou(image_boxes[real], anchors)))
    heads = {"cls_logits": outputs.class_logits, "bbox_regression": outputs.box_deltas}
    return SSD.compute_loss(stand_in, targets, heads, [anchors] * len(boxes), matches)


# -- focal -----------------------------------------------------------------------------------------------------------


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_focal_loss_by_hand():
    """One class: matched, -alpha (1 - p)^2 ln p with p = 3/4; others, -(1 - alpha) p^2 ln(1 - p)."""
    losses = one_image(BOX, [0], loss=FocalLoss(ANCHORS, CODE))
    expected = 0.75 * (1 / 4) ** 2 * LOG(4 / 3)
    for logit in (0, LOG(3), LOG(7), LOG(0.5), 0):  # the background's own logit, LOG(9) in the last, takes no part
        p = sigmoid(logit)
        expected += 0.25 * p**2 * -LOG(1 - p)
    assert losses.classification.item() == pytest.approx(expected)
    assert losses.box.item() == pytest.approx(0.5)
    assert losses.total.item() == pytest.approx(expected + 0.25 * 0.5)


def test_focal_loss_is_torchvisions_sigmoid_focal_loss():
    anchors, outputs, boxes, labels = random_case(images=3, slots=6, seed=2)
    labels[0, 0] = IGNORE_LABEL
    criterion = FocalLoss(anchors, CODE, alpha=0.6, gamma=1.5, box_weight=0.7)
    losses = criterion(outputs, boxes, labels)
    matches = MaxIoUAssigner()(anchors, boxes, labels)
    total, count = 0.0, 0
    for i in range(3):
        positive = matches[i] >= 0
        wanted = torch.zeros(len(anchors), 5)
        wanted[positive, labels[i][matches[i][positive]]] = 1.0
        used = matches[i] != -2
        total += torchvision.ops.sigmoid_focal_loss(
            outputs.class_logits[i, used, 1:], wanted[used], alpha=0.6, gamma=1.5, reduction="sum"
        )
        count += max(int(positive.sum()), 1)
    assert not (matches != -2).all()
    torch.testing.assert_close(losses.classification, total / count, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses.total, losses.classification + 0.7 * losses.box)


def test_focal_loss_of_an_all_empty_batch_lowers_every_class():
    logits = torch.tensor([LOGITS], requires_grad=True)
    empty = torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64)
    losses = FocalLoss(ANCHORS, CODE)(Outputs(logits, torch.zeros(1, 6, 4)), *empty)
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert (logits.grad[..., 1] > 0).all()
    assert (logits.grad[..., 0] == 0).all()


# -- quality focal and overlap losses --------------------------------------------------------------------------------


def test_quality_focal_loss_by_hand():
    """-(y ln p + (1 - y) ln(1 - p)) (y - p)^2; the match's target y is the overlap of its predicted box, 90/110."""
    losses = one_image(BOX, [0], loss=QualityFocalLoss(ANCHORS, CODE))
    expected = 0.0
    for logit, y in zip((LOG(3), 0, LOG(3), LOG(7), LOG(0.5), 0), (9 / 11, 0, 0, 0, 0, 0), strict=True):
        p = sigmoid(logit)
        expected -= (y * LOG(p) + (1 - y) * LOG(1 - p)) * (y - p) ** 2
    assert losses.classification.item() == pytest.approx(expected)


def test_quality_focal_loss_sends_no_gradient_through_the_overlap():
    deltas = torch.zeros(1, 6, 4, requires_grad=True)
    losses = one_image(BOX, [0], loss=QualityFocalLoss(ANCHORS, CODE), deltas=deltas)
    assert not losses.classification.requires_grad
    assert losses.box.requires_grad


def test_overlap_losses_by_hand():
    """Anchor 0..10, box 1..11: IoU 9/11, a hull with nothing more, its diagonal squared 221, centres 1 apart."""
    distance = 1 / 221
    for name, expected in {"giou": 2 / 11, "diou": 2 / 11 + distance, "ciou": 2 / 11 + distance}.items():
        losses = one_image(BOX, [0], loss=MultiBoxLoss(ANCHORS, CODE, box_loss=name))
        assert losses.box.item() == pytest.approx(expected, rel=1e-5), name
        assert (losses.total - losses.classification).item() == pytest.approx(2 * expected, rel=1e-5)


def test_ciou_counts_the_shape():
    """10 x 10 and 10 x 20 around one centre: IoU 1/2, v = (2 / pi (atan 1 - atan 1/2))^2, alpha v / (v + 1/2)."""
    losses = one_image([[0.0, -5, 10, 15]], [0], loss=MultiBoxLoss(ANCHORS, CODE, box_loss="ciou"))
    v = 4 / math.pi**2 * (math.atan(1) - math.atan(0.5)) ** 2
    assert losses.box.item() == pytest.approx(0.5 + v * v / (0.5 + v), rel=1e-5)


# -- all ------------------------------------------------------------------------------------------------------------

LOSSES = pytest.mark.parametrize("kind", [MultiBoxLoss, FocalLoss, QualityFocalLoss])


@LOSSES
@pytest.mark.parametrize("box_loss", BOX_LOSSES)
def test_gradients_are_finite_with_padding_regions_and_boxes_without_area(kind, box_loss):
    anchors, outputs, boxes, labels = random_case(images=4, slots=4, seed=3)
    labels[0] = PADDING_LABEL
    labels[1, :3] = IGNORE_LABEL
    boxes[2, 0] = torch.tensor([50.0, 50, 50, 50])
    boxes[3, 0] = torch.tensor([0.0, 0, 1e-6, 1e-6])
    leaves = Outputs(*(tensor.clone().requires_grad_() for tensor in outputs[:2]))
    losses = kind(anchors, CODE, box_loss=box_loss)(leaves, boxes, labels)
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert torch.isfinite(leaves.class_logits.grad).all()
    assert torch.isfinite(leaves.box_deltas.grad).all()


@LOSSES
@pytest.mark.parametrize("value", [1e4, -1e4])
def test_extreme_outputs_stay_finite(kind, value):
    boxes, labels = torch.tensor([BOX]), torch.tensor([[0]])
    leaves = Outputs(*(torch.full((1, 6, n), value, requires_grad=True) for n in (3, 4)))
    losses = kind(ANCHORS, CODE)(leaves, boxes, labels)
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert torch.isfinite(leaves.class_logits.grad).all()


@LOSSES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_outputs_are_summed_in_float32(kind, dtype):
    anchors, outputs, boxes, labels = random_case(images=2, slots=21, seed=4)
    halved = Outputs(*(tensor.to(dtype) for tensor in outputs[:2]))
    losses = kind(anchors, CODE)(halved, boxes, labels)
    again = kind(anchors, CODE)(Outputs(*(tensor.float() for tensor in halved[:2])), boxes, labels)
    assert losses.total.dtype == torch.float32
    assert losses == again
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(kind(anchors, CODE)(halved, boxes, labels).total, losses.total)


@LOSSES
def test_an_image_counts_the_same_in_any_batch(kind):
    """The sums over a batch are the sums of its images: nothing leaks from one image into another."""
    anchors, outputs, boxes, labels = random_case(images=3, slots=5, seed=6)
    criterion = kind(anchors, CODE)
    matches = (MaxIoUAssigner()(anchors, boxes, labels) >= 0).sum(dim=1)
    together = criterion(outputs, boxes, labels)
    alone = [
        criterion(Outputs(*(tensor[i : i + 1] for tensor in outputs[:2])), boxes[i : i + 1], labels[i : i + 1]).total
        for i in range(3)
    ]
    expected = sum(loss * count for loss, count in zip(alone, matches, strict=True)) / matches.sum()
    torch.testing.assert_close(together.total, expected, rtol=1e-5, atol=1e-5)


def test_the_loss_has_nothing_to_save():
    assert not MultiBoxLoss(ANCHORS, CODE).state_dict()
