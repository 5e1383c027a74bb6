"""Which detection found which object, at IoU 0.5, as COCO's evaluation matches them; and what else each lies on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ssdlite.datasets.index import DetectionIndex, Record
from ssdlite.detections import Detections
from ssdlite.nms import pairwise_iou

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MATCH_IOU = 0.5


@dataclass(frozen=True)
class Matches:
    """All D detections of a split in the order of its pictures, each with what it lies on. -1: no object.

    Objects are rows of the index; those to be ignored are never matched, nor counted as lain on.
    """

    pictures: IntArray  # [D] position in the index
    labels: IntArray  # [D]
    scores: FloatArray  # [D]
    boxes: FloatArray  # [D, 4] xyxy pixels
    objects: IntArray  # [D] the object of its class that it found; a better one may have found it before
    ignored: BoolArray  # [D] it found none, and lies in a crowd region or on a difficult object of its class
    own_object: IntArray  # [D] the object of its class that it overlaps most
    own_iou: FloatArray  # [D]
    other_object: IntArray  # [D] the object of another class that it overlaps most
    other_iou: FloatArray  # [D]

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, chosen: BoolArray) -> Matches:
        """Only some of the detections: those above a threshold keep what they found."""
        return Matches(*(column[chosen] for column in vars(self).values()))


def match(index: DetectionIndex, results: Mapping[int, Detections]) -> Matches:
    """``results`` by position in the index, as ``Evaluator.state()`` has them.

    Best score first, a detection finds the object of its class that it overlaps most, of those that are free and that
    it overlaps by at least ``MATCH_IOU``. One that finds none is ignored if at least that share of it lies on an object
    to be ignored.
    """
    parts = [
        _match_picture(position, index.record(position), int(index.offsets[position]), found)
        for position, found in sorted(results.items())
        if len(found)
    ]
    nothing = _match_picture(0, _NO_RECORD, 0, Detections(*_NO_DETECTIONS, ()))
    columns = zip(*(vars(part).values() for part in (nothing, *parts)), strict=True)
    return Matches(*(np.concatenate(column) for column in columns))


def overlaps_by_picture(index: DetectionIndex, matches: Matches) -> Iterator[tuple[IntArray, IntArray, FloatArray]]:
    """Of each picture with detections: their rows [D'], its objects' rows [N'], and the IoU of each with each."""
    starts = np.searchsorted(matches.pictures, np.arange(len(index) + 1))
    for picture in np.unique(matches.pictures).tolist():
        rows = np.arange(starts[picture], starts[picture + 1])
        objects = np.arange(index.offsets[picture], index.offsets[picture + 1])
        yield rows, objects, pairwise_iou(matches.boxes[rows], index.boxes[objects].astype(np.float64))


_NO_DETECTIONS = np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64)
_NO_RECORD = Record(0, "", (1, 1), *_NO_DETECTIONS[:1], *(np.empty(0, kind) for kind in (np.int64, np.float32, bool)))


def _match_picture(position: int, truth: Record, first_object: int, found: Detections) -> Matches:
    order = np.argsort(-found.scores, kind="stable")
    labels, boxes = found.labels[order], found.boxes[order].astype(np.float64)
    overlaps = pairwise_iou(boxes, truth.boxes.astype(np.float64))
    own = labels[:, None] == truth.labels[None, :]
    on_own = np.where(own & ~truth.ignore, overlaps, 0.0)
    own_object, own_iou = _largest(on_own, first_object)
    other_object, other_iou = _largest(np.where(own | truth.ignore, 0.0, overlaps), first_object)
    objects = np.full(len(order), -1, np.int64)
    free = np.ones(len(truth.labels), bool)
    for place in np.flatnonzero(own_iou >= MATCH_IOU).tolist():
        candidates = np.where(free, on_own[place], 0.0)
        best = int(candidates.argmax())
        if candidates[best] >= MATCH_IOU:
            objects[place], free[best] = first_object + best, False
    inside = _share_inside(boxes, truth.boxes.astype(np.float64), overlaps)
    ignored = (objects < 0) & ((inside >= MATCH_IOU) & own & truth.ignore).any(axis=1)
    return Matches(
        np.full(len(order), position, np.int64),
        labels,
        found.scores[order].astype(np.float64),
        boxes,
        objects,
        ignored,
        own_object,
        own_iou,
        other_object,
        other_iou,
    )


def _largest(overlaps: FloatArray, first_object: int) -> tuple[IntArray, FloatArray]:
    """[D, N] -> of each row where its largest value stands, -1 where all are 0, and that value."""
    if not overlaps.shape[1]:
        return np.full(len(overlaps), -1, np.int64), np.zeros(len(overlaps))
    largest = overlaps.max(axis=1)
    return np.where(largest > 0, first_object + overlaps.argmax(axis=1), -1), largest


def _share_inside(boxes: FloatArray, others: FloatArray, overlaps: FloatArray) -> FloatArray:
    """[D, N]: which share of a box's own area lies in each other box, by their IoU."""
    area, other_area = ((one[:, 2:] - one[:, :2]).prod(axis=1) for one in (boxes, others))
    shared = overlaps * (area[:, None] + other_area[None, :]) / (1 + overlaps)
    share: FloatArray = shared / np.maximum(area, np.finfo(np.float64).tiny)[:, None]
    return share
