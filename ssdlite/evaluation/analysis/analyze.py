"""All that is found out about a detector on a split, from its detections alone: for ``report.json`` and the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ssdlite.datasets.index import DetectionIndex
from ssdlite.detections import Detections
from ssdlite.evaluation.analysis.confusion import SizeBucket, count_confusions, pixel_sizes, relative_sizes
from ssdlite.evaluation.analysis.curves import best_f1, class_curves, interpolated, positives_of
from ssdlite.evaluation.analysis.errors import ErrorWeights, confused_detections, error_counts, weigh_errors
from ssdlite.evaluation.analysis.matching import FloatArray, Matches, match
from ssdlite.evaluation.analysis.pictures import LabelSuspect, PictureErrors, label_suspects, picture_errors
from ssdlite.runtime.operating_points import OperatingPoint, score_thresholds

REPORT_FORMAT = "ssdlite-report"
REPORT_VERSION = 1
WORST_PICTURES = 20  # the worst, that are listed
MOST_SUSPECTS = 200  # of each kind, that are listed


@dataclass(frozen=True)
class Analysis:
    """Counts are at the operating points where nothing else is said, and of the classes that have objects.

    Attributes:
        every: all detections of classes that have objects, matched.
        matches: those that reach the threshold of their class.
        curves: by label, the best precision at 101 recalls, at IoU 0.5.
        confusion: how often objects of a label were found as another, by both labels; K is background.
        pictures: those with errors, most of them first.
        suspects: by SUSPECT_KINDS.
    """

    index: DetectionIndex
    points: dict[str, OperatingPoint]
    thresholds: npt.NDArray[np.float64]  # [K]
    every: Matches
    matches: Matches
    curves: dict[int, FloatArray]
    confusion: dict[tuple[int, int], int]
    weights: ErrorWeights
    error_counts: dict[str, int]
    pixel_sizes: list[SizeBucket]
    relative_sizes: list[SizeBucket]
    pictures: list[PictureErrors]
    suspects: dict[str, list[LabelSuspect]]

    def file(self, position: int) -> str:
        """The picture's name; bytes of it that are no text are escaped."""
        return self.index.paths[position].encode("utf-8", "backslashreplace").decode()

    def unfound(self) -> dict[str, int]:
        """How many objects there are of the classes of which none is found at any score, most objects first."""
        counts = self.index.object_counts()
        names = [name for name, count in counts.items() if count and name not in self.points]
        return {name: counts[name] for name in sorted(names, key=lambda name: -counts[name])}

    def confusions(self) -> list[tuple[str, str, int]]:
        """(annotated class, detected class, how often) of those taken for another, most often first."""
        names, background = self.index.class_names, len(self.index.class_names)
        pairs = [
            (names[annotated], names[detected], count)
            for (annotated, detected), count in self.confusion.items()
            if annotated != detected and background not in (annotated, detected)
        ]
        return sorted(pairs, key=lambda pair: -pair[2])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; file names are those of the index."""
        names = (*self.index.class_names, None)
        return {
            "format": REPORT_FORMAT,
            "format_version": REPORT_VERSION,
            "split": self.index.name,
            "images": len(self.index),
            "objects": int((~self.index.ignore).sum()),
            "operating_points": {name: asdict(point) for name, point in self.points.items()},
            "precision_at_recall": {  # 0, 0.01, ..., 1
                names[label]: [round(value, 4) for value in curve.tolist()] for label, curve in self.curves.items()
            },
            "confusion": [  # null is background
                {"annotated": names[annotated], "detected": names[detected], "count": count}
                for (annotated, detected), count in self.confusion.items()
            ],
            "errors": {
                kind: {"count": self.error_counts[kind], "AP50_loss": loss} for kind, loss in self.weights.loss.items()
            },
            "sizes": [asdict(bucket) for bucket in self.pixel_sizes],
            "relative_sizes": [asdict(bucket) for bucket in self.relative_sizes],
            "worst_pictures": [
                {
                    "file": self.file(one.position),
                    "found": one.found,
                    "missed": one.missed,
                    "false_alarms": one.false_alarms,
                }
                for one in self.pictures[:WORST_PICTURES]
            ],
            "label_suspects": {
                kind: {"count": len(suspects), "boxes": [self._suspect(one) for one in suspects[:MOST_SUSPECTS]]}
                for kind, suspects in self.suspects.items()
            },
        }

    def _suspect(self, one: LabelSuspect) -> dict[str, Any]:
        values = asdict(one)
        return {"file": self.file(values.pop("position")), **values, "box": list(one.box)}


def analyze(index: DetectionIndex, results: Mapping[int, Detections]) -> Analysis:
    """``results`` by position in the index, as ``Evaluator.state()`` has them."""
    positives = positives_of(index)
    found = match(index, results)
    every = found.where(positives[found.labels] > 0)  # what is never annotated may be there: nothing can be said of it
    curves = class_curves(every, positives)
    points = {index.class_names[label]: point for label, one in curves.items() if (point := best_f1(one)) is not None}
    thresholds = score_thresholds(index.class_names, points)
    matches = every.where(every.scores >= thresholds[every.labels])
    confused = confused_detections(index, found, thresholds)
    return Analysis(
        index=index,
        points=points,
        thresholds=thresholds,
        every=every,
        matches=matches,
        curves={label: interpolated(one) for label, one in curves.items()},
        confusion=count_confusions(index, matches, confused),
        weights=weigh_errors(index, every),
        error_counts=error_counts(index, matches, confused),
        pixel_sizes=pixel_sizes(index, matches, every),
        relative_sizes=relative_sizes(index, matches, every),
        pictures=picture_errors(index, matches),
        suspects=label_suspects(index, every, thresholds),
    )
