"""Why average precision is lost: the six kinds of errors of TIDE (Bolya et al. 2020, arXiv 2008.08115), at IoU 0.5.

The weight of a kind is what AP50 gains where an oracle corrects all errors of that kind and no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ssdlite.datasets.index import DetectionIndex
from ssdlite.evaluation.analysis.curves import curves_by_label, interpolated, positives_of
from ssdlite.evaluation.analysis.matching import MATCH_IOU, BoolArray, FloatArray, IntArray, Matches
from ssdlite.images.prediction import DEFAULT_SCORE_THRESHOLD

BACKGROUND_IOU = 0.1  # what overlaps every object by less lies on none (section 2.2 of the paper)
ERROR_KINDS = (
    "classification",
    "localization",
    "both",
    "duplicate",
    "background",
)  # of false positives; "missed" beside
NO_ERROR = -1


@dataclass(frozen=True)
class ErrorWeights:
    """AP50 over the classes with objects, and what each kind of error takes of it, each in 0..1."""

    AP50: float | None  # None where there is no object to find
    loss: dict[str, float]  # by ERROR_KINDS and "missed"


def error_kinds(matches: Matches) -> IntArray:
    """[D] a place in ``ERROR_KINDS`` for each false positive, ``NO_ERROR`` for what found an object or is ignored.

    Where several hold, which the paper leaves open, it is the first of: duplicate (its own object was found already),
    classification, localization, both, background.
    """
    own, other = matches.own_iou, matches.other_iou
    holds = [
        (matches.objects >= 0) | matches.ignored,
        own >= MATCH_IOU,
        other >= MATCH_IOU,
        own >= BACKGROUND_IOU,
        other >= BACKGROUND_IOU,
    ]
    names = ("duplicate", "classification", "localization", "both")
    return np.select(holds, [NO_ERROR, *map(ERROR_KINDS.index, names)], ERROR_KINDS.index("background"))


def missed_objects(index: DetectionIndex, matches: Matches) -> BoolArray:
    """[N] which objects nothing found, nor is the target of a classification or localization error."""
    kinds = error_kinds(matches)
    hit = np.zeros(len(index.labels), bool)
    hit[matches.objects[matches.objects >= 0]] = True
    hit[matches.other_object[kinds == ERROR_KINDS.index("classification")]] = True
    hit[matches.own_object[kinds == ERROR_KINDS.index("localization")]] = True
    return ~hit & ~index.ignore


def confused_detections(index: DetectionIndex, found: Matches, thresholds: FloatArray) -> Matches:
    """Those that call an object by another class, at thresholds [K]; ``found`` is of all classes and scores.

    The threshold with the best F1 lies above most of what its class is wrongly given to. So of an object that nothing
    at the thresholds lies on, the best of the detections counts, where it is of another class and would be shown at
    ``DEFAULT_SCORE_THRESHOLD``.
    """
    scored = positives_of(index) > 0
    wrong = error_kinds(found) == ERROR_KINDS.index("classification")
    at_work = found.scores >= thresholds[found.labels]
    chosen = wrong & at_work & scored[found.labels]
    hits = found.objects >= 0
    explained = np.zeros(len(index.labels), bool)
    explained[found.objects[hits & at_work]] = True
    explained[found.other_object[chosen]] = True
    own_score = np.zeros(len(index.labels))
    own_score[found.objects[hits]] = found.scores[hits]
    rows = np.flatnonzero(wrong & (found.scores >= np.minimum(thresholds, DEFAULT_SCORE_THRESHOLD)[found.labels]))
    targets = found.other_object[rows]
    rows = rows[~explained[targets] & (found.scores[rows] > own_score[targets])]
    rows = rows[np.argsort(-found.scores[rows], kind="stable")]
    _, best = np.unique(found.other_object[rows], return_index=True)
    chosen[rows[best]] = True
    return found.where(chosen)


def error_counts(index: DetectionIndex, matches: Matches, confused: Matches) -> dict[str, int]:
    """How many errors of each kind there are among ``matches`` and ``confused_detections``."""
    kinds = error_kinds(matches)
    counts = {kind: int((kinds == number).sum()) for number, kind in enumerate(ERROR_KINDS)}
    missed = missed_objects(index, matches)
    missed[confused.other_object] = False
    return counts | {"classification": len(confused), "missed": int(missed.sum())}


class _Ranked(NamedTuple):
    """Detections that count, and whether each found an object."""

    labels: IntArray
    scores: FloatArray
    hits: BoolArray


def weigh_errors(index: DetectionIndex, matches: Matches) -> ErrorWeights:
    """``matches`` are of all detections, whatever their scores."""
    positives = positives_of(index)
    counted = matches.where(~matches.ignored)
    ranked = _Ranked(counted.labels, counted.scores, counted.objects >= 0)
    before = _mean_ap(ranked, positives, positives)
    if before is None:
        return ErrorWeights(None, dict.fromkeys((*ERROR_KINDS, "missed"), 0.0))
    fixed = {kind: _mean_ap(_corrected(kind, index, counted), positives, positives) for kind in ERROR_KINDS}
    missed = np.bincount(index.labels[missed_objects(index, counted)], minlength=len(positives))
    fixed["missed"] = _mean_ap(ranked, positives, positives - missed)
    return ErrorWeights(before, {kind: max(0.0, (after or 0.0) - before) for kind, after in fixed.items()})


def _corrected(kind: str, index: DetectionIndex, matches: Matches) -> _Ranked:
    """What the oracle of that kind leaves (section 2.3 of the paper).

    Wrong classes and boxes are put right, and where two detections then find one object the one with the lower score
    goes; all other false positives of the kind go.
    """
    wrong = error_kinds(matches) == ERROR_KINDS.index(kind)
    if kind not in ("classification", "localization"):
        kept = matches.where(~wrong)
        return _Ranked(kept.labels, kept.scores, kept.objects >= 0)
    targets = matches.other_object if kind == "classification" else matches.own_object
    objects, labels = matches.objects.copy(), matches.labels.copy()
    objects[wrong] = targets[wrong]
    labels[wrong] = index.labels[targets[wrong]]
    order = np.argsort(-matches.scores, kind="stable")
    claimed, first = np.unique(objects[order], return_index=True)
    best = np.zeros(len(matches), bool)
    best[order[first[claimed >= 0]]] = True
    kept = best | (objects < 0)
    return _Ranked(labels[kept], matches.scores[kept], best[kept])


def _mean_ap(ranked: _Ranked, positives: IntArray, remaining: IntArray) -> float | None:
    """Over the classes with ``positives`` [K]; one of which no object remains to be found has nothing to lose: 1."""
    curves = curves_by_label(*ranked, remaining)
    labels = np.flatnonzero(positives).tolist()
    aps = [float(interpolated(curves[label]).mean()) if label in curves else 1.0 for label in labels]
    return sum(aps) / len(aps) if aps else None
