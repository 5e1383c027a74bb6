"""How well an anchor shape on a map of a given stride serves a box, wherever the box happens to stand.

The centre of a box falls anywhere between the centres of a map's anchors, so for a box (w, h) and a shape
(a, b) the offset between them is uniform. IoU >= t holds exactly where the overlap is at least ``(w h + a
b) t / (1 + t)``. The area of those offsets divided by stride^2 is the number of positions that match the
box on average. For a perfect shape and t = 0.5 that is 0.252 (side / stride)^2: three positions need a box
of 3.5 strides; a box below 2.7 strides is missed where it stands badly, half of the boxes of 1.4 strides
are.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MATCH_THRESHOLD = 0.5  # the matcher's: an anchor takes a box from this IoU on
PERFECT_FIT = 4 / 3 - 8 / 3 * math.log(1.5)  # 0.252 positions for a box of one stride and an anchor of its shape
_OFFSETS = (np.arange(24) + 0.5) / 24  # midpoints of the quadrature over half a cell


def shape_iou(boxes_wh: Floats, shapes_wh: Floats) -> Floats:
    """IoU of boxes [T, 2] and shapes [S, 2] laid on a common centre -> [T, S]."""
    inter = np.minimum(boxes_wh[:, None], shapes_wh[None]).prod(2)
    union = boxes_wh.prod(1)[:, None] + shapes_wh.prod(1)[None] - inter
    return np.asarray(inter / np.maximum(union, 1e-12))


def expected_positives(
    boxes_wh: Floats, shapes_wh: Floats, stride: float, threshold: float = MATCH_THRESHOLD
) -> Floats:
    """Mean number of positions whose anchor reaches ``threshold``: boxes [T, 2], shapes [S, 2] -> [T, S].

    In closed form, and without border effects, since a map has no positions outside the image.
    """
    flat, half_sum, full = _overlap_along_axes(boxes_wh, shapes_wh)
    needed = _needed_overlap(boxes_wh, shapes_wh, threshold)
    least_x = needed / full[1]  # overlap along x below which even the full overlap along y is not enough
    area = flat[0] * (half_sum[1] - needed / full[0])
    area += half_sum[1] * (full[0] - least_x) - needed * np.log(full[0] / least_x)
    return np.asarray(np.where(full[0] > least_x, 4 * area, 0.0) / stride**2)


def reach_probability(boxes_wh: Floats, shapes_wh: Floats, stride: float, threshold: float = MATCH_THRESHOLD) -> Floats:
    """Share of the places of a box at which some position reaches ``threshold`` -> [T, S].

    The nearest position overlaps most, so this is the share of the offsets within half a stride.
    """
    _, half_sum, full = _overlap_along_axes(boxes_wh, shapes_wh)
    needed = _needed_overlap(boxes_wh, shapes_wh, threshold)
    total = np.zeros_like(needed)
    for offset in _OFFSETS * stride / 2:
        overlap_x = np.clip(half_sum[0] - offset, 1e-12, full[0])
        needed_y = needed / overlap_x
        reach_y = np.where(needed_y <= full[1], half_sum[1] - needed_y, 0.0)
        total += np.minimum(reach_y, stride / 2)
    return np.asarray(total / (len(_OFFSETS) * stride / 2))


def _needed_overlap(boxes_wh: Floats, shapes_wh: Floats, threshold: float) -> Floats:
    areas = boxes_wh.prod(1)[:, None] + shapes_wh.prod(1)[None]
    return np.asarray(areas * threshold / (1 + threshold))


def _overlap_along_axes(boxes_wh: Floats, shapes_wh: Floats) -> tuple[Floats, Floats, Floats]:
    """The overlap along x and along y as a function of the offset d, each [2, T, S].

    It stays at ``full`` up to d = ``flat``, and falls as ``half_sum - d`` from there.
    """
    boxes, shapes = boxes_wh.T[:, :, None], shapes_wh.T[:, None, :]
    return np.abs(boxes - shapes) / 2, (boxes + shapes) / 2, np.minimum(boxes, shapes)
