"""Which boxes a set of anchors covers, on which map, and what an anchor shape is worth to a box wherever that stands.

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
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ssdlite.anchors import AnchorConfig, generate_anchors
from ssdlite.datasets.index import DetectionIndex
from ssdlite.errors import ConfigError
from ssdlite.images.geometry import Resize, fit_window
from ssdlite.nms import pairwise_iou

Floats = npt.NDArray[np.float64]
Float32s = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

MATCH_THRESHOLD = 0.5  # the matcher's: an anchor takes a box from this IoU on
PERFECT_FIT = 4 / 3 - 8 / 3 * math.log(1.5)  # 0.252 positions for a box of one stride and an anchor of its shape


def shape_iou(boxes_wh: Floats, shapes_wh: Floats) -> Floats:
    """IoU of boxes [T, 2] and shapes [S, 2] laid on a common centre -> [T, S]."""
    centerd = [np.concatenate([-sides / 2, sides / 2], axis=1) for sides in (boxes_wh, shapes_wh)]
    return pairwise_iou(centerd[0], centerd[1])


def expected_positives(
    boxes_wh: Floats, shapes_wh: Floats, stride: float, threshold: float = MATCH_THRESHOLD
) -> Floats:
    """Mean number of positions whose anchor has an IoU of ``threshold``: boxes [T, 2], shapes [S, 2] -> [T, S].

    In closed form, and without border effects, since a map has no positions outside the image. Along each axis
    the overlap stays at the shorter side until the offset is half of the difference of the sides, and falls by the
    offset from there.
    """
    full_x, full_y = (np.minimum(boxes_wh[:, None, i], shapes_wh[None, :, i]) for i in (0, 1))
    areas = boxes_wh.prod(1)[:, None] + shapes_wh.prod(1)
    needed = areas * threshold / (1 + threshold)
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


@dataclass(frozen=True)
class InputBoxes:
    """The objects of a split at the network's resolution; crowds and ``difficult`` ones left out.

    boxes [T, 4] xyxy px of the input, labels [T], images [T] ascending positions in the index, rows [T] of its objects.
    """

    boxes: Float32s
    labels: Ints
    images: Ints
    rows: Ints

    @cached_property
    def sides(self) -> Float32s:
        """(width, height) [T, 2] px."""
        return self.boxes[:, 2:] - self.boxes[:, :2]


def input_boxes(index: DetectionIndex, image_size: tuple[int, int], resize: Resize) -> InputBoxes:
    """The boxes of ``index`` in input pixels, without augmentation; image_size is (height, width)."""
    counts = np.diff(index.offsets)
    boxes = index.boxes.copy()
    for i in np.flatnonzero(counts).tolist():
        part = slice(int(index.offsets[i]), int(index.offsets[i + 1]))
        height, width = index.sizes[i].tolist()
        boxes[part] = fit_window((height, width), image_size, resize).boxes_to_input(boxes[part])
    rows = np.flatnonzero(~index.ignore)
    return InputBoxes(boxes[rows], index.labels[rows], np.repeat(np.arange(len(index)), counts)[rows], rows)


# --- What the anchors do for the boxes of a data set: which they cover, on which map, and who goes without.

SIZE_LIMITS = (16, 32, 64, 128)  # px at the network's resolution, square root of the area
SIZE_NAMES = ("< 16", "16-32", "32-64", "64-128", ">= 128")
ALL = "all"  # classes or sizes
COARSE_STRIDES = 2.0  # a shorter side below this many strides: even a perfect anchor has less than one match on average
PAIRS_A_CHUNK = 4_000_000  # box-anchor pairs held at once: 16 MiB for each of a few arrays


class BoxCoverage(NamedTuple):
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
    covered: float  # share, 0..1, with at least one match
    best_iou: float  # mean
    matches: float  # mean
    assigned: float  # mean
    too_coarse: float  # share, 0..1
    without_anchor: int  # boxes that lost even their best anchor to a neighbour
    strides: dict[int, int]  # boxes served, by the stride of the map

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return vars(self) | {"strides": {str(stride): count for stride, count in self.strides.items()}}


@dataclass(frozen=True)
class AnchorCoverage:
    """What one set of anchors covers; ``groups`` has the size buckets of every class, then of all classes."""

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
    def uncovered(self) -> Ints:
        """Numbers of the boxes that no anchor matches."""
        return np.flatnonzero(self.boxes.matches == 0)

    def for_class(self, name: str, size: str = ALL) -> GroupCoverage | None:
        """A class's group, or None where the class has no box of that size."""
        return next((g for g in self.groups if g.class_name == name and g.size == size), None)

    def levels(self) -> list[dict[str, Any]]:
        """Per map its stride and shapes: pixels, scale (square root of the share of the image's area), ratio."""
        height, width = self.image_size
        described = [
            [
                {
                    "width": round(w, 1),
                    "height": round(h, 1),
                    "scale": round(float(np.sqrt(w * h / (width * height))), 3),
                    "ratio": round(w / h, 2),
                }
                for w, h in shapes.tolist()
            ]
            for shapes in self.anchors.sides(self.image_size)
        ]
        return [{"stride": stride, "shapes": shapes} for stride, shapes in zip(self.strides, described, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the columns per box."""
        return {
            "anchors": self.anchor_count,
            "image_size": list(self.image_size),
            "threshold": self.threshold,
            "levels": self.levels(),
            "groups": [group.to_dict() for group in self.groups],
        }


def measure_coverage(
    anchors: AnchorConfig,
    boxes: InputBoxes,
    *,
    image_size: tuple[int, int],
    strides: Sequence[int],
    class_names: Sequence[str],
    threshold: float = MATCH_THRESHOLD,
) -> AnchorCoverage:
    """Best possible recall and label assignment of ``anchors`` for ``boxes``; ``image_size`` is (height, width).

    Boxes compete for anchors within an image only. Memory stays bounded however many there are.

    Raises:
        ConfigError: the columns of the boxes differ in length, or they are not in the order of their images.
    """
    corners, images = boxes.boxes, boxes.images
    if not len(corners) == len(boxes.labels) == len(images):
        raise ConfigError(
            f"expected as many labels and images as boxes, got {len(corners)}, {len(boxes.labels)}, {len(images)}"
        )
    if (np.diff(images) < 0).any():
        raise ConfigError("expected the boxes in the order of their images")
    grids = [(-(-image_size[0] // stride), -(-image_size[1] // stride)) for stride in strides]
    placed = generate_anchors(anchors, image_size, grids)
    counts = [rows * columns * len(shapes) for (rows, columns), shapes in zip(grids, anchors.levels, strict=True)]
    starts = np.concatenate([[0], np.cumsum(counts)])
    parts = [
        _match(corners[part], images[part], placed, starts, threshold)
        for part in _image_chunks(images, max(1, PAIRS_A_CHUNK // len(placed)))
    ]
    best_iou, matches, assigned, level = (np.concatenate(column) for column in zip(*parts, strict=True))
    too_coarse = np.asarray(strides)[level] * COARSE_STRIDES > boxes.sides.min(1, initial=np.inf)
    coverage = BoxCoverage(best_iou, matches, assigned, level, too_coarse)
    groups = _groups(coverage, boxes, class_names, strides)
    return AnchorCoverage(anchors, image_size, tuple(strides), threshold, len(placed), tuple(groups), coverage)


def size_buckets(sides: Float32s) -> Ints:
    """(width, height) [T, 2] px -> the number of each box's entry in SIZE_NAMES [T]."""
    return np.asarray(np.digitize(np.sqrt(sides.prod(1)), SIZE_LIMITS), np.int64)


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
    """best_iou, matches, assigned and level (see BoxCoverage) of the boxes of some whole images.

    The anchors of level i stand at starts[i]:starts[i + 1].
    """
    count, levels = len(boxes), len(starts) - 1
    best, best_iou, rows, columns, iou = _overlaps(boxes, anchors, threshold)
    level_of = np.searchsorted(starts, columns, side="right") - 1
    per_level = np.bincount(rows * levels + level_of, minlength=count * levels).reshape(count, levels)
    best_level = np.searchsorted(starts, best, side="right") - 1
    level = np.where(per_level.any(1), per_level.argmax(1), best_level)
    places = owners * len(anchors)  # an anchor of one image
    assigned = _assign(places[rows] + columns, rows, iou, places + best, best_iou > 0)
    return best_iou, per_level.sum(1), assigned, level


def _overlaps(boxes: Float32s, anchors: Float32s, threshold: float) -> tuple[Ints, Float32s, Ints, Ints, Float32s]:
    """Each box's best anchor [N] and its IoU [N]; the pairs at or over the threshold: boxes, anchors, IoU [P] each."""
    size = max(1, PAIRS_A_CHUNK // len(anchors))
    parts = []
    for start in range(0, max(len(boxes), 1), size):
        iou = pairwise_iou(boxes[start : start + size], anchors)
        best = iou.argmax(1)
        rows, columns = np.nonzero(iou >= threshold)
        parts.append((best, iou[np.arange(len(iou)), best], rows + start, columns, iou[rows, columns]))
    best, best_iou, rows, columns, over = (np.concatenate(column) for column in zip(*parts, strict=True))
    return best, best_iou, rows, columns, over


def _assign(places: Ints, rows: Ints, iou: Float32s, best_places: Ints, overlaps: npt.NDArray[np.bool_]) -> Ints:
    """How many anchors each box ends with, by the rule of ``MaxIoUAssigner`` (``ssdlite.heads.assigners``).

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
    coverage: BoxCoverage, boxes: InputBoxes, class_names: Sequence[str], strides: Sequence[int]
) -> Iterator[GroupCoverage]:
    buckets = size_buckets(boxes.sides)
    classes = [(name, boxes.labels == label) for label, name in enumerate(class_names)]
    for class_name, of_class in [*classes, (ALL, np.ones(len(buckets), bool))]:
        sizes = [(size, of_class & (buckets == bucket)) for bucket, size in enumerate(SIZE_NAMES)]
        for size, members in [*sizes, (ALL, of_class)]:
            if members.any() or class_name == size == ALL:
                own = BoxCoverage(*(column[members] for column in coverage))
                yield _group(class_name, size, own, strides)


def _group(class_name: str, size: str, boxes: BoxCoverage, strides: Sequence[int]) -> GroupCoverage:
    def mean(values: npt.NDArray[Any]) -> float:
        return round(float(values.mean()), 4) if len(values) else 0.0

    served = np.bincount(boxes.level, minlength=len(strides))
    return GroupCoverage(
        class_name=class_name,
        size=size,
        boxes=len(boxes.level),
        covered=mean(boxes.matches > 0),
        best_iou=mean(boxes.best_iou),
        matches=mean(boxes.matches),
        assigned=mean(boxes.assigned),
        too_coarse=mean(boxes.too_coarse),
        without_anchor=int((boxes.assigned == 0).sum()),
        strides={stride: int(n) for stride, n in zip(strides, served, strict=True) if n},
    )
