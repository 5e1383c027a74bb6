"""How far predicted boxes are from wanted ones: on the box code, or by the overlap of the boxes themselves."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from ssdlite.boxes import decode_boxes, encode_boxes
from ssdlite.recipes import BoxLossName

BoxLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Deltas [B, A, 4], wanted boxes [B, A, 4] xyxy, anchors [A, 4] and code scales [4] -> [B, A]."""


def smooth_l1(deltas: Tensor, wanted: Tensor, anchors: Tensor, scales: Tensor) -> Tensor:
    """On the four numbers of the box code (arXiv 1512.02325, eq. 2)."""
    return F.smooth_l1_loss(deltas, encode_boxes(wanted, anchors, scales), reduction="none").sum(dim=-1)


def overlap_loss(loss: Callable[[Tensor, Tensor], Tensor]) -> BoxLoss:
    """A loss on pairs of boxes, as one on deltas."""

    def on_deltas(deltas: Tensor, wanted: Tensor, anchors: Tensor, scales: Tensor) -> Tensor:
        return loss(decode_boxes(deltas, anchors, scales), wanted)

    return on_deltas


BOX_LOSSES: dict[BoxLossName, BoxLoss] = {
    "smooth_l1": smooth_l1,
    "giou": overlap_loss(generalized_box_iou_loss),  # arXiv 1902.09630
    "diou": overlap_loss(distance_box_iou_loss),  # arXiv 1911.08287
    "ciou": overlap_loss(complete_box_iou_loss),  # arXiv 1911.08287
}
