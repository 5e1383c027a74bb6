"""From an exported network's outputs to detections, in numpy: what ``ssdlite.heads.postprocess`` does with tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ssdlite.detections import Detections
from ssdlite.nms import FIRST_CANDIDATES, Groups, IndexArray, grouped_nms, logit_bound, strict_threshold
from ssdlite.runtime.contract import AnchorSpec, BoxSpec, PostprocessSpec

Float32Array = npt.NDArray[np.float32]


def class_scores(logits: Float32Array, score_function: str) -> Float32Array:
    """logits [B, A, K + 1], background first -> scores [B, A, K] without it."""
    with np.errstate(over="ignore", invalid="ignore"):  # infinite logits are the network's own affair
        if score_function == "softmax":
            powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
            return np.asarray(powers[..., 1:] / powers.sum(axis=-1, keepdims=True), np.float32)
        return np.asarray(1 / (1 + np.exp(-logits[..., 1:])), np.float32)


def likely_anchors(logits: Float32Array, spec: PostprocessSpec, score_threshold: float) -> IndexArray:
    """logits [A, K + 1] of one image -> where some class may be above both thresholds, as logits alone can tell."""
    bound = logit_bound(strict_threshold(spec.score_threshold, score_threshold))
    with np.errstate(invalid="ignore"):
        best = np.fmax.reduce(logits[:, 1:], axis=1)
        return np.flatnonzero((best - logits[:, 0] if spec.score_function == "softmax" else best) > bound)


def decode_boxes(
    deltas: Float32Array, anchors: AnchorSpec, size: tuple[int, int], chosen: IndexArray | slice = slice(None)
) -> Float32Array:
    """deltas [..., A, 4] of the ``chosen`` anchors -> boxes [..., A, 4] xyxy in pixels of an input of ``size`` (height,
    width), clipped to it."""
    sides = np.array([size[1], size[0]], np.float32)
    values = anchors.array[chosen]
    centres, sizes = values[:, :2] * sides, values[:, 2:] * sides
    with np.errstate(over="ignore", invalid="ignore"):
        if anchors.box_code == "distances":
            corners = [centres - deltas[..., :2] * sizes, centres + deltas[..., 2:] * sizes]
            return clip_boxes(np.concatenate(corners, axis=-1), size)
        code = deltas / np.array(anchors.box_code_scales, np.float32)
        centre = centres + code[..., :2] * sizes
        half = 0.5 * sizes * np.exp(np.minimum(code[..., 2:], np.float32(anchors.max_log_scale)))
        return clip_boxes(np.concatenate([centre - half, centre + half], axis=-1), size)


def boxes_to_pixels(boxes: Float32Array, spec: BoxSpec, size: tuple[int, int]) -> Float32Array:
    """boxes [..., 4] as ``spec`` says -> xyxy in pixels of an input of ``size`` (height, width), clipped to it."""
    height, width = size
    boxes = in_xy_order(boxes, spec)
    if spec.scale == "fraction":
        with np.errstate(over="ignore", invalid="ignore"):
            boxes = boxes * np.array([width, height, width, height], np.float32)
    return clip_boxes(boxes, size)


def in_xy_order(values: Float32Array, spec: BoxSpec) -> Float32Array:
    """Boxes or deltas [..., 4] in the order of ``spec`` -> x first."""
    return values[..., [1, 0, 3, 2]] if spec.format == "yxyx" else values


def clip_boxes(boxes: npt.NDArray[Any], size: tuple[int, int]) -> Float32Array:
    """[..., 4] xyxy, limited to an image of (height, width)."""
    height, width = size
    return np.asarray(boxes.clip(0, np.array([width, height, width, height], np.float32)), np.float32)


def select_detections(
    scores: Float32Array,
    boxes: Float32Array,
    spec: PostprocessSpec,
    class_names: Sequence[str],
    score_threshold: float = 0.0,
) -> Detections:
    """scores [A, K] and boxes [A, 4] xyxy in input pixels of one image -> its detections, from ``score_threshold`` on.

    What ``ssdlite.heads.postprocess`` does with one image's, in the same order; there is more about it.
    """
    flat = scores.reshape(-1)
    eligible = np.flatnonzero(flat > strict_threshold(spec.score_threshold, score_threshold))
    values = flat[eligible]
    limit = FIRST_CANDIDATES
    while True:
        order = _best_first(values, limit)
        anchors, labels = np.divmod(eligible[order], scores.shape[1])
        groups = Groups(labels, spec.candidates_per_class)
        alive = grouped_nms(boxes[anchors[groups.order]].astype(np.float64), groups, spec.nms_threshold)
        keep = np.sort(groups.order[alive])[: spec.max_detections]
        if len(order) == len(values) or len(keep) == spec.max_detections:
            return Detections(boxes[anchors[keep]], scores[anchors[keep], labels[keep]], labels[keep], class_names)
        limit *= 2


def _best_first(values: Float32Array, limit: int) -> IndexArray:
    """Where the ``limit`` highest stand; highest first, equal ones in their order."""
    if len(values) <= limit:
        return np.argsort(-values, kind="stable")
    last = np.partition(values, len(values) - limit)[len(values) - limit]
    higher = np.flatnonzero(values > last)
    equal = np.flatnonzero(values == last)[: limit - len(higher)]
    return np.concatenate([higher[np.argsort(-values[higher], kind="stable")], equal])
