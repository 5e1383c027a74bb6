"""Box arithmetic: literal numbers, and torchvision's functions on random boxes."""

import math

import pytest
import torch
import torchvision
from torchvision.models.detection._utils import BoxCoder, BoxLinearCoder

from ssdlite.heads.boxes import (
    CenterSizeCode,
    DistanceCode,
    box_area,
    box_iou,
    clip_boxes,
    intersection_and_union,
    paired_iou,
)

CODE = CenterSizeCode()


def random_boxes(count: int, seed: int, side: float = 320) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator) * side
    low, high = corners.amin(dim=1), corners.amax(dim=1)
    return torch.cat([low, high + 1], dim=1)


def test_distances_by_hand_and_as_torchvisions_fcos_has_them():
    code, anchor = DistanceCode(), torch.tensor([[10.0, 20, 30, 60]])  # centre 20, 40; sides 20, 40
    box = torch.tensor([[15.0, 0, 40, 50]])
    assert code.encode(box, anchor).tolist() == [[0.25, 1.0, 1.0, 0.25]]
    assert code.decode(torch.tensor([[0.25, 1.0, 1.0, 0.25]]), anchor).tolist() == box.tolist()
    assert code.encode(anchor, anchor).tolist() == [[0.5] * 4]
    boxes, anchors = random_boxes(50, seed=1), random_boxes(50, seed=2)
    theirs = BoxLinearCoder(normalize_by_size=True)
    torch.testing.assert_close(code.encode(boxes, anchors), theirs.encode(anchors, boxes))
    deltas = torch.randn(50, 4, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(code.decode(deltas, anchors), theirs.decode(deltas, anchors))


def test_overlaps_by_hand():
    a = torch.tensor([[0.0, 0, 10, 10], [5, 5, 15, 15], [20, 20, 30, 25]])
    b = torch.tensor([[0.0, 0, 10, 5], [5, 5, 10, 10], [10, 0, 20, 10]])
    assert box_area(a).tolist() == [100, 100, 50]
    shared, union = intersection_and_union(a[:, None], b)
    assert shared.tolist() == [[50, 25, 0], [0, 25, 25], [0, 0, 0]]
    assert union.tolist() == [[100, 100, 200], [150, 100, 175], [100, 75, 150]]
    torch.testing.assert_close(box_iou(a, b), torch.tensor([[0.5, 0.25, 0], [0, 0.25, 25 / 175], [0, 0, 0]]))
    torch.testing.assert_close(paired_iou(a, b), torch.tensor([0.5, 0.25, 0]))


def test_iou_is_torchvisions():
    a, b = random_boxes(200, 0), random_boxes(300, 1)
    torch.testing.assert_close(box_iou(a, b), torchvision.ops.box_iou(a, b), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(box_area(a), torchvision.ops.box_area(a))


def test_iou_is_batched():
    a = random_boxes(24, 2).view(2, 3, 4, 4)
    b = random_boxes(5, 3)
    iou = box_iou(a, b)
    assert iou.shape == (2, 3, 4, 5)
    torch.testing.assert_close(iou[1, 2], torchvision.ops.box_iou(a[1, 2], b), rtol=1e-5, atol=1e-6)


def test_iou_of_empty_boxes_and_of_none_is_zero_and_not_nan():
    point = torch.tensor([[5.0, 5, 5, 5]])
    assert box_iou(point, point).tolist() == [[0]]
    assert box_iou(torch.zeros(0, 4), point).shape == (0, 1)


def test_code_by_hand():
    anchor = torch.tensor([[0.0, 0, 10, 20]])  # centre (5, 10), 10 x 20
    box = torch.tensor([[4.0, 8, 8, 18]])  # centre (6, 13), 4 x 10
    code = CODE.encode(box, anchor)
    expected = [[10 * 0.1, 10 * 3 / 20, 5 * math.log(0.4), 5 * math.log(0.5)]]
    torch.testing.assert_close(code, torch.tensor(expected))
    torch.testing.assert_close(CODE.decode(code, anchor), box)


def test_an_anchor_is_its_own_box_at_zero_deltas():
    anchors = random_boxes(50, 4)
    assert CODE.encode(anchors, anchors).eq(0).all()
    torch.testing.assert_close(CODE.decode(torch.zeros(50, 4), anchors), anchors)


def test_code_is_torchvisions():
    coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    anchors, boxes = random_boxes(500, 5), random_boxes(500, 6)
    code = CODE.encode(boxes, anchors)
    torch.testing.assert_close(code, coder.encode_single(boxes, anchors), rtol=1e-4, atol=1e-4)
    deltas = torch.randn(500, 4, generator=torch.Generator().manual_seed(7)) * 5
    torch.testing.assert_close(CODE.decode(deltas, anchors), coder.decode_single(deltas, anchors), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("value", [100.0, 1e4, 1e30])
def test_huge_deltas_stay_finite_as_torchvisions(value):
    coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    anchor = torch.tensor([[0.0, 0, 16, 16]])
    deltas = torch.tensor([[0.0, 0, value, value]])
    decoded = CODE.decode(deltas, anchor)
    torch.testing.assert_close(decoded, coder.decode_single(deltas, anchor))
    torch.testing.assert_close(decoded, torch.tensor([[-492.0, -492, 508, 508]]))  # 1000 pixels around (8, 8)


def test_other_scales():
    anchor = torch.tensor([[0.0, 0, 10, 10]])
    box = torch.tensor([[1.0, 2, 11, 12]])
    code = CenterSizeCode([1.0, 2, 1, 1]).encode(box, anchor)
    torch.testing.assert_close(code, torch.tensor([[0.1, 0.4, 0, 0]]))


def test_clip_is_torchvisions_and_takes_height_first():
    boxes = torch.tensor([[-5.0, -5, 400, 400], [10, 20, 30, 40], [350, 250, 360, 260]])
    clipped = clip_boxes(boxes, (200, 320))
    assert clipped.tolist() == [[0, 0, 320, 200], [10, 20, 30, 40], [320, 200, 320, 200]]
    assert torch.equal(clipped, torchvision.ops.clip_boxes_to_image(boxes, (200, 320)))
    assert clip_boxes(boxes.view(1, 3, 4), (200, 320)).shape == (1, 3, 4)
