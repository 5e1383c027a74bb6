"""Scoring a detector, of a checkpoint or exported, on annotated data: COCO's figures and Pascal VOC's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdlite.lazy import attach

if TYPE_CHECKING:
    from ssdlite.evaluation.coco import Evaluator as Evaluator
    from ssdlite.evaluation.coco import Metrics as Metrics
    from ssdlite.evaluation.inference import detect_dataset as detect_dataset
    from ssdlite.evaluation.inference import evaluate_dataset as evaluate_dataset
    from ssdlite.evaluation.voc import VocMetrics as VocMetrics
    from ssdlite.evaluation.voc import compute_voc_metrics as compute_voc_metrics
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "Evaluator": "ssdlite.evaluation.coco",
            "Metrics": "ssdlite.evaluation.coco",
            "VocMetrics": "ssdlite.evaluation.voc",
            "compute_voc_metrics": "ssdlite.evaluation.voc",
            "detect_dataset": "ssdlite.evaluation.inference",
            "evaluate_dataset": "ssdlite.evaluation.inference",
        },
    )
