"""What ``TFLite_Detection_PostProcess`` says of a detector: its anchors, the scales of its box code, its thresholds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ssdlite.anchors import AnchorConfig
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.weights.tflite_file import DAMAGE, TfliteGraph
from ssdlite.weights.tflite_graph import Network

LEAST_SCORE = 0.001  # below it nothing is worth a candidate's place; such files often say 1e-8
TOLERANCE = 2e-3  # of the image, between an anchor and its place on the grid: anchors may be stored as float16
MAX_OPTION_BYTES = 4096
OPTIONS = ("x_scale", "y_scale", "w_scale", "h_scale", "nms_score_threshold", "nms_iou_threshold", "num_classes")


@dataclass(frozen=True)
class DetectionFacts:
    """``anchors`` where the file holds them; ``changes`` to our configuration; ``num_classes`` without background."""

    anchors: AnchorConfig | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    num_classes: int | None = None


def read_detections(
    graph: TfliteGraph, network: Network, image_size: tuple[int, int], anchors_per_cell: Sequence[int]
) -> DetectionFacts:
    """The facts in the operator behind the predictions; none where there is no such operator.

    Raises:
        CheckpointError: it is damaged, or its anchors stand on no grid.
    """
    if network.detections is None or network.anchors is None:
        return DetectionFacts()
    options = _options(network.detections.custom_options, graph.path)
    changes: dict[str, Any] = {
        "box_code_scales": tuple(options.get(f"{axis}_scale", 10.0 if axis in "xy" else 5.0) for axis in "xywh"),
        "score_threshold": max(options.get("nms_score_threshold", 0.0), LEAST_SCORE),
        "nms_threshold": options.get("nms_iou_threshold", 0.6),
    }
    grids = [
        (-(-image_size[0] // stride), -(-image_size[1] // stride))
        for stride in (16 << level for level in range(len(anchors_per_cell)))
    ]
    anchors = _anchors(graph.values(network.anchors), grids, anchors_per_cell, graph.path)
    return DetectionFacts(anchors, changes, int(options["num_classes"]) if "num_classes" in options else None)


def _options(content: bytes, path: str) -> dict[str, float]:
    from flatbuffers import flexbuffers

    try:
        if not 3 <= len(content) <= MAX_OPTION_BYTES:
            raise ValueError(f"{len(content)} bytes")
        values = flexbuffers.GetRoot(content).AsMap
        found = {bytes(key.AsKeyBytes).decode(): number for number, key in enumerate(values.Keys)}
        options = {name: float(values.Values[found[name]].AsFloat) for name in OPTIONS if name in found}
    except DAMAGE:
        raise CheckpointError(f"{path}: the options of its post-processing are damaged") from None
    if not all(math.isfinite(value) for value in options.values()):
        raise CheckpointError(f"{path}: the options of its post-processing are not finite: {options}")
    return options


def _anchors(
    boxes: npt.NDArray[np.float32], grids: list[tuple[int, int]], anchors_per_cell: Sequence[int], path: str
) -> AnchorConfig:
    """boxes [A, 4] (y, x, height, width) in fractions of the image -> the shapes on each map."""
    count = sum(rows * columns * shapes for (rows, columns), shapes in zip(grids, anchors_per_cell, strict=True))
    if boxes.shape != (count, 4):
        raise CheckpointError(f"{path}: its anchors are {list(boxes.shape)}, the maps have room for [{count}, 4]")
    levels, start = [], 0
    for (rows, columns), shapes in zip(grids, anchors_per_cell, strict=True):
        end = start + rows * columns * shapes
        level = boxes[start:end].astype(np.float64).reshape(rows, columns, shapes, 4)
        start = end
        centres_y = (np.arange(rows)[:, None, None] + 0.5) / rows
        centres_x = (np.arange(columns)[None, :, None] + 0.5) / columns
        sides = np.median(level[..., 2:], axis=(0, 1))
        worst = max(
            np.abs(level[..., 0] - centres_y).max(),
            np.abs(level[..., 1] - centres_x).max(),
            np.abs(level[..., 2:] - sides).max(),
        )
        if not worst <= TOLERANCE:
            raise CheckpointError(f"{path}: its anchors do not stand on a grid of {rows} x {columns} cells")
        levels.append(tuple((float(width), float(height)) for height, width in sides))
    try:
        return AnchorConfig(tuple(levels))
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
