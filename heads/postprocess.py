"""From the network's outputs to detections: threshold, decode, suppress, cap. Batched over images and classes.

What cannot become a detection is left behind as early as it is known: anchors by a comparison of logits, classes by
their scores, the rest by rank; only what remains is decoded.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.ops import nms

from ssdlite.config import DetectorConfig
from ssdlite.detections import Detections
from ssdlite.heads.base import Outputs, class_scores
from ssdlite.heads.boxes import BoxCode, CenterSizeCode, clip_boxes
from ssdlite.nms import FIRST_CANDIDATES, Groups, logit_bound, strict_threshold, suppress_by_pairs

FEW_PAIRS = 64  # a box, on average, up to which looking at all pairs is quicker than torchvision's operator in chunks
CHUNK = 128  # boxes that are suppressed together on a CPU, where the time for n boxes grows with n * n


def postprocess(
    outputs: Outputs,
    anchors: Tensor,
    config: DetectorConfig,
    box_code: BoxCode | None = None,
    score_threshold: float = 0.0,
) -> list[Detections]:
    """Outputs of B images and anchors [A, 4] -> what was found in each, in input pixels, as torchvision's SSD finds it.

    ``box_code`` is the head's, by default that of ``config``.

    Per class, the ``candidates_per_class`` best anchors with a score above the threshold of ``config``, and of at least
    ``score_threshold``, enter non-maximum suppression; per image the ``max_detections`` best of what it leaves remain.
    Of equal scores the one whose anchor, and then whose class, comes first counts as better.

    Suppression only ever comes from higher scores, so the best candidates of all classes are enough as soon as they
    leave ``max_detections`` of them: it starts with a few and takes more only when they run short.
    """
    if box_code is None:
        box_code = CenterSizeCode(config.head.box_code_scales).to(anchors.device)
    with torch.inference_mode():  # many small operations: each costs less
        return _detect(outputs, anchors, config, box_code, score_threshold)


def _detect(
    outputs: Outputs, anchors: Tensor, config: DetectorConfig, box_code: BoxCode, score_threshold: float
) -> list[Detections]:
    threshold = strict_threshold(config.postprocess.score_threshold, score_threshold)
    likely = _likely_anchors(outputs.class_logits.float(), config.head.score_function, threshold)
    limit = FIRST_CANDIDATES
    while True:
        candidates = _best_candidates(likely, limit, threshold)
        boxes = _decode(outputs.box_deltas, candidates.anchors, anchors, box_code, config.input.size)
        keep = _suppress(boxes, candidates, config)
        enough = candidates.complete | (keep.sum(dim=1) >= config.postprocess.max_detections)
        if bool(enough.all()):
            return _to_detections(boxes, candidates, keep, config)
        limit *= 2


class _LikelyAnchors(NamedTuple):
    """At most R anchors of each image: all of which some class may score above the threshold."""

    anchors: Tensor  # [B, R]
    scores: Tensor  # [B, R, K], 0 for a place that is not taken

    def pairs(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """places [B, P] in R * K -> anchors and labels [B, P]."""
        classes = self.scores.shape[2]
        return self.anchors.gather(1, places // classes), places % classes


def _likely_anchors(logits: Tensor, score_function: str, threshold: float) -> _LikelyAnchors:
    """logits [B, A, K + 1] -> the anchors and their scores."""
    best = logits[..., 1:].amax(dim=-1)
    if score_function == "softmax":
        best = best - logits[..., 0]
    wanted = ~(best <= logit_bound(threshold))  # what is no number may hide other classes of its anchor
    chosen, taken = _places(wanted, wanted.sum(dim=1))
    rows = chosen + torch.arange(len(logits), device=logits.device)[:, None] * logits.shape[1]
    own = logits.flatten(0, 1).index_select(0, rows.flatten()).view(*rows.shape, logits.shape[2])
    scores = class_scores(own, score_function)
    return _LikelyAnchors(chosen, scores if bool(taken.all()) else scores * taken[:, :, None])


def _places(wanted: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """wanted [B, M] bool, in each row as many as counts [B] -> their places [B, R], in order, and which are taken."""
    if len(wanted) == 1:
        places = wanted.nonzero()[:, 1][None]
        return places, torch.ones_like(places, dtype=torch.bool)
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
    """In each image the ``limit`` best pairs of anchor and class above the threshold, equal ones in their order."""
    flat = likely.scores.flatten(1)
    eligible = flat > threshold
    complete = eligible.sum(dim=1) <= limit
    if bool(complete.all()):
        places, taken = _places(eligible, eligible.sum(dim=1))
    else:
        ranked = torch.where(eligible, flat, 0.0)
        best, places = ranked.topk(limit + 1, dim=1)
        tied = (best[:, 1:] == best[:, :-1]) & (best[:, 1:] > 0)  # topk takes and orders these as it likes
        if not bool(tied[:, -1].any()):
            places, rows = places[:, :limit], tied.any(dim=1)
            if bool(rows.any()):
                in_order = places[rows].sort(dim=1).values
                order = ranked[rows].gather(1, in_order).argsort(dim=1, descending=True, stable=True)
                places = places.index_put((rows,), in_order.gather(1, order))
            return _Candidates(best[:, :limit], *likely.pairs(places), complete)
        last = best[:, limit - 1 : limit]
        equal, room = flat == last, limit - (flat > last).sum(dim=1, keepdim=True)
        chosen = eligible & ((flat > last) | (equal & (equal.cumsum(dim=1) <= room)))
        places, taken = _places(chosen, chosen.sum(dim=1))
    scores, order = torch.where(taken, flat.gather(1, places), 0.0).sort(dim=1, descending=True, stable=True)
    return _Candidates(scores, *likely.pairs(places.gather(1, order)), complete)


def _decode(deltas: Tensor, chosen: Tensor, anchors: Tensor, box_code: BoxCode, size: tuple[int, int]) -> Tensor:
    """deltas [B, A, 4] and anchors [A, 4] -> the boxes [B, P, 4] of the ``chosen`` anchors [B, P], clipped."""
    own = deltas.gather(1, chosen[:, :, None].expand(-1, -1, 4)).float()
    return clip_boxes(box_code.decode(own, anchors[chosen]), size)


def _suppress(boxes: Tensor, candidates: _Candidates, config: DetectorConfig) -> Tensor:
    """Non-maximum suppression of the best candidates of each class -> [B, P] bool: what is left."""
    valid = candidates.scores > 0
    group = candidates.labels + torch.arange(len(valid), device=valid.device)[:, None] * config.num_classes
    suppress = _suppress_on_cpu if boxes.device.type == "cpu" else _suppress_at_once
    if bool(valid.all()):
        return suppress(boxes.flatten(0, 1).double(), group.flatten(), config).view_as(valid)
    return torch.zeros_like(valid).masked_scatter(valid, suppress(boxes[valid].double(), group[valid], config))


def _suppress_on_cpu(boxes: Tensor, group: Tensor, config: DetectorConfig) -> Tensor:
    """boxes [N, 4] of groups [N], best first -> [N] bool, what is left."""
    groups = Groups(group.numpy(), config.postprocess.candidates_per_class)
    order = torch.from_numpy(groups.order)
    ordered = boxes[order]
    if groups.has_few_pairs(FEW_PAIRS):
        alive = torch.from_numpy(suppress_by_pairs(ordered.numpy(), groups, config.postprocess.nms_threshold))
    else:
        alive = _suppress_in_chunks(ordered, group[order], groups.ends, config)
    return torch.zeros(len(boxes), dtype=torch.bool).index_put((order,), alive)


def _suppress_in_chunks(boxes: Tensor, group: Tensor, ends: npt.NDArray[np.int64], config: DetectorConfig) -> Tensor:
    """boxes [N, 4], group by group, best first in each -> [N] bool, what is left."""
    places = _apart(boxes, group, config)
    best_first = torch.arange(len(boxes), 0, -1, dtype=torch.float64)
    cuts = [0]
    while cuts[-1] < len(boxes):
        cuts.append(int(ends[min(cuts[-1] + CHUNK, len(boxes)) - 1]))
    kept = [
        start + nms(places[start:end], best_first[start:end], config.postprocess.nms_threshold)
        for start, end in pairwise(cuts)
    ]
    return torch.zeros(len(boxes), dtype=torch.bool).index_fill(0, torch.cat(kept), True)


def _suppress_at_once(boxes: Tensor, group: Tensor, config: DetectorConfig) -> Tensor:
    """What ``_suppress_on_cpu`` gives, in one call of an operator that takes as long for many boxes as for few."""
    ordered, order = group.sort(stable=True)
    rank = torch.arange(len(group), device=group.device) - torch.searchsorted(ordered, ordered)
    chosen = order[rank < config.postprocess.candidates_per_class].sort().values
    best_first = torch.arange(len(chosen), 0, -1, dtype=torch.float64, device=group.device)
    kept = nms(_apart(boxes[chosen], group[chosen], config), best_first, config.postprocess.nms_threshold)
    return torch.zeros_like(group, dtype=torch.bool).index_fill(0, chosen[kept], True)


def _apart(boxes: Tensor, group: Tensor, config: DetectorConfig) -> Tensor:
    """Boxes moved so that no two groups overlap; in float64, so that no overlap changes in the last digit."""
    return boxes + (group * (max(config.input.size) + 1))[:, None]


def _to_detections(boxes: Tensor, candidates: _Candidates, keep: Tensor, config: DetectorConfig) -> list[Detections]:
    """The first ``max_detections`` candidates of each image among those to ``keep`` [B, P]."""
    limit, names = config.postprocess.max_detections, config.class_names
    columns = (boxes.float(), candidates.scores, candidates.labels, keep)
    results = []
    for own, scores, labels, kept in zip(*(column.cpu().numpy() for column in columns), strict=True):
        places = kept.nonzero()[0][:limit]
        results.append(Detections(own[places], scores[places], labels[places], names))
    return results
