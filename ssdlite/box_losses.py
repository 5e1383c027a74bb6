"""How far predicted boxes are from wanted ones: on the box code, or by the overlap of the boxes themselves."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdlite.boxes import decode_boxes, encode_boxes, paired_intersection_and_union
from ssdlite.recipes import BoxLossName

BoxLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Deltas [B, A, 4], wanted boxes [B, A, 4] xyxy, anchors [A, 4] and code scales [4] -> [B, A]."""

EPS = 1e-7  # for boxes without area


def smooth_l1(deltas: Tensor, wanted: Tensor, anchors: Tensor, scales: Tensor) -> Tensor:
    """On the four numbers of the box code (arXiv 1512.02325, eq. 2)."""
    return F.smooth_l1_loss(deltas, encode_boxes(wanted, anchors, scales), reduction="none").sum(dim=-1)


def giou_loss(boxes: Tensor, wanted: Tensor) -> Tensor:
    """Boxes [..., 4] xyxy, both -> [...] in 0..2: 1 - generalised IoU (arXiv 1902.09630, algorithm 1)."""
    iou, union = _iou_and_union(boxes, wanted)
    hull = _hull(boxes, wanted).prod(dim=-1)
    return 1 - iou + (hull - union) / (hull + EPS)


def diou_loss(boxes: Tensor, wanted: Tensor) -> Tensor:
    """Boxes [..., 4] xyxy, both -> [...] in 0..2: 1 - IoU, and the centres' distance (arXiv 1911.08287, eq. 7)."""
    iou, _ = _iou_and_union(boxes, wanted)
    return 1 - iou + _distance(boxes, wanted)


def ciou_loss(boxes: Tensor, wanted: Tensor) -> Tensor:
    """``diou_loss`` and how far the aspect ratio is off (arXiv 1911.08287, eq. 10 and 11)."""
    iou, _ = _iou_and_union(boxes, wanted)
    angles = [torch.atan2(*_sides(ends).unbind(-1)) for ends in (boxes, wanted)]
    ratio = 4 / math.pi**2 * (angles[1] - angles[0]).square()
    with torch.no_grad():
        weight = ratio / (1 - iou + ratio + EPS)
    return 1 - iou + _distance(boxes, wanted) + weight * ratio


def _iou_and_union(boxes: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    shared, union = paired_intersection_and_union(boxes, wanted)
    return shared / (union + EPS), union


def _hull(boxes: Tensor, wanted: Tensor) -> Tensor:
    """Width and height [..., 2] of the smallest box around both."""
    return torch.maximum(boxes[..., 2:], wanted[..., 2:]) - torch.minimum(boxes[..., :2], wanted[..., :2])


def _distance(boxes: Tensor, wanted: Tensor) -> Tensor:
    """The squared distance of the centres, as a share of the squared diagonal of the hull."""
    shift = (boxes[..., :2] + boxes[..., 2:] - wanted[..., :2] - wanted[..., 2:]) / 2
    return shift.square().sum(dim=-1) / (_hull(boxes, wanted).square().sum(dim=-1) + EPS)


def _sides(boxes: Tensor) -> Tensor:
    return boxes[..., 2:] - boxes[..., :2]


def overlap_loss(loss: Callable[[Tensor, Tensor], Tensor]) -> BoxLoss:
    """A loss on pairs of boxes, as one on deltas."""

    def on_deltas(deltas: Tensor, wanted: Tensor, anchors: Tensor, scales: Tensor) -> Tensor:
        return loss(decode_boxes(deltas, anchors, scales), wanted)

    return on_deltas


BOX_LOSSES: dict[BoxLossName, BoxLoss] = {
    "smooth_l1": smooth_l1,
    "giou": overlap_loss(giou_loss),
    "diou": overlap_loss(diou_loss),
    "ciou": overlap_loss(ciou_loss),
}
