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
    width, height = _least_sides(boxes_wh, shapes_wh)
    shared = width * height
    return np.asarray(shared / np.maximum(_area_sums(boxes_wh, shapes_wh) - shared, 1e-12))


def expected_positives(
    boxes_wh: Floats, shapes_wh: Floats, stride: float, threshold: float = MATCH_THRESHOLD
) -> Floats:
    """Mean number of positions whose anchor reaches ``threshold``: boxes [T, 2], shapes [S, 2] -> [T, S].

    In closed form, and without border effects, since a map has no positions outside the image. Along each axis
    the overlap stays at the shorter side until the offset is half of the difference of the sides, and falls by the
    offset from there.
    """
    full_x, full_y = _least_sides(boxes_wh, shapes_wh)
    needed = _area_sums(boxes_wh, shapes_wh) * threshold / (1 + threshold)
    hits = full_x * full_y > needed
    box, shape = np.nonzero(hits)
    full_x, full_y, needed = full_x[hits], full_y[hits], needed[hits]
    flat_x = np.abs(boxes_wh[box, 0] - shapes_wh[shape, 0]) / 2
    half_sum_y = (boxes_wh[box, 1] + shapes_wh[shape, 1]) / 2
    least_x = needed / full_y  # overlap along x below which even the full overlap along y is not enough
    area = flat_x * (half_sum_y - needed / full_x)
    area += half_sum_y * (full_x - least_x) - needed * np.log(full_x / least_x)
    result = np.zeros(hits.shape)
    result[hits] = 4 * area / stride**2
    return result


def reach_probability(boxes_wh: Floats, shapes_wh: Floats, stride: float, threshold: float = MATCH_THRESHOLD) -> Floats:
    """Share of the places of a box at which some position reaches ``threshold`` -> [T, S].

    The nearest position overlaps most, so this is the share of the offsets within half a stride.
    """
    full_x, full_y = _least_sides(boxes_wh, shapes_wh)
    half_sum_x, half_sum_y = ((boxes_wh[:, None, i] + shapes_wh[None, :, i]) / 2 for i in (0, 1))
    needed = _area_sums(boxes_wh, shapes_wh) * threshold / (1 + threshold)
    total = np.zeros_like(needed)
    for offset in _OFFSETS * stride / 2:
        needed_y = needed / np.clip(half_sum_x - offset, 1e-12, full_x)
        total += np.where(needed_y <= full_y, np.minimum(half_sum_y - needed_y, stride / 2), 0.0)
    return np.asarray(total / (len(_OFFSETS) * stride / 2))


def _area_sums(boxes_wh: Floats, shapes_wh: Floats) -> Floats:
    return np.asarray((boxes_wh[:, 0] * boxes_wh[:, 1])[:, None] + shapes_wh[:, 0] * shapes_wh[:, 1])


def _least_sides(boxes_wh: Floats, shapes_wh: Floats) -> tuple[Floats, Floats]:
    """The shorter width and the shorter height of every pair, each [T, S]."""
    width = np.minimum(boxes_wh[:, None, 0], shapes_wh[None, :, 0])
    return width, np.minimum(boxes_wh[:, None, 1], shapes_wh[None, :, 1])
