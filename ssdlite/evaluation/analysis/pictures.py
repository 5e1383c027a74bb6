"""The pictures to look at: where most goes wrong, and where the annotations themselves may be wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ssdlite.datasets.index import DetectionIndex
from ssdlite.evaluation.analysis.errors import BACKGROUND_IOU, ERROR_KINDS, error_kinds
from ssdlite.evaluation.analysis.matching import BoolArray, Matches, overlaps_by_picture

SURE_SCORE = 0.6  # of a detection that contradicts the annotations, at least; and the threshold of its class
SUSPECT_KINDS = {
    "unlabeled": "sure detections where no box is",
    "other_class": "boxes that are surely found as another class, and not as their own",
    "never_found": "boxes that no detection touches, of any class and at any score",
}


@dataclass(frozen=True)
class PictureErrors:
    """What went wrong in one picture at the operating points; ``position`` in the index."""

    position: int
    found: int
    missed: int  # objects that nothing of their class found
    false_alarms: int  # detections that found none

    @property
    def errors(self) -> int:
        return self.missed + self.false_alarms


@dataclass(frozen=True)
class LabelSuspect:
    """A box of the annotations (or one that they lack) to look at again."""

    kind: str  # of SUSPECT_KINDS
    position: int  # of its picture in the index
    box: tuple[float, float, float, float]
    annotated: str | None  # the class of the annotation, None where there is none
    detected: str | None
    score: float | None

    @property
    def caption(self) -> str:
        """What is written beside it in a picture."""
        return str(self.annotated) if self.score is None else f"{self.detected} {self.score:.2f}?"


def picture_errors(index: DetectionIndex, matches: Matches) -> list[PictureErrors]:
    """Of every picture with errors at the operating points, most of them first, then the share of errors."""
    hits = matches.objects >= 0
    found = np.bincount(matches.pictures[hits], minlength=len(index))
    wrong = np.bincount(matches.pictures[~hits & ~matches.ignored], minlength=len(index))
    owners = np.repeat(np.arange(len(index)), np.diff(index.offsets))
    missed = np.bincount(owners[~index.ignore], minlength=len(index)) - found
    errors = missed + wrong
    order = np.lexsort((-errors / np.maximum(errors + found, 1), -errors))
    return [PictureErrors(i, int(found[i]), int(missed[i]), int(wrong[i])) for i in order[errors[order] > 0].tolist()]


def label_suspects(
    index: DetectionIndex, every: Matches, thresholds: npt.NDArray[np.float64]
) -> dict[str, list[LabelSuspect]]:
    """By SUSPECT_KINDS, the most suspicious first. ``every`` is of all scores; ``thresholds`` [K] are the classes'."""
    sure = every.scores >= np.maximum(thresholds[every.labels], SURE_SCORE)
    kinds = error_kinds(every)
    in_crowd = _touches(index, every, index.ignore)
    unlabeled = sure & (kinds == ERROR_KINDS.index("background")) & ~in_crowd
    found = np.zeros(len(index.labels), bool)
    at_work = (every.objects >= 0) & (every.scores >= thresholds[every.labels])
    found[every.objects[at_work]] = True
    confused = sure & (kinds == ERROR_KINDS.index("classification"))
    confused[confused] = ~found[every.other_object[confused]]
    return {
        "unlabeled": [_of_detection(index, every, row, None) for row in _by_score(every, unlabeled)],
        "other_class": [
            _of_detection(index, every, row, int(every.other_object[row])) for row in _by_score(every, confused)
        ],
        "never_found": _never_found(index, every),
    }


def _by_score(every: Matches, chosen: BoolArray) -> list[int]:
    rows = np.flatnonzero(chosen)
    return [int(row) for row in rows[np.argsort(-every.scores[rows], kind="stable")]]


def _of_detection(index: DetectionIndex, every: Matches, row: int, number: int | None) -> LabelSuspect:
    annotated = None if number is None else index.class_names[index.labels[number]]
    box = every.boxes[row] if number is None else index.boxes[number]
    detected, score = index.class_names[every.labels[row]], float(every.scores[row])
    kind = "unlabeled" if number is None else "other_class"
    return LabelSuspect(kind, int(every.pictures[row]), _corners(box), annotated, detected, score)


def _never_found(index: DetectionIndex, every: Matches) -> list[LabelSuspect]:
    """The largest beside its picture first: those a detector has the least reason to miss."""
    owners = np.repeat(np.arange(len(index)), np.diff(index.offsets))
    areas = (index.boxes[:, 2:] - index.boxes[:, :2]).astype(np.float64).prod(axis=1)
    shares = areas / index.sizes[owners].astype(np.float64).prod(axis=1)
    rows = np.flatnonzero(~index.ignore & ~_touched(index, every))
    return [
        LabelSuspect(
            "never_found",
            int(owners[row]),
            _corners(index.boxes[row]),
            index.class_names[index.labels[row]],
            None,
            None,
        )
        for row in rows[np.argsort(-shares[rows], kind="stable")].tolist()
    ]


def _touches(index: DetectionIndex, every: Matches, chosen: BoolArray) -> BoolArray:
    """[D] whether a detection overlaps one of the ``chosen`` [N] objects by ``BACKGROUND_IOU`` or more."""
    touches = np.zeros(len(every), bool)
    for rows, objects, overlaps in overlaps_by_picture(index, every):
        touches[rows] = (overlaps[:, chosen[objects]] >= BACKGROUND_IOU).any(axis=1)
    return touches


def _touched(index: DetectionIndex, every: Matches) -> BoolArray:
    """[N] whether any detection overlaps an object by ``BACKGROUND_IOU`` or more."""
    touched = np.zeros(len(index.labels), bool)
    for _, objects, overlaps in overlaps_by_picture(index, every):
        touched[objects] = (overlaps >= BACKGROUND_IOU).any(axis=0)
    return touched


def _corners(box: npt.NDArray[np.floating]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (round(float(value), 2) for value in box)
    return x0, y0, x1, y1
