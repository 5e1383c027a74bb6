"""Core ML's part, done here: suppression, step by step as Apple's NonMaximumSuppression.proto describes it, and a
stand-in for ``coremltools.models.MLModel`` of a Mac.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.export.coreml.mil_evaluator import Program

Array = npt.NDArray[Any]


def documented_suppression(confidence: Array, coordinates: Array, iou: float, least: float) -> tuple[Array, Array]:
    """pickTop, perClass: the five steps of NonMaximumSuppression.proto. confidence [A, K], coordinates [A, 4]."""
    label = confidence.argmax(axis=1)
    left = [row for row in np.argsort(-confidence.max(axis=1), kind="stable") if confidence[row].max() >= least]
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [row for row in left if label[row] != label[best] or overlap(coordinates[row], coordinates[best]) <= iou]
    return confidence[kept], coordinates[kept]


def overlap(one: Array, other: Array) -> float:
    """IoU of centre x, centre y, width, height."""
    low = np.maximum(one[:2] - one[2:] / 2, other[:2] - other[2:] / 2)
    high = np.minimum(one[:2] + one[2:] / 2, other[:2] + other[2:] / 2)
    shared = float(np.prod(np.maximum(high - low, 0)))
    return shared / max(float(np.prod(one[2:]) + np.prod(other[2:])) - shared, 1e-30)


class FakeCoreMl:
    """``coremltools.models.MLModel`` of a Mac, as far as it is used: ``predict`` with a picture and thresholds."""

    def __init__(self, path: Path) -> None:
        self.program = Program(path)

    def predict(self, values: dict[str, Any]) -> dict[str, Array]:
        stages = self.program.specification.pipeline.models
        outputs = self.program.run(np.array(values["image"].convert("RGB")))
        if not stages:
            return outputs
        nms = stages[1].nonMaximumSuppression
        least = values.get(nms.confidenceThresholdInputFeatureName, nms.confidenceThreshold)
        raw = outputs[nms.confidenceInputFeatureName], outputs[nms.coordinatesInputFeatureName]
        return dict(
            zip(("confidence", "coordinates"), documented_suppression(*raw, nms.iouThreshold, least), strict=True)
        )
