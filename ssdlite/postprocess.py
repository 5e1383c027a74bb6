"""From the network's outputs to detections: decode, threshold, suppress, cap. Batched over images and classes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

from ssdlite.boxes import clip_boxes, decode_boxes
from ssdlite.config import DetectorConfig
from ssdlite.loss import Outputs, class_scores

FIRST_CANDIDATES = 1024  # per image; enough in all but untrained or very crowded cases, where it is doubled


class DetectionBatch(NamedTuple):
    """Detections of B images, best first, padded to D = ``max_detections`` with score 0 and label -1."""

    boxes: Tensor  # [B, D, 4] xyxy in input pixels
    scores: Tensor  # [B, D]
    labels: Tensor  # [B, D] in 0..K-1
    counts: Tensor  # [B]


def postprocess(outputs: Outputs, anchors: Tensor, config: DetectorConfig) -> DetectionBatch:
    """Outputs of B images and anchors [A, 4] -> detections, the same that torchvision's SSD gives.

    Per class, the ``candidates_per_class`` best anchors with a score above ``score_threshold`` enter non-maximum
    suppression; per image the ``max_detections`` best survivors remain.

    Suppression only ever comes from higher scores, so the best candidates of all classes are enough as soon as they
    leave ``max_detections`` survivors: it starts with a few and takes more only when they run short.
    """
    scores = class_scores(outputs.class_logits.float(), config.score_function)
    scales = anchors.new_tensor(config.box_code_scales)
    boxes = clip_boxes(decode_boxes(outputs.box_deltas.float(), anchors, scales), config.image_size)

    total = scores.shape[1] * scores.shape[2]
    limit = min(FIRST_CANDIDATES, total)
    while True:
        candidates = _best_candidates(scores, limit, config)
        keep = _suppress(boxes, candidates, config)
        enough = candidates.complete | (keep.sum(dim=1) >= config.max_detections)
        if limit == total or bool(enough.all()):
            return _gather(boxes, candidates, keep, config.max_detections)
        limit = min(limit * 2, total)


class _Candidates(NamedTuple):
    scores: Tensor  # [B, P], best first; 0 for a place that is not taken
    anchors: Tensor  # [B, P]
    labels: Tensor  # [B, P]
    complete: Tensor  # [B] bool: no further pair is above the threshold


def _best_candidates(scores: Tensor, limit: int, config: DetectorConfig) -> _Candidates:
    """The ``limit`` best (anchor, class) pairs of each image, without those behind their class's own limit."""
    eligible = torch.where(scores > config.score_threshold, scores, 0.0).flatten(1)
    top, index = eligible.topk(limit, dim=1)
    labels = index % scores.shape[2]
    within_limit = _rank_in_class(labels) < config.candidates_per_class
    complete = (top <= 0).any(dim=1)
    return _Candidates(torch.where(within_limit, top, 0.0), index // scores.shape[2], labels, complete)


def _rank_in_class(labels: Tensor) -> Tensor:
    """labels [B, P] -> [B, P]: how many of the same label stand before each."""
    ordered, order = labels.sort(dim=1, stable=True)
    position = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = torch.where(starts, position, 0).cummax(dim=1).values
    return torch.empty_like(labels).scatter_(1, order, position - first)


def _suppress(boxes: Tensor, candidates: _Candidates, config: DetectorConfig) -> Tensor:
    """Non-maximum suppression within each image and class -> [B, P] bool, survivors.

    One call serves all: each image and class gets a region of its own by an offset, in float64 so that no overlap
    changes in the last digit.
    """
    valid = candidates.scores > 0
    image, _ = valid.nonzero(as_tuple=True)
    index = candidates.anchors[valid]
    group = image * config.num_classes + candidates.labels[valid]
    offset = group.double() * (max(config.image_size) + 1)
    kept = nms(boxes[image, index].double() + offset[:, None], candidates.scores[valid].double(), config.nms_threshold)
    survivors = torch.zeros(len(index), dtype=torch.bool, device=boxes.device)
    survivors[kept] = True
    return torch.zeros_like(valid).masked_scatter(valid, survivors)


def _gather(boxes: Tensor, candidates: _Candidates, keep: Tensor, limit: int) -> DetectionBatch:
    scores = torch.where(keep, candidates.scores, 0.0)
    padding = max(limit - scores.shape[1], 0)
    scores = torch.nn.functional.pad(scores, (0, padding))
    top, index = scores.sort(dim=1, descending=True, stable=True)
    top, index = top[:, :limit], index[:, :limit]
    found = top > 0
    labels = torch.nn.functional.pad(candidates.labels, (0, padding)).gather(1, index)
    anchors = torch.nn.functional.pad(candidates.anchors, (0, padding)).gather(1, index)
    chosen = boxes.gather(1, anchors[:, :, None].expand(-1, -1, 4))
    return DetectionBatch(
        boxes=torch.where(found[:, :, None], chosen, 0.0),
        scores=top,
        labels=torch.where(found, labels, -1),
        counts=found.sum(dim=1),
    )
