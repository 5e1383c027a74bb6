"""How far predicted boxes are from wanted ones: on the box code, or by the overlap of the boxes themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, distributed
from torchvision.ops import sigmoid_focal_loss

from ssdlite.config import BoxLossName
from ssdlite.heads.assigners import Assigner, MaxIoUAssigner, Predicted, Targets, build_targets
from ssdlite.heads.base import Distributions, Outputs, class_scores
from ssdlite.heads.boxes import BoxCode, GeometryModule, intersection_and_union, paired_iou
from ssdlite.heads.checks import CHECKED_STEPS, check_targets

BoxLoss = Callable[[Tensor, Tensor, Tensor, BoxCode], Tensor]
"""Deltas [B, A, 4], wanted boxes [B, A, 4] xyxy, anchors [A, 4] and the box code -> [B, A]."""

EPS = 1e-7  # for boxes without area


def smooth_l1(deltas: Tensor, wanted: Tensor, anchors: Tensor, box_code: BoxCode) -> Tensor:
    """On the four numbers of the box code (arXiv 1512.02325, eq. 2)."""
    return F.smooth_l1_loss(deltas, box_code.encode(wanted, anchors), reduction="none").sum(dim=-1)


def giou_loss(boxes: Tensor, wanted: Tensor) -> Tensor:
    """Boxes [..., 4] xyxy, both -> [...] in 0..2: 1 - generalised IoU (arXiv 1902.09630, algorithm 1)."""
    iou, union = _iou_and_union(boxes, wanted)
    hull = _hull(boxes, wanted).prod(dim=-1)
    return 1 - iou + (hull - union) / (hull + EPS)


def diou_loss(boxes: Tensor, wanted: Tensor) -> Tensor:
    """Boxes [..., 4] xyxy, both -> [...] in 0..2: 1 - IoU, and the centres' distance (arXiv 1911.08287, eq. 7)."""
    iou, _ = _iou_and_union(boxes, wanted)
    return 1 - iou + _distance(boxes, wanted)


def ciou_loss(boxes: Tensor, wanted: Tensor) -> Tensor:
    """``diou_loss`` and how far the aspect ratio is off (arXiv 1911.08287, eq. 10 and 11)."""
    iou, _ = _iou_and_union(boxes, wanted)
    angles = [torch.atan2(*_sides(ends).unbind(-1)) for ends in (boxes, wanted)]
    ratio = 4 / math.pi**2 * (angles[1] - angles[0]).square()
    with torch.no_grad():
        weight = ratio / (1 - iou + ratio + EPS)
    return 1 - iou + _distance(boxes, wanted) + weight * ratio


def _iou_and_union(boxes: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    shared, union = intersection_and_union(boxes, wanted)
    return shared / (union + EPS), union


def _hull(boxes: Tensor, wanted: Tensor) -> Tensor:
    """Width and height [..., 2] of the smallest box around both."""
    return torch.maximum(boxes[..., 2:], wanted[..., 2:]) - torch.minimum(boxes[..., :2], wanted[..., :2])


def _distance(boxes: Tensor, wanted: Tensor) -> Tensor:
    """The squared distance of the centres, as a share of the squared diagonal of the hull."""
    shift = (boxes[..., :2] + boxes[..., 2:] - wanted[..., :2] - wanted[..., 2:]) / 2
    return shift.square().sum(dim=-1) / (_hull(boxes, wanted).square().sum(dim=-1) + EPS)


def _sides(boxes: Tensor) -> Tensor:
    return boxes[..., 2:] - boxes[..., :2]


def overlap_loss(loss: Callable[[Tensor, Tensor], Tensor]) -> BoxLoss:
    """A loss on pairs of boxes, as one on deltas."""

    def on_deltas(deltas: Tensor, wanted: Tensor, anchors: Tensor, box_code: BoxCode) -> Tensor:
        return loss(box_code.decode(deltas, anchors), wanted)

    return on_deltas


BOX_LOSSES: dict[BoxLossName, BoxLoss] = {
    "smooth_l1": smooth_l1,
    "giou": overlap_loss(giou_loss),
    "diou": overlap_loss(diou_loss),
    "ciou": overlap_loss(ciou_loss),
}


def distribution_focal_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """logits [..., N] of distributions over 0 to N - 1, wanted values [...] -> [...] (arXiv 2006.04388, equation 6).

    Cross-entropy with the two whole numbers around the wanted value, each weighed by its nearness. What lies beyond the
    last counts as the last; the authors' code stops at a tenth before it.
    """
    bins = logits.shape[-1]
    wanted = wanted.clamp(0, bins - 1)
    below = wanted.floor().clamp(max=bins - 2)
    share = wanted - below
    number = below.long()[..., None]
    log_likelihood = torch.log_softmax(logits, dim=-1)
    lower, upper = (log_likelihood.gather(-1, place).squeeze(-1) for place in (number, number + 1))
    return -((1 - share) * lower + share * upper)


# --- The training losses over all anchors of a batch.

DISTRIBUTION_WEIGHT = 0.25  # of the mean over a box's four sides (arXiv 2006.04388, section 3.3)
OVERLAP_WEIGHT = 2.0  # of 1 - IoU beside the classification loss (arXiv 2006.04388, section 4)


class Losses(NamedTuple):
    """Scalars, before they are weighted; ``total``, of which they are weighted parts, is what is minimised."""

    total: Tensor
    classification: Tensor
    box: Tensor
    distribution: Tensor  # 0 where no distances are predicted as distributions


class Predictions:
    """Scores and boxes of outputs, without gradient, computed when they are asked for: few losses and assigners do."""

    def __init__(self, outputs: Outputs, anchors: Tensor, box_code: BoxCode, score_function: str) -> None:
        self._outputs = Outputs(outputs.class_logits.detach(), outputs.box_deltas.detach())
        self._anchors = anchors
        self._box_code = box_code
        self._score_function = score_function

    @cached_property
    def scores(self) -> Tensor:
        """[B, A, K] in 0..1"""
        return class_scores(self._outputs.class_logits, self._score_function)

    @cached_property
    def boxes(self) -> Tensor:
        """[B, A, 4] xyxy input pixels"""
        return self._box_code.decode(self._outputs.box_deltas, self._anchors)


class DetectionLoss(GeometryModule):
    """Matches, then sums box and classification losses over the batch and divides by its number of matched anchors.

    An image without objects counts as one match in that number, so that a batch of empty images has a finite loss and
    still trains background. With several processes the number is their mean, which makes the gradient that of a
    single process.

    Attributes:
        score_function: of the detector that this loss trains.
        checked_steps: how many steps are still to be checked for boxes and labels of another form; 0 for none.
        box_weight: of the box loss; by default ``code_weight`` for smooth L1 on the box code, and OVERLAP_WEIGHT for
            losses on overlaps.
    """

    score_function: ClassVar[Literal["softmax", "sigmoid"]] = "softmax"
    code_weight: ClassVar[float] = 1.0
    anchors: Tensor

    def __init__(
        self,
        anchors: Tensor,
        box_code: BoxCode,
        *,
        matcher: Assigner | None = None,
        box_loss: BoxLossName = "smooth_l1",
        box_weight: float | None = None,
    ) -> None:
        super().__init__()
        self.matcher = matcher or MaxIoUAssigner()
        self.box_loss = BOX_LOSSES[box_loss]
        if box_weight is None:
            box_weight = self.code_weight if box_loss == "smooth_l1" else OVERLAP_WEIGHT
        self.box_weight = box_weight
        self.register_buffer("anchors", anchors, persistent=False)
        self.box_code = box_code
        self.checked_steps = CHECKED_STEPS

    def forward(self, outputs: Outputs, boxes: Tensor, labels: Tensor, guide: Outputs | None = None) -> Losses:
        """Outputs of B images, boxes [B, M, 4] in input pixels, labels [B, M] (-1 padding, -2 ignored) -> scalars.

        ``guide``: what the assigner looks at in place of these outputs.

        Raises:
            DataError: in the first steps, see ``checked_steps``, where boxes or labels are not of that form.
        """
        if self.checked_steps and not torch.compiler.is_compiling():
            self.checked_steps -= 1
            check_targets(boxes, labels, outputs.class_logits.shape[2] - 1)
        logits, deltas = outputs.class_logits.float(), outputs.box_deltas.float()
        predicted = self._predictions(outputs)
        seen = predicted if guide is None else self._predictions(guide)
        targets = build_targets(self.matcher(self.anchors, boxes, labels, seen), boxes, labels)
        normaliser = mean_over_processes(_count_matches(targets))
        # Anchors stand in for the boxes of unmatched anchors: their code is finite, so nothing overflows to NaN.
        wanted = torch.where(targets.positive[:, :, None], targets.boxes, self.anchors)
        box_losses = self.box_loss(deltas, wanted, self.anchors, self.box_code)
        box_loss = torch.where(targets.positive, box_losses, 0.0).sum() / normaliser
        class_loss = self.classification_loss(logits, targets, predicted) / normaliser
        distribution_loss = torch.zeros_like(box_loss)
        if outputs.distributions is not None:
            losses = self._distribution_losses(outputs.distributions, wanted)
            distribution_loss = torch.where(targets.positive, losses, 0.0).sum() / normaliser
        total = class_loss + self.box_weight * box_loss + DISTRIBUTION_WEIGHT * distribution_loss
        return Losses(total, class_loss, box_loss, distribution_loss)

    def _predictions(self, outputs: Outputs) -> Predictions:
        floats = Outputs(outputs.class_logits.float(), outputs.box_deltas.float())
        return Predictions(floats, self.anchors, self.box_code, self.score_function)

    def _distribution_losses(self, distributions: Distributions, wanted: Tensor) -> Tensor:
        """Of the boxes wanted [B, A, 4] -> [B, A], the mean over a box's four sides."""
        values = self.box_code.encode(wanted, self.anchors) / distributions.bin_size
        return distribution_focal_loss(distributions.logits.float(), values).mean(dim=-1)

    def classification_loss(self, logits: Tensor, targets: Targets, predicted: Predicted) -> Tensor:
        """logits [B, A, K + 1] -> the sum over the batch."""
        raise TypeError(f"{type(self).__name__} has no classification loss")


class MultiBoxLoss(DetectionLoss):
    """Softmax cross-entropy on matches and the hardest negatives, smooth L1 on boxes (arXiv 1512.02325, eq. 1-3).

    In each image ``negatives_per_match`` times its matches are taken from the unmatched anchors, highest loss first;
    in an image without objects ``negatives_per_empty_image`` (torchvision: none).
    """

    negatives_per_match = 3
    negatives_per_empty_image = 3

    def classification_loss(self, logits: Tensor, targets: Targets, predicted: Predicted) -> Tensor:
        losses = F.cross_entropy(logits.flatten(0, 1), targets.classes.flatten(), reduction="none")
        losses = losses.view_as(targets.classes)
        matches = targets.positive.sum(dim=1, keepdim=True)
        wanted = torch.where(matches > 0, matches * self.negatives_per_match, self.negatives_per_empty_image)
        hardness = torch.where(targets.negative, losses.detach(), -torch.inf)
        rank = hardness.argsort(dim=1, descending=True).argsort(dim=1)
        chosen = targets.positive | (targets.negative & (rank < wanted))
        return torch.where(chosen, losses, 0.0).sum()


class FocalLoss(DetectionLoss):
    """Sigmoid focal loss on every anchor that is not ignored, smooth L1 on boxes (arXiv 1708.02002).

    ``alpha`` and ``gamma`` are those of Google's later SSDLite recipes (MobileDet, MobileNetV3). Background takes no
    part: with sigmoids, background is the absence of every class.
    """

    score_function = "sigmoid"
    code_weight = 0.25

    def __init__(
        self,
        anchors: Tensor,
        box_code: BoxCode,
        *,
        matcher: Assigner | None = None,
        box_loss: BoxLossName = "smooth_l1",
        box_weight: float | None = None,
        alpha: float = 0.75,
        gamma: float = 2.0,
    ) -> None:
        super().__init__(anchors, box_code, matcher=matcher, box_loss=box_loss, box_weight=box_weight)
        self.alpha = alpha
        self.gamma = gamma

    def classification_loss(self, logits: Tensor, targets: Targets, predicted: Predicted) -> Tensor:
        classes = logits[:, :, 1:]
        wanted = _one_hot(targets.classes, classes)
        losses = sigmoid_focal_loss(classes, wanted, alpha=self.alpha, gamma=self.gamma).sum(dim=2)
        return torch.where(targets.positive | targets.negative, losses, 0.0).sum()


class QualityFocalLoss(DetectionLoss):
    """The score of a match's class learns the overlap of its predicted box (arXiv 2006.04388, equation 4).

    Cross-entropy with that overlap as target (0 for all other classes and anchors), times the difference of score and
    target to the power ``beta``. Background takes no part.
    """

    score_function = "sigmoid"
    code_weight = 0.25
    beta = 2.0

    def classification_loss(self, logits: Tensor, targets: Targets, predicted: Predicted) -> Tensor:
        classes = logits[:, :, 1:]
        quality = torch.where(targets.positive, paired_iou(predicted.boxes, targets.boxes), 0.0)
        wanted = _one_hot(targets.classes, classes) * quality[:, :, None]
        losses = quality_focal(classes, wanted, self.beta).sum(dim=2)
        return torch.where(targets.positive | targets.negative, losses, 0.0).sum()


LOSSES: dict[str, type[DetectionLoss]] = {"multibox": MultiBoxLoss, "focal": FocalLoss, "qfl": QualityFocalLoss}


def quality_focal(logits: Tensor, wanted: Tensor, beta: float) -> Tensor:
    """Logits and wanted scores in 0..1 of one shape -> cross-entropies times the difference to the power ``beta``."""
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return entropy * (wanted - logits.sigmoid()).abs().pow(beta)


def _one_hot(classes: Tensor, logits: Tensor) -> Tensor:
    """classes [B, A], 0 for background -> 0 or 1 like ``logits`` [B, A, K]. ``F.one_hot`` looks at the values first."""
    return (classes[:, :, None] == torch.arange(1, logits.shape[2] + 1, device=classes.device)).to(logits.dtype)


def _count_matches(targets: Targets) -> Tensor:
    return targets.positive.sum(dim=1).clamp(min=1).sum().float()


def mean_over_processes(count: Tensor) -> Tensor:
    """A number that is not learned, of this process -> its mean over all that train as one."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return count
    distributed.all_reduce(count)
    return count / distributed.get_world_size()
