"""Pascal VOC's average precision, in both of its forms, as the development kit (VOCevaldet.m) computes it.

Our boxes are 0-based and half-open, so their plain IoU is the kit's, whose corners are 1-based and inclusive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ssdlite.datasets.index import DetectionIndex, Record
from ssdlite.detections import Detections
from ssdlite.nms import pairwise_iou

FloatArray = npt.NDArray[np.float64]

ELEVEN_RECALLS = np.arange(11) / 10  # exact tenths, so that a recall of 3/10 does reach 0.3


@dataclass(frozen=True)
class VocAP:
    """Average precision at one IoU, in 0..1; None where there is no object to find."""

    ap_11point: float | None  # VOC2007: mean precision at the recalls 0, 0.1, ..., 1
    ap_all_points: float | None  # VOC2010 and later: area under the curve


@dataclass(frozen=True)
class VocMetrics:
    """``mean`` is over the classes that have objects."""

    mean: VocAP
    per_class: dict[str, VocAP]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def compute_voc_metrics(
    index: DetectionIndex, results: Mapping[int, Detections], iou_threshold: float = 0.5
) -> VocMetrics:
    """Score what ``Evaluator.state()`` collected against ``index``.

    Over the whole split, best score first, each detection is matched to the object of its class and image with the
    highest IoU. It is a true positive if that object is not matched yet, otherwise (or if the IoU is below
    the threshold) a false positive. Detections matched to a ``difficult`` object (``index.ignore``) are neither.
    """
    found = _match(index, results, iou_threshold)
    positives = index.object_counts()
    per_class = {}
    for label, name in enumerate(index.class_names):
        own = _Matches(*(column[found.labels == label] for column in found))
        per_class[name] = _score_class(own, positives[name])
    return VocMetrics(
        mean=VocAP(
            ap_11point=_mean([ap.ap_11point for ap in per_class.values()]),
            ap_all_points=_mean([ap.ap_all_points for ap in per_class.values()]),
        ),
        per_class=per_class,
    )


def average_precision_11point(recall: FloatArray, precision: FloatArray) -> float:
    """Mean over the recalls 0, 0.1, ..., 1 of the best precision at that recall or beyond.

    recall [D] and precision [D] after each detection, best score first. The kit's own 0:0.1:1 is not exact;
    where a recall equals a tenth the two may differ.
    """
    reached = recall[None, :] >= ELEVEN_RECALLS[:, None]
    return float(np.where(reached, precision, 0.0).max(axis=1, initial=0.0).mean())


def average_precision_all_points(recall: FloatArray, precision: FloatArray) -> float:
    """Area below the precision-recall curve, each precision raised to the best one from its recall on."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


class _Matches(NamedTuple):
    """Every detection of the split: where it went. Columns of length D."""

    labels: npt.NDArray[np.int64]
    scores: FloatArray
    objects: npt.NDArray[np.int64]  # row of the ground truth in the index, -1 for none
    ignored: npt.NDArray[np.bool_]  # it went to a difficult one


def _match(index: DetectionIndex, results: Mapping[int, Detections], iou_threshold: float) -> _Matches:
    columns = [
        _match_image(index.record(position), int(index.offsets[position]), result, iou_threshold)
        for position, result in sorted(results.items())
    ]
    nothing = _Matches(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64), np.empty(0, np.bool_))
    return _Matches(*(np.concatenate(parts) for parts in zip(nothing, *columns, strict=True)))


def _match_image(truth: Record, first_object: int, found: Detections, iou_threshold: float) -> _Matches:
    objects = np.full(len(found.labels), -1, np.int64)
    ignored = np.zeros(len(found.labels), np.bool_)
    if len(truth.labels) and len(found.labels):
        overlaps = pairwise_iou(found.boxes.astype(np.float64), truth.boxes.astype(np.float64))
        overlaps[found.labels[:, None] != truth.labels[None, :]] = -1.0
        best = overlaps.argmax(axis=1)
        hit = overlaps.max(axis=1) >= iou_threshold
        objects[hit] = first_object + best[hit]
        ignored[hit] = truth.ignore[best[hit]]
    return _Matches(found.labels, found.scores.astype(np.float64), objects, ignored)


def _score_class(found: _Matches, positives: int) -> VocAP:
    """``found`` holds one class's detections, ``positives`` counts its objects that are not difficult."""
    if positives == 0:
        return VocAP(None, None)
    order = np.argsort(-found.scores, kind="stable")
    objects = found.objects[order][~found.ignored[order]]
    hits = np.zeros(len(objects), np.bool_)
    claimed, first = np.unique(objects, return_index=True)
    hits[first[claimed >= 0]] = True  # later detections of the same object are misses
    true_positives = np.cumsum(hits)
    recall = true_positives / positives
    precision = true_positives / np.arange(1, len(hits) + 1)
    return VocAP(
        ap_11point=average_precision_11point(recall, precision),
        ap_all_points=average_precision_all_points(recall, precision),
    )


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
