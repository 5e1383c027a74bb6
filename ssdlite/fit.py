"""Anchors fitted to the boxes of a data set."""

from __future__ import annotations

import numpy as np

from ssdlite.anchor_fit import fit_anchors
from ssdlite.anchors import AnchorConfig
from ssdlite.config import DetectorConfig
from ssdlite.datasets.index import DetectionIndex
from ssdlite.image import fit_view


def boxes_at_input(index: DetectionIndex, config: DetectorConfig) -> np.ndarray:
    boxes = [
        fit_view(record.size, config.image_size, config.resize).boxes_to_input(record.boxes[~record.ignore])
        for record in map(index.record, range(len(index)))
    ]
    return np.concatenate(boxes) if boxes else np.empty((0, 4), np.float32)


def fitted_anchors(index: DetectionIndex, config: DetectorConfig, budget: int | None) -> AnchorConfig:
    boxes = boxes_at_input(index, config)
    return fit_anchors(
        boxes[:, 2:] - boxes[:, :2],
        index.labels[~index.ignore],
        image_size=config.image_size,
        strides=config.strides,
        budget=budget or config.num_anchors,
    )
