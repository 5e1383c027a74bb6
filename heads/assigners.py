"""Which anchor answers for which object. Matching happens here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ssdlite.config import DetectorConfig
from ssdlite.heads.base import IGNORE_LABEL
from ssdlite.heads.boxes import box_area, box_intersection, box_iou, intersection_and_union
from ssdlite.validation import require_known

NEGATIVE = -1
IGNORED = -2
IGNORE_THRESHOLD = 0.5


class MaxIoUAssigner:
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
        shared, union = intersection_and_union(boxes[:, :, None], anchors)
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

    classes: Tensor  # [B, A] int64: 0 background, 1 + label for an object
    boxes: Tensor  # [B, A, 4] xyxy: the matched box, or anything where there is none
    positive: Tensor  # [B, A] bool
    negative: Tensor  # [B, A] bool; ignored anchors are neither


def build_targets(matches: Tensor, boxes: Tensor, labels: Tensor) -> Targets:
    """matches [B, A] of the assigner, boxes [B, M, 4] and labels [B, M] -> targets per anchor."""
    positive, negative = matches >= 0, matches == NEGATIVE
    if labels.shape[1] == 0:
        empty = boxes.new_zeros((*matches.shape, 4))
        return Targets(torch.zeros_like(matches), empty, positive, negative)
    index = matches.clamp(min=0)
    classes = torch.where(positive, labels.gather(1, index) + 1, 0)
    return Targets(classes, boxes.gather(1, index[:, :, None].expand(-1, -1, 4)), positive, negative)


# --- Ways to choose which anchors answer for an object that look further than SSD's fixed overlap.

UNREACHABLE = 1e8  # cost of an anchor that may not answer for a box


class Predicted(Protocol):
    """What the network says at this moment, without gradient."""

    @property
    def scores(self) -> Tensor:
        """[B, A, K] in 0..1"""

    @property
    def boxes(self) -> Tensor:
        """[B, A, 4] xyxy input pixels"""


class Assigner(Protocol):
    """anchors [A, 4], boxes [B, M, 4] xyxy, labels [B, M] and predictions -> [B, A]: the box's number, NEGATIVE or
    IGNORED."""

    def __call__(self, anchors: Tensor, boxes: Tensor, labels: Tensor, predicted: Predicted) -> Tensor: ...


class AtssAssigner:
    """Adaptive training sample selection (arXiv 1912.02424, algorithm 1).

    On every map the ``candidates`` cells nearest to the box's centre offer all their anchors; those whose overlap
    reaches the mean plus the standard deviation of the candidates' overlaps, and whose centre lies in the box, are
    positive. The paper has one anchor a cell; here a cell has several, so as many times more are taken. Unlike there, a
    box that this leaves without an anchor gets the one that overlaps it most.

    Attributes:
        cells_per_level, shapes_per_cell: of the anchors, finest map first.
    """

    def __init__(self, cells_per_level: Sequence[int], shapes_per_cell: Sequence[int], candidates: int = 9) -> None:
        counts = [cells * shapes for cells, shapes in zip(cells_per_level, shapes_per_cell, strict=True)]
        self.spans = list(pairwise(accumulate(counts, initial=0)))
        self.quotas = [min(candidates * shapes, count) for shapes, count in zip(shapes_per_cell, counts, strict=True)]

    def __call__(self, anchors: Tensor, boxes: Tensor, labels: Tensor, predicted: Predicted) -> Tensor:
        if labels.shape[1] == 0:
            return labels.new_full((len(labels), len(anchors)), NEGATIVE)
        overlap = box_iou(boxes, anchors)
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2
        distance = _center_distance(centres, boxes)
        near = torch.cat(
            [
                distance[..., start:end].topk(quota, dim=2, largest=False).indices + start
                for (start, end), quota in zip(self.spans, self.quotas, strict=True)
            ],
            dim=2,
        )
        near_overlap = overlap.gather(2, near)
        threshold = near_overlap.mean(dim=2, keepdim=True) + near_overlap.std(dim=2, keepdim=True)
        chosen = torch.zeros_like(overlap, dtype=torch.bool).scatter_(2, near, near_overlap >= threshold)
        chosen &= _inside(centres, boxes)
        best = torch.zeros_like(chosen).scatter_(2, overlap.argmax(dim=2, keepdim=True), overlap.amax(2, True) > 0)
        chosen |= best & ~chosen.any(dim=2, keepdim=True)
        return _resolve(torch.where(chosen, -overlap, UNREACHABLE), anchors, boxes, labels)


class SimOtaAssigner:
    """Simplified optimal transport (YOLOX, arXiv 2107.08430 section 2.1) with soft class costs (RTMDet, arXiv
    2212.07784 section 3.2).

    For each box, anchors whose centre lies in it or within ``radius`` of the sides of ``strides`` around its centre may
    answer; the cheapest are taken, as many as the ``most`` best predicted overlaps sum up to, at least one. The cost is
    the cross-entropy of the score against the overlap of the predicted box, weighed by the square of their difference,
    plus ``overlap_weight`` times -log of that overlap.

    Attributes:
        strides: [A] of the anchor's map, in pixels.
    """

    def __init__(self, strides: Tensor, *, most: int = 10, overlap_weight: float = 3.0, radius: float = 2.5) -> None:
        self.strides = strides
        self.most = most
        self.overlap_weight = overlap_weight
        self.radius = radius

    def __call__(self, anchors: Tensor, boxes: Tensor, labels: Tensor, predicted: Predicted) -> Tensor:
        if labels.shape[1] == 0:
            return labels.new_full((len(labels), len(anchors)), NEGATIVE)
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2
        allowed = (_inside(centres, boxes) | self._near(centres, boxes)) & (box_area(boxes) > 0)[:, :, None]
        overlap = torch.where(allowed, box_iou(boxes, predicted.boxes), 0.0)
        cost = torch.where(allowed, self._cost(overlap, predicted.scores, labels), UNREACHABLE)
        most = min(self.most, len(anchors))
        wanted = overlap.topk(most, dim=2).values.sum(dim=2, keepdim=True).int().clamp(min=1)
        cheapest = cost.topk(most, dim=2, largest=False).indices
        taken = torch.arange(most, device=cost.device) < wanted
        chosen = torch.zeros_like(allowed).scatter_(2, cheapest, taken.expand_as(cheapest)) & allowed
        return _resolve(torch.where(chosen, cost, UNREACHABLE), anchors, boxes, labels)

    def _near(self, centres: Tensor, boxes: Tensor) -> Tensor:
        reach = (self.radius * self.strides)[:, None]
        offset = (centres - ((boxes[..., :2] + boxes[..., 2:]) / 2)[:, :, None]).abs()
        return (offset < reach).all(dim=3)

    def _cost(self, overlap: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        score = _scores_of(scores, labels).clamp(1e-6, 1 - 1e-6)
        entropy = -(overlap * score.log() + (1 - overlap) * (1 - score).log())
        return entropy * (overlap - score).square() - self.overlap_weight * overlap.clamp(min=1e-6).log()


class TaskAlignedAssigner:
    """Task-aligned assignment (TOOD, arXiv 2108.07755, section 3.2).

    For each box, of the anchors whose centre lies in it the ``most`` with the highest score ** ``alpha`` * overlap **
    ``beta`` answer, of the box's own class and of the predicted box. An anchor that several boxes want goes to the one
    that it overlaps most. Unlike there, a box that no such prediction overlaps gets the anchor with the nearest centre.
    """

    def __init__(self, *, most: int = 13, alpha: float = 1.0, beta: float = 6.0) -> None:
        self.most = most
        self.alpha = alpha
        self.beta = beta

    def __call__(self, anchors: Tensor, boxes: Tensor, labels: Tensor, predicted: Predicted) -> Tensor:
        if labels.shape[1] == 0:
            return labels.new_full((len(labels), len(anchors)), NEGATIVE)
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2
        overlap = box_iou(boxes, predicted.boxes)
        alignment = _scores_of(predicted.scores, labels).pow(self.alpha) * overlap.pow(self.beta)
        alignment = torch.where(_inside(centres, boxes), alignment, 0.0)
        best = alignment.topk(min(self.most, len(anchors)), dim=2)
        chosen = torch.zeros_like(alignment, dtype=torch.bool).scatter_(2, best.indices, best.values > 0)
        distance = _center_distance(centres, boxes)
        nearest = torch.zeros_like(chosen).scatter_(2, distance.argmin(dim=2, keepdim=True), True)
        chosen |= nearest & ~chosen.any(dim=2, keepdim=True) & (box_area(boxes) > 0)[:, :, None]
        return _resolve(torch.where(chosen, -overlap, UNREACHABLE), anchors, boxes, labels)


def _scores_of(scores: Tensor, labels: Tensor) -> Tensor:
    """scores [B, A, K] of the classes labels [B, M] -> [B, M, A]."""
    index = labels.clamp(min=0)[:, None, :].expand(-1, scores.shape[1], -1)
    return scores.gather(2, index).transpose(1, 2)


def _build_atss(config: DetectorConfig, device: torch.device) -> AtssAssigner:
    return AtssAssigner([rows * columns for rows, columns in config.grid_sizes], config.anchors.shapes_per_cell)


def _build_simota(config: DetectorConfig, device: torch.device) -> SimOtaAssigner:
    cells = (rows * columns for rows, columns in config.grid_sizes)
    counts = [number * shapes for number, shapes in zip(cells, config.anchors.shapes_per_cell, strict=True)]
    strides = torch.tensor(config.strides, dtype=torch.float32).repeat_interleave(torch.tensor(counts))
    return SimOtaAssigner(strides.to(device))


ASSIGNERS: dict[str, Callable[[DetectorConfig, torch.device], Assigner]] = {
    "ssd": lambda config, device: MaxIoUAssigner(),
    "atss": _build_atss,
    "simota": _build_simota,
    "tal": lambda config, device: TaskAlignedAssigner(),
}


def build_assigner(name: str, config: DetectorConfig, device: torch.device) -> Assigner:
    """The entry ``name`` of ``ASSIGNERS``, for the anchors of ``config``. Raises ConfigError for an unknown name."""
    require_known([name], ASSIGNERS, "assigner")
    return ASSIGNERS[name](config, device)


def _center_distance(centres: Tensor, boxes: Tensor) -> Tensor:
    """Points [A, 2] and boxes [B, M, 4] -> [B, M, A], from the boxes' own centres."""
    return torch.cdist((boxes[..., :2] + boxes[..., 2:]) / 2, centres.expand(len(boxes), -1, -1))


def _inside(centres: Tensor, boxes: Tensor) -> Tensor:
    """Points [A, 2] and boxes [B, M, 4] -> [B, M, A] bool."""
    low, high = boxes[:, :, None, :2], boxes[:, :, None, 2:]
    return ((centres > low) & (centres < high)).all(dim=3)


def _resolve(cost: Tensor, anchors: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """Costs [B, M, A], UNREACHABLE where an anchor was not chosen -> [B, A], as an ``Assigner``."""
    cost = torch.where((labels >= 0)[:, :, None], cost, UNREACHABLE)
    cheapest, number = cost.min(dim=1)
    matches = torch.where(cheapest < UNREACHABLE, number, NEGATIVE)
    return ignore_covered(matches, box_intersection(boxes[:, :, None], anchors), anchors, labels)
