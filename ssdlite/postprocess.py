"""From the network's outputs to detections: threshold, decode, suppress, cap. Batched over images and classes.

What cannot become a detection is left behind as early as it is known: anchors by a comparison of logits, classes by
their scores, the rest by rank; only what remains is decoded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from ssdlite.boxes import clip_boxes, decode_boxes
from ssdlite.config import DetectorConfig
from ssdlite.loss import Outputs, class_scores

FIRST_CANDIDATES = 1024  # per image; enough in all but untrained or very crowded cases, where it is doubled
MARGIN = 1e-3  # of logits, for rounding, where a bound on a score stands for the score
CHUNK = 128  # boxes that are suppressed together on a CPU, where the time for n boxes grows with n * n


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
    likely = _likely_anchors(outputs.class_logits.float(), config)
    limit = FIRST_CANDIDATES
    while True:
        candidates = _best_candidates(likely, limit, config.score_threshold)
        boxes = _decode(outputs.box_deltas, candidates.anchors, anchors, config)
        keep = _suppress(boxes, candidates, config)
        enough = candidates.complete | (keep.sum(dim=1) >= config.max_detections)
        if bool(enough.all()):
            return _gather(boxes, candidates, keep, config.max_detections)
        limit *= 2


class _LikelyAnchors(NamedTuple):
    """At most R anchors of each image: all of which some class may score above the threshold."""

    anchors: Tensor  # [B, R]
    scores: Tensor  # [B, R, K], 0 for a place that is not taken


def _likely_anchors(logits: Tensor, config: DetectorConfig) -> _LikelyAnchors:
    """logits [B, A, K + 1] -> the anchors and their scores.

    A softmax score is at most exp(logit - logit of background), a sigmoid score grows with its logit.
    """
    best, threshold = logits[..., 1:].amax(dim=-1), config.score_threshold
    if config.score_function == "softmax":
        best, odds = best - logits[..., 0], threshold
    else:
        odds = threshold / (1 - threshold) if threshold < 1 else math.inf
    bound = math.log(odds) - MARGIN if odds > 0 else -math.inf
    chosen, taken = _places(best > bound)
    rows = chosen + torch.arange(len(logits), device=logits.device)[:, None] * logits.shape[1]
    own = logits.flatten(0, 1).index_select(0, rows.flatten()).view(*rows.shape, logits.shape[2])
    scores = class_scores(own, config.score_function)
    return _LikelyAnchors(chosen, scores if bool(taken.all()) else scores * taken[:, :, None])


def _places(wanted: Tensor) -> tuple[Tensor, Tensor]:
    """wanted [B, M] bool -> the places of what is wanted in each row [B, R], in order, and which of them are taken."""
    counts = wanted.sum(dim=1)
    most = int(counts.max()) if len(counts) else 0
    taken = torch.arange(most, device=wanted.device) < counts[:, None]
    found = wanted.flatten().nonzero().squeeze(1) % max(wanted.shape[1], 1)
    return torch.zeros_like(taken, dtype=torch.long).masked_scatter(taken, found), taken


class _Candidates(NamedTuple):
    scores: Tensor  # [B, P], best first; 0 for a place that is not taken
    anchors: Tensor  # [B, P]
    labels: Tensor  # [B, P]
    complete: Tensor  # [B] bool: no further pair is above the threshold


def _best_candidates(likely: _LikelyAnchors, limit: int, threshold: float) -> _Candidates:
    """The ``limit`` best pairs of an anchor and a class in each image, above the threshold."""
    flat = likely.scores.flatten(1)
    eligible = flat > threshold
    complete = eligible.sum(dim=1) <= limit
    if bool(complete.all()):
        places, taken = _places(eligible)
        scores, order = torch.where(taken, flat.gather(1, places), 0.0).sort(dim=1, descending=True, stable=True)
        places = places.gather(1, order)
    else:
        scores, places = torch.where(eligible, flat, 0.0).topk(min(limit, flat.shape[1]), dim=1)
    classes = likely.scores.shape[2]
    return _Candidates(scores, likely.anchors.gather(1, places // classes), places % classes, complete)


def _decode(deltas: Tensor, chosen: Tensor, anchors: Tensor, config: DetectorConfig) -> Tensor:
    """deltas [B, A, 4] and anchors [A, 4] -> the boxes [B, P, 4] of the ``chosen`` anchors [B, P], clipped."""
    own = deltas.gather(1, chosen[:, :, None].expand(-1, -1, 4)).float()
    boxes = decode_boxes(own, anchors[chosen], anchors.new_tensor(config.box_code_scales))
    return clip_boxes(boxes, config.image_size)


def _suppress(boxes: Tensor, candidates: _Candidates, config: DetectorConfig) -> Tensor:
    """Of each class the best candidates, as many as may enter, and non-maximum suppression -> [B, P] bool, survivors.

    Each image and class gets a region of its own by an offset, in float64 so that no overlap changes in the last
    digit; so one call can serve many of them.
    """
    valid = candidates.scores > 0
    image, _ = valid.nonzero(as_tuple=True)
    group, order = (image * config.num_classes + candidates.labels[valid]).sort(stable=True)
    sizes = torch.bincount(group)
    ends = sizes.cumsum(0)
    rank = torch.arange(len(group), device=group.device) - (ends - sizes)[group]
    scores = torch.where(rank < config.candidates_per_class, candidates.scores[valid][order], 0.0).double()
    places = boxes[valid][order].double() + (group.double() * (max(config.image_size) + 1))[:, None]

    kept = torch.zeros_like(scores, dtype=torch.bool)
    for start, end in _chunks(ends):
        kept[start + nms(places[start:end], scores[start:end], config.nms_threshold)] = True
    survivors = torch.empty_like(kept)
    survivors[order] = kept & (scores > 0)
    return torch.zeros_like(valid).masked_scatter(valid, survivors)


def _chunks(ends: Tensor) -> Iterator[tuple[int, int]]:
    """Where groups end [G] -> (start, end) of runs of whole groups, of about CHUNK boxes on a CPU, of all on a GPU."""
    borders = ends.cpu().numpy()
    total = int(borders[-1]) if len(borders) else 0
    step = CHUNK if ends.device.type == "cpu" else max(total, 1)
    wanted = np.arange(step, total + step, step).clip(max=total)
    cuts = [0, *np.unique(borders[np.searchsorted(borders, wanted)]).tolist()]
    return pairwise(cuts)


def _gather(boxes: Tensor, candidates: _Candidates, keep: Tensor, limit: int) -> DetectionBatch:
    scores = torch.where(keep, candidates.scores, 0.0)
    padding = max(limit - scores.shape[1], 0)
    scores = torch.nn.functional.pad(scores, (0, padding))
    top, index = scores.sort(dim=1, descending=True, stable=True)
    top, index = top[:, :limit], index[:, :limit]
    found = top > 0
    labels = torch.nn.functional.pad(candidates.labels, (0, padding)).gather(1, index)
    chosen = torch.nn.functional.pad(boxes, (0, 0, 0, padding)).gather(1, index[:, :, None].expand(-1, -1, 4))
    return DetectionBatch(
        boxes=torch.where(found[:, :, None], chosen, 0.0),
        scores=top,
        labels=torch.where(found, labels, -1),
        counts=found.sum(dim=1),
    )
