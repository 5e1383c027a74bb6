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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ssdlite.anchors import AnchorConfig, generate_anchors
from ssdlite.errors import ConfigError
from ssdlite.nms import pairwise_iou

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


# --- What the anchors do for the boxes of a data set: which they reach, on which map, and who goes without.

Float32s = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

SIZE_LIMITS = (16, 32, 64, 128)  # px at the network's resolution, square root of the area
SIZE_NAMES = ("< 16", "16-32", "32-64", "64-128", ">= 128")
ALL = "all"  # classes or sizes
COARSE_STRIDES = 2.0  # a shorter side below this many strides: even a perfect anchor has less than one match on average
CHUNK = 4_000_000  # box-anchor pairs held at once: 16 MiB for each of a few arrays


@dataclass(frozen=True)
class BoxCoverage:
    """What became of every box [T].

    best_iou: with any anchor. matches: anchors at IoU >= threshold. assigned: anchors that answer for the
    box once neighbours have taken theirs and every box was given its best one; 0 where a neighbour took
    that too. level: the map with most matches, or with the best anchor where there are none. too_coarse:
    that map's stride is more than half of the box's shorter side.
    """

    best_iou: Float32s
    matches: Ints
    assigned: Ints
    level: Ints
    too_coarse: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class GroupCoverage:
    """The boxes of one class and size bucket; both may be ALL."""

    class_name: str
    size: str
    boxes: int
    reached: float  # share, 0..1, with at least one match
    best_iou: float  # mean
    matches: float  # mean
    assigned: float  # mean
    too_coarse: float  # share, 0..1
    without_anchor: int  # boxes that lost even their best anchor to a neighbour
    strides: dict[int, int]  # boxes served, by the stride of the map


@dataclass(frozen=True)
class AnchorReport:
    """The audit of one set of anchors; ``groups`` has the size buckets of every class, then of all classes."""

    anchors: AnchorConfig
    image_size: tuple[int, int]
    strides: tuple[int, ...]
    threshold: float
    anchor_count: int
    groups: tuple[GroupCoverage, ...]
    boxes: BoxCoverage

    @property
    def total(self) -> GroupCoverage:
        return self.groups[-1]

    @property
    def unreached(self) -> Ints:
        """Numbers of the boxes that no anchor matches."""
        return np.flatnonzero(self.boxes.matches == 0)

    def for_class(self, name: str, size: str = ALL) -> GroupCoverage | None:
        """A class's group, or None where the class has no box of that size."""
        return next((g for g in self.groups if g.class_name == name and g.size == size), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the columns per box."""
        return {
            "anchors": self.anchor_count,
            "image_size": list(self.image_size),
            "threshold": self.threshold,
            "levels": describe_levels(self.anchors, self.image_size, self.strides),
            "groups": [
                vars(group) | {"strides": {str(k): v for k, v in group.strides.items()}} for group in self.groups
            ],
        }


def audit_anchors(
    anchors: AnchorConfig,
    *,
    image_size: tuple[int, int],
    strides: Sequence[int],
    boxes: npt.ArrayLike,
    labels: npt.ArrayLike,
    images: npt.ArrayLike,
    class_names: Sequence[str],
    threshold: float = MATCH_THRESHOLD,
) -> AnchorReport:
    """Audit ``anchors`` on boxes [T, 4] xyxy px of the network's input, labels [T] and images [T].

    ``image_size`` is (height, width); ``images`` numbers the image of each box, ascending, since boxes
    compete for anchors within an image only. Memory stays bounded whatever T is.
    """
    corners = np.asarray(boxes, np.float32).reshape(-1, 4)
    classes, owners = np.asarray(labels, np.int64).reshape(-1), np.asarray(images, np.int64).reshape(-1)
    if not len(corners) == len(classes) == len(owners):
        raise ConfigError(
            f"expected as many labels and images as boxes, got {len(corners)}, {len(classes)}, {len(owners)}"
        )
    if (np.diff(owners) < 0).any():
        raise ConfigError("expected the boxes in the order of their images")
    grids = [(-(-image_size[0] // stride), -(-image_size[1] // stride)) for stride in strides]
    placed = generate_anchors(anchors, image_size, grids)
    counts = [rows * columns * len(shapes) for (rows, columns), shapes in zip(grids, anchors.levels, strict=True)]
    starts = np.concatenate([[0], np.cumsum(counts)])
    parts = [
        _match(corners[part], owners[part], placed, starts, threshold)
        for part in _image_chunks(owners, max(1, CHUNK // len(placed)))
    ]
    best_iou, matches, assigned, level = (np.concatenate(column) for column in zip(*parts, strict=True))
    sides = corners[:, 2:] - corners[:, :2]
    too_coarse = np.asarray(strides)[level] * COARSE_STRIDES > sides.min(1, initial=np.inf)
    reach = BoxCoverage(best_iou, matches, assigned, level, too_coarse)
    buckets = size_buckets(sides)
    groups = _groups(reach, classes, buckets, class_names, strides)
    return AnchorReport(anchors, image_size, tuple(strides), threshold, len(placed), tuple(groups), reach)


def size_buckets(sides: Float32s) -> Ints:
    """(width, height) [T, 2] px -> the number of each box's entry in SIZE_NAMES [T]."""
    return np.asarray(np.digitize(np.sqrt(sides.prod(1)), SIZE_LIMITS), np.int64)


def describe_levels(anchors: AnchorConfig, image_size: tuple[int, int], strides: Sequence[int]) -> list[dict[str, Any]]:
    """Per level its stride and shapes: pixels, scale (square root of the share of the image's area), ratio."""
    height, width = image_size
    levels = []
    for stride, shapes in zip(strides, anchors.sides(image_size), strict=True):
        described = [
            {
                "width": round(w, 1),
                "height": round(h, 1),
                "scale": round(float(np.sqrt(w * h / (width * height))), 3),
                "ratio": round(w / h, 2),
            }
            for w, h in shapes.tolist()
        ]
        levels.append({"stride": stride, "shapes": described})
    return levels


def _image_chunks(owners: Ints, size: int) -> Iterator[slice]:
    """Slices of about ``size`` boxes that do not divide an image; at least one, which may be empty."""
    begin, total = 0, len(owners)
    while True:
        end = min(begin + size, total)
        if end < total:
            first = int(np.searchsorted(owners, owners[end], side="left"))
            end = first if first > begin else int(np.searchsorted(owners, owners[end], side="right"))
        yield slice(begin, end)
        if end >= total:
            return
        begin = end


def _match(
    boxes: Float32s, owners: Ints, anchors: Float32s, starts: Ints, threshold: float
) -> tuple[Float32s, Ints, Ints, Ints]:
    """best_iou, matches, assigned and level (see BoxCoverage) of the boxes of some whole images."""
    count, levels = len(boxes), len(starts) - 1
    if not count:
        none = np.empty(0, np.int64)
        return np.empty(0, np.float32), none, none, none
    iou = pairwise_iou(boxes, anchors)
    best = iou.argmax(1)
    best_iou = iou[np.arange(count), best]
    rows, columns = np.nonzero(iou >= threshold)
    level_of = np.searchsorted(starts, columns, side="right") - 1
    per_level = np.bincount(rows * levels + level_of, minlength=count * levels).reshape(count, levels)
    best_level = np.searchsorted(starts, best, side="right") - 1
    level = np.where(per_level.any(1), per_level.argmax(1), best_level)
    places = owners * len(anchors)  # an anchor of one image
    assigned = _assign(places[rows] + columns, rows, iou[rows, columns], places + best, best_iou > 0)
    return best_iou, per_level.sum(1), assigned, level


def _assign(places: Ints, rows: Ints, iou: Float32s, best_places: Ints, overlaps: npt.NDArray[np.bool_]) -> Ints:
    """How many anchors each box ends with, by the rule of ``ssdlite.heads.base``.

    places, rows, iou [P]: the pairs over the threshold. best_places [N]: each box's best anchor.
    """
    order = np.lexsort((rows, -iou, places))
    places, rows = places[order], rows[order]
    winners = np.ones(len(places), bool)
    winners[1:] = places[1:] != places[:-1]
    later_first = np.flatnonzero(overlaps)[::-1]  # of two boxes with one best anchor the later has it
    forced, index = np.unique(best_places[later_first], return_index=True)
    winners &= ~np.isin(places, forced)
    held = np.bincount(rows[winners], minlength=len(best_places))
    return np.asarray(held + np.bincount(later_first[index], minlength=len(best_places)), np.int64)


def _groups(
    reach: BoxCoverage, labels: Ints, buckets: Ints, class_names: Sequence[str], strides: Sequence[int]
) -> Iterator[GroupCoverage]:
    everything = np.ones(len(labels), bool)
    for name, members in [*((name, labels == i) for i, name in enumerate(class_names)), (ALL, everything)]:
        for bucket, size in enumerate(SIZE_NAMES):
            if (members & (buckets == bucket)).any():
                yield _group(reach, members & (buckets == bucket), name, size, strides)
        if members.any() or name == ALL:
            yield _group(reach, members, name, ALL, strides)


def _group(
    reach: BoxCoverage, members: npt.NDArray[np.bool_], name: str, size: str, strides: Sequence[int]
) -> GroupCoverage:
    count = int(members.sum())

    def mean(values: npt.NDArray[Any]) -> float:
        return round(float(values[members].mean()), 4) if count else 0.0

    served = np.bincount(reach.level[members], minlength=len(strides))
    return GroupCoverage(
        class_name=name,
        size=size,
        boxes=count,
        reached=mean(reach.matches > 0),
        best_iou=mean(reach.best_iou),
        matches=mean(reach.matches),
        assigned=mean(reach.assigned),
        too_coarse=mean(reach.too_coarse),
        without_anchor=int((reach.assigned[members] == 0).sum()),
        strides={stride: int(n) for stride, n in zip(strides, served, strict=True) if n},
    )
