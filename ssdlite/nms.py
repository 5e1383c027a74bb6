"""Score thresholds, overlaps of boxes, and non-maximum suppression in many groups at once. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Corners = Sequence[Any] | npt.NDArray[Any]

FIRST_CANDIDATES = 1024  # per image; enough in all but untrained or very crowded cases, where it is doubled
LOGIT_MARGIN = 1e-3  # for rounding, where a bound on a score stands for the score
PAIRS_AT_ONCE = 8192  # so that what is computed of them stays in the processor's cache
MOST_PAIRS = 256  # a box, on average, up to which looking at all pairs is quicker than box by box


def strict_threshold(configured: float, asked: float) -> float:
    """Scores above it are above the ``configured`` threshold and at least the one that is ``asked`` for, in float32.

    A box is only ever suppressed or crowded out by better ones, so a caller's threshold finds the same before
    suppression as behind it, where ``Detections.above`` would come.
    """
    return max(configured, float(np.nextafter(np.float32(asked), np.float32(-1))))


def logit_bound(threshold: float) -> float:
    """Up to it no logit has a score above the threshold: a sigmoid's own, a softmax's less that of background."""
    if threshold <= 0:
        return -math.inf
    return math.log(threshold / (1 - threshold)) - LOGIT_MARGIN if threshold < 1 else math.inf


def pairwise_iou(boxes: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[N, 4] and [M, 4] xyxy -> IoU [N, M]; 0 for boxes without area."""
    corners, other_corners = boxes.T[:, :, None], others.T[:, None]
    return _iou(corners, other_corners, _area(corners), _area(other_corners))


def _iou(corners: Corners, others: Corners, area: Any, other_area: Any) -> npt.NDArray[Any]:
    """Left, top, right and bottom of boxes, and their areas, of shapes that broadcast -> IoU."""
    width, height = np.minimum(corners[2], others[2]), np.minimum(corners[3], others[3])
    width -= np.maximum(corners[0], others[0])
    height -= np.maximum(corners[1], others[1])
    shared = np.maximum(width, 0, out=width)
    shared *= np.maximum(height, 0, out=height)
    union = area + other_area - shared
    return np.asarray(shared / np.maximum(union, np.finfo(np.float32).tiny, out=union))


def _area(corners: Corners) -> Any:
    return (corners[2] - corners[0]) * (corners[3] - corners[1])


class Groups:
    """P boxes, best first, each in a group of its image and class; of each group at most ``limit`` take part.

    Attributes:
        order: [N] where those that take part stand, group by group, best first in each.
        ends: [N] for each of them the place in ``order`` behind the last of its group.
    """

    def __init__(self, groups: IndexArray, limit: int) -> None:
        """groups [P]: the number of each box's group."""
        sizes = np.bincount(groups)
        order = np.argsort(groups, kind="stable")
        if len(sizes) and sizes.max() > limit:
            ordered = groups[order]
            rank = np.arange(len(order)) - (sizes.cumsum() - sizes)[ordered]
            order = order[rank < limit]
            sizes = sizes.clip(max=limit)
        self.order = order
        self.ends = np.repeat(sizes.cumsum(), sizes)
        self.behind = self.ends - np.arange(1, len(order) + 1)  # how many of its group are worse than each

    def has_few_pairs(self, most: int) -> bool:
        """Whether each box has, on average, at most ``most`` worse ones in its group."""
        return int(self.behind.sum()) <= most * len(self.order)


def grouped_nms(boxes: FloatArray, groups: Groups, threshold: float) -> BoolArray:
    """boxes [N, 4] xyxy in the order of ``groups`` -> [N]: what non-maximum suppression leaves.

    A box falls to a better one of its group that is left and that it overlaps by more than ``threshold``. Boxes without
    area, or with corners that are no numbers, overlap nothing.
    """
    suppress = suppress_by_pairs if groups.has_few_pairs(MOST_PAIRS) else suppress_in_turn
    return suppress(boxes, groups, threshold)


@np.errstate(invalid="ignore", over="ignore")
def suppress_by_pairs(boxes: FloatArray, groups: Groups, threshold: float) -> BoolArray:
    """``grouped_nms`` by looking at all pairs of a group."""
    corners, behind = np.ascontiguousarray(boxes.T), groups.behind
    places = np.arange(len(boxes))
    better = np.repeat(places, behind)
    worse = np.arange(1, len(better) + 1) + np.repeat(places - (behind.cumsum() - behind), behind)
    sides = (*corners, _area(corners))
    overlap = np.empty(len(better), bool)
    for start in range(0, len(better), PAIRS_AT_ONCE):
        block = slice(start, start + PAIRS_AT_ONCE)
        *first, area = (side[better[block]] for side in sides)
        *second, other_area = (side[worse[block]] for side in sides)
        np.greater(_iou(first, second, area, other_area), threshold, out=overlap[block])
    better, worse = better[overlap], worse[overlap]
    alive = np.ones(len(boxes), bool)
    while True:  # after n rounds right for all that no chain of more than n suppressions decides
        now = np.ones(len(boxes), bool)
        now[worse[alive[better]]] = False
        if np.array_equal(now, alive):
            return alive
        alive = now


@np.errstate(invalid="ignore", over="ignore")
def suppress_in_turn(boxes: FloatArray, groups: Groups, threshold: float) -> BoolArray:
    """``grouped_nms`` box by box: each one that is left drops the worse ones of its group."""
    corners = np.ascontiguousarray(boxes.T)  # a slice of a group is then quick to work on
    areas = _area(corners)
    alive = np.ones(len(boxes), bool)
    for place, (box, end) in enumerate(zip(boxes.tolist(), groups.ends.tolist(), strict=True)):
        if alive[place]:
            rest = slice(place + 1, end)
            alive[rest] &= ~(_iou(corners[:, rest], box, areas[rest], areas[place]) > threshold)
    return alive
