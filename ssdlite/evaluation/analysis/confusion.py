"""Which class is taken for which, and for background; and what is found of objects by their size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ssdlite.datasets.index import DetectionIndex
from ssdlite.evaluation.analysis.matching import (
    MATCH_IOU,
    BoolArray,
    FloatArray,
    Matches,
    overlaps_by_picture,
)


@dataclass(frozen=True)
class SizeBucket:
    """Objects of one range of sizes: how many, how many were found at the operating points, and at any score."""

    name: str
    meaning: str
    objects: int
    found: int
    found_at_any_score: int


def count_confusions(index: DetectionIndex, matches: Matches) -> dict[tuple[int, int], int]:
    """(label of objects, label that they were taken for) -> how many; K is background. Pairs that never occur are left
    out: of 30,000 classes a matrix would take 7 GB.

    Of detections and objects that did not find one another, those that overlap by ``MATCH_IOU`` or more are paired,
    the largest overlap first. A detection that is left was made of background, an object that is left was taken for it.
    """
    background = len(index.class_names)
    taken_for = np.full(len(index.labels), background, np.int64)
    hits = matches.objects >= 0
    taken_for[matches.objects[hits]] = matches.labels[hits]
    free = (taken_for == background) & ~index.ignore
    rest = matches.where(~hits & ~matches.ignored)
    paired = np.zeros(len(rest), bool)
    for detection, number in _pairs(index, rest, free):
        taken_for[number], paired[detection] = rest.labels[detection], True
    real = ~index.ignore
    counts = Counter(zip(index.labels[real].tolist(), taken_for[real].tolist(), strict=True))
    counts.update((background, label) for label in rest.labels[~paired].tolist())
    return dict(sorted(counts.items()))


def _pairs(index: DetectionIndex, rest: Matches, free: BoolArray) -> Iterator[tuple[int, int]]:
    """(detection, object), greedily by their overlap; every one at most once."""
    for rows, objects, overlaps in overlaps_by_picture(index, rest):
        overlaps[:, ~free[objects]] = 0
        while overlaps.size and overlaps.max() >= MATCH_IOU:
            row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
            yield int(rows[row]), int(objects[column])
            overlaps[row], overlaps[:, column] = 0, 0


COCO_SIZES = (
    ("small", "below 32 x 32 pixels", 0.0),
    ("medium", "from 32 x 32 to 96 x 96 pixels", 32.0),
    ("large", "from 96 x 96 pixels", 96.0),
)
RELATIVE_SIZES = (  # the root of the share of the picture that a box takes: its side in a picture of side 1
    ("below 5%", "of the picture's side", 0.0),
    ("5% to 10%", "", 0.05),
    ("10% to 20%", "", 0.1),
    ("20% to 40%", "", 0.2),
    ("from 40%", "", 0.4),
)


def pixel_sizes(index: DetectionIndex, found: Matches, every: Matches) -> list[SizeBucket]:
    """By COCO's ranges of the annotated area. ``found`` is of the operating points, ``every`` of all scores."""
    return _buckets(np.sqrt(index.areas.astype(np.float64)), COCO_SIZES, index, found, every)


def relative_sizes(index: DetectionIndex, found: Matches, every: Matches) -> list[SizeBucket]:
    """By the box's size beside its picture's, which is what the network sees of it."""
    boxes = (index.boxes[:, 2:] - index.boxes[:, :2]).astype(np.float64).prod(axis=1)
    pictures = np.repeat(index.sizes.astype(np.float64).prod(axis=1), np.diff(index.offsets))
    return _buckets(np.sqrt(boxes / pictures), RELATIVE_SIZES, index, found, every)


def _buckets(
    sides: FloatArray,
    ranges: tuple[tuple[str, str, float], ...],
    index: DetectionIndex,
    found: Matches,
    every: Matches,
) -> list[SizeBucket]:
    bucket = np.searchsorted([least for *_, least in ranges], sides, side="right") - 1
    hits = [one.objects[one.objects >= 0] for one in (found, every)]
    columns = (bucket[~index.ignore], *(bucket[one] for one in hits))
    counts = zip(*(np.bincount(column, minlength=len(ranges)).tolist() for column in columns), strict=True)
    return [SizeBucket(name, meaning, *row) for (name, meaning, _), row in zip(ranges, counts, strict=True)]
