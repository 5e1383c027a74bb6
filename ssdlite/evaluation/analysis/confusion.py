"""Which class is taken for which, and for background; and what is found of objects by their size."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ssdlite.datasets.index import DetectionIndex
from ssdlite.evaluation.analysis.errors import ERROR_KINDS, error_kinds
from ssdlite.evaluation.analysis.matching import FloatArray, Matches


@dataclass(frozen=True)
class SizeBucket:
    """Objects of one range of sizes: how many, how many were found at the operating points, and at any score."""

    name: str
    meaning: str
    objects: int
    found: int
    found_at_any_score: int

    @property
    def share(self) -> float:
        """Of the objects, that is found; 0 where there are none."""
        return self.found / max(1, self.objects)


def count_confusions(index: DetectionIndex, matches: Matches, confused: Matches) -> dict[tuple[int, int], int]:
    """(label of objects, label that they were found as) -> how many; K is background. Pairs that never occur are left
    out: of 30,000 classes a matrix would take 7 GB.

    The detections of ``confused`` are on an object of another class; an object may be found, and called by another
    class as well. One that is neither was taken for background. All other false positives were made of background.
    """
    background = len(index.class_names)
    hits = matches.objects >= 0
    left = ~index.ignore
    left[matches.objects[hits]] = False
    left[confused.other_object] = False
    false_alarms = ~hits & ~matches.ignored & (error_kinds(matches) != ERROR_KINDS.index("classification"))
    counts = Counter((label, label) for label in matches.labels[hits].tolist())
    counts.update(zip(index.labels[confused.other_object].tolist(), confused.labels.tolist(), strict=True))
    counts.update((label, background) for label in index.labels[left].tolist())
    counts.update((background, label) for label in matches.labels[false_alarms].tolist())
    return dict(sorted(counts.items()))


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
