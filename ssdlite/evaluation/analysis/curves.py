"""Precision and recall over the scores, at IoU 0.5: average precision, curves, and the threshold with the best F1."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ssdlite.datasets.index import DetectionIndex
from ssdlite.evaluation.analysis.matching import BoolArray, FloatArray, IntArray, Matches
from ssdlite.runtime.operating_points import OperatingPoint

RECALL_LEVELS = np.arange(101) / 100  # those of COCO's AP


class Curve(NamedTuple):
    """After each of the different scores of a class, the best first."""

    scores: FloatArray
    precision: FloatArray
    recall: FloatArray


def curve(scores: FloatArray, hits: BoolArray, positives: int) -> Curve:
    """scores [D] and whether each detection found an object, of ``positives`` (at least one) in all."""
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], hits[order].cumsum()
    last_of_score = np.append(scores[1:] != scores[:-1], True)[: len(scores)]
    counts = np.flatnonzero(last_of_score) + 1
    return Curve(scores[last_of_score], found[last_of_score] / counts, found[last_of_score] / positives)


def interpolated(one: Curve) -> FloatArray:
    """[101]: the best precision at each of ``RECALL_LEVELS`` or beyond; the mean is COCO's AP at this IoU."""
    envelope = np.maximum.accumulate(one.precision[::-1])[::-1]
    places = np.searchsorted(one.recall, RECALL_LEVELS - 1e-12)
    return np.append(envelope, 0.0)[places]


def best_f1(one: Curve) -> OperatingPoint | None:
    """The threshold with the best F1, the highest of several; None where nothing is found at any."""
    total = one.precision + one.recall
    f1 = 2 * one.precision * one.recall / np.where(total > 0, total, 1.0)
    if not f1.size or f1.max() == 0:
        return None
    best = int(f1.argmax())
    return OperatingPoint(*(float(column[best]) for column in (*one, f1)))


def class_curves(matches: Matches, positives: IntArray) -> dict[int, Curve]:
    """By label, of the classes with ``positives`` [K]; ignored detections do not count."""
    counted = matches.where(~matches.ignored)
    return curves_by_label(counted.labels, counted.scores, counted.objects >= 0, positives)


def curves_by_label(labels: IntArray, scores: FloatArray, hits: BoolArray, positives: IntArray) -> dict[int, Curve]:
    """The same of columns [D]: label, score, and whether an object was found."""
    order = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[order], np.arange(len(positives) + 1))
    scores, hits = scores[order], hits[order]
    return {
        label: curve(scores[ends[label] : ends[label + 1]], hits[ends[label] : ends[label + 1]], int(positives[label]))
        for label in np.flatnonzero(positives).tolist()
    }


def positives_of(index: DetectionIndex) -> npt.NDArray[np.int64]:
    """[K] the objects to find, by label."""
    return np.bincount(index.labels[~index.ignore], minlength=len(index.class_names))


def operating_points(index: DetectionIndex, matches: Matches) -> dict[str, OperatingPoint]:
    """By class name, of the classes of which an object is there and found."""
    points = ((label, best_f1(one)) for label, one in class_curves(matches, positives_of(index)).items())
    return {index.class_names[label]: point for label, point in points if point is not None}
