"""Which anchor answers for which object. Matching happens here and nowhere else."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ssdlite.boxes import box_area, box_intersection

PADDING_LABEL = -1  # fills a batch up where an image has fewer objects
IGNORE_LABEL = -2  # a crowd region or a difficult object: neither object nor background
NEGATIVE = -1
IGNORED = -2
IGNORE_THRESHOLD = 0.5


class Matcher:
    """SSD's rule: an anchor takes the box it overlaps most, at IoU >= ``iou_threshold``; then every box's best anchor
    is given to it, whatever their overlap (arXiv 1512.02325, section 2.2).

    Where two boxes have the same best anchor the later one gets it, as in torchvision. A box that overlaps no anchor
    at all gets none. Anchors without a box that lie for ``ignore_threshold`` of their area or more in an ignored
    region are ignored too.
    """

    def __init__(self, iou_threshold: float = 0.5, ignore_threshold: float = IGNORE_THRESHOLD) -> None:
        self.iou_threshold = iou_threshold
        self.ignore_threshold = ignore_threshold

    def __call__(self, anchors: Tensor, boxes: Tensor, labels: Tensor, predicted: object = None) -> Tensor:
        """anchors [A, 4], boxes [B, M, 4] xyxy and labels [B, M] -> [B, A]: the box's number, NEGATIVE or IGNORED.

        What the network predicts does not matter here, as it does to other assigners.
        """
        batch, count = labels.shape
        if count == 0:
            return labels.new_full((batch, len(anchors)), NEGATIVE)
        shared = box_intersection(boxes, anchors)
        union = box_area(boxes)[:, :, None] + box_area(anchors) - shared
        is_object = (labels >= 0)[:, :, None]
        iou = torch.where(is_object, shared / union.clamp(min=torch.finfo(shared.dtype).tiny), -1.0)

        best_iou, best_box = iou.max(dim=1)
        matches = torch.where(best_iou >= self.iou_threshold, best_box, NEGATIVE)
        matches = ignore_covered(matches, shared, anchors, labels, self.ignore_threshold)

        anchor_iou, best_anchor = iou.max(dim=2)
        numbers = torch.arange(count, device=labels.device).expand(batch, count)
        forced = torch.where(anchor_iou > 0, numbers, NEGATIVE)
        taken = torch.full_like(matches, NEGATIVE).scatter_reduce(1, best_anchor, forced, "amax")
        return torch.where(taken >= 0, taken, matches)


def ignore_covered(
    matches: Tensor, shared: Tensor, anchors: Tensor, labels: Tensor, threshold: float = IGNORE_THRESHOLD
) -> Tensor:
    """``matches`` [B, A] with IGNORED for anchors without a box whose area an ignored region covers by ``threshold``.

    Args:
        shared: [B, M, A], the area that each box has in common with each anchor.
    """
    covered = torch.where((labels == IGNORE_LABEL)[:, :, None], shared / box_area(anchors), 0.0).amax(dim=1)
    return torch.where((matches == NEGATIVE) & (covered >= threshold), IGNORED, matches)


class Targets(NamedTuple):
    """What each anchor should say."""

    slots: Tensor  # [B, A] int64: 0 background, 1 + label for an object
    boxes: Tensor  # [B, A, 4] xyxy: the matched box, or anything where there is none
    positive: Tensor  # [B, A] bool
    negative: Tensor  # [B, A] bool; ignored anchors are neither


def build_targets(matches: Tensor, boxes: Tensor, labels: Tensor) -> Targets:
    """matches [B, A] of the matcher, boxes [B, M, 4] and labels [B, M] -> targets per anchor."""
    positive, negative = matches >= 0, matches == NEGATIVE
    if labels.shape[1] == 0:
        empty = boxes.new_zeros((*matches.shape, 4))
        return Targets(torch.zeros_like(matches), empty, positive, negative)
    index = matches.clamp(min=0)
    slots = torch.where(positive, labels.gather(1, index) + 1, 0)
    return Targets(slots, boxes.gather(1, index[:, :, None].expand(-1, -1, 4)), positive, negative)
