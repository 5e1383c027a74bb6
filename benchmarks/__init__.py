"""What docs/performance.md quotes: ``python -m benchmarks``. A comparison is a function of one of these modules."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

COMPARISONS = {  # name -> module with a function of that name
    "training": "training",
    "waiting": "training",
    "prediction": "torchvision_peer",
    "postprocessing": "torchvision_peer",
    "loss": "torchvision_peer",
    "exported_nms": "torchvision_peer",
    "whole_run": "training",
    "augmentation": "training",
    "depthwise": "training",
    "selection": "selection",
    "open_images": "selection",
    "litert": "exported",
    "mediapipe": "mediapipe_tasks",
    "candidate_bound": "exported",
    "evaluation": "coco_scale",
    "growth": "coco_scale",
}


@dataclass(frozen=True)
class BenchmarksOptions:
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = tuple(COMPARISONS)
    """Which comparisons to run."""
    rounds: int | None = None
    """Rounds in which every contestant has its turn. Default: each comparison's own number."""
    threads: int = os.cpu_count() or 1
    """Most threads that compute; some comparisons take one."""
    tflite: Path | None = None
    """The TensorFlow Lite SSD of docs/weights.md, which the comparison litert needs."""
    bounds: tuple[int, ...] | None = None
    """Most candidates that enter NMS. Default: 2048 in exported_nms, 256 to 2048 in candidate_bound."""
    checkpoint: Path | None = None
    """The detector that the comparison candidate_bound needs."""
    data: tuple[Path, ...] = ()
    """Folders of data sets (COCO, VOC, ...), for candidate_bound, which needs some, and open_images."""
    output: Path | None = None
    """Folder for performance.json and performance.md."""
