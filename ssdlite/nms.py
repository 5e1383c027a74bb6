"""Overlaps of boxes, and non-maximum suppression in many groups at once by the pairs that overlap. Needs no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MOST_PAIRS = 64  # a box, on average, up to which looking at all pairs at once is quicker than box by box


def pairwise_iou(boxes: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[N, 4] and [M, 4] xyxy -> IoU [N, M]; 0 for boxes without area."""
    sides = [
        np.minimum(boxes[:, None, i + 2], others[None, :, i + 2]) - np.maximum(boxes[:, None, i], others[None, :, i])
        for i in (0, 1)
    ]
    shared = np.maximum(sides[0], 0) * np.maximum(sides[1], 0)
    areas = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (boxes, others)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.asarray(shared / np.maximum(union, np.finfo(np.float32).tiny))


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

    @property
    def has_few_pairs(self) -> bool:
        return int(self.behind.sum()) <= MOST_PAIRS * len(self.order)


def grouped_nms(boxes: FloatArray, groups: Groups, threshold: float) -> BoolArray:
    """boxes [N, 4] xyxy in the order of ``groups`` -> [N]: what non-maximum suppression leaves.

    A box falls to a better one of its group that survives and that it overlaps by more than ``threshold``.
    """
    better, worse = _overlapping(boxes, groups, threshold)
    alive = np.ones(len(boxes), bool)
    while True:  # after n rounds right for all that no chain of more than n suppressions decides
        now = np.ones(len(boxes), bool)
        now[worse[alive[better]]] = False
        if np.array_equal(now, alive):
            return alive
        alive = now


def _overlapping(boxes: FloatArray, groups: Groups, threshold: float) -> tuple[IndexArray, IndexArray]:
    """The pairs in a group that overlap by more than ``threshold``: the better boxes and the worse ones."""
    behind = groups.behind
    better = np.repeat(np.arange(len(boxes)), behind)
    worse = np.arange(1, len(better) + 1) + np.repeat(np.arange(len(boxes)) - (behind.cumsum() - behind), behind)
    left, top, right, bottom = np.ascontiguousarray(boxes.T)
    areas = (right - left) * (bottom - top)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):  # two boxes without area do not overlap
        width = np.minimum(right[better], right[worse]) - np.maximum(left[better], left[worse])
        height = np.minimum(bottom[better], bottom[worse]) - np.maximum(top[better], top[worse])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        overlap = shared / (areas[better] + areas[worse] - shared) > threshold
    return better[overlap], worse[overlap]
