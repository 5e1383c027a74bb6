"""What a larger detector says of a picture, learned beside its annotations: class scores and boxes, anchor by anchor.

Class and localization distillation as of arXiv 2102.12252: where both heads predict distributions of distances, the
teacher's are learned, and GIoU compares the boxes of all heads. For its two regions, of objects and around them, stands
the teacher's score: an anchor counts as much as that.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssdlite.anchors import generate_anchors
from ssdlite.backbones.batch_norm import fold_batch_norms
from ssdlite.checkpoint import Checkpoint
from ssdlite.config import DetectorConfig
from ssdlite.datasets.index import match_classes
from ssdlite.detector import Detector
from ssdlite.device import autocast
from ssdlite.errors import ConfigError
from ssdlite.files import listing
from ssdlite.heads.base import Outputs, class_scores
from ssdlite.heads.losses import OVERLAP_WEIGHT, giou_loss, mean_over_processes, quality_focal

FOCUS = 1.0  # power of the difference of the scores, that weighs their cross-entropy (arXiv 2306.11369: beta)
LEAST_CONFIDENCE = 0.05  # score below which a teacher's box is none
SAME_ANCHOR = 1e-3  # px


class Taught(NamedTuple):
    """What a teacher says of every anchor."""

    logits: Tensor  # [B, A, K + 1], by the student's classes
    boxes: Tensor  # [B, A, 4] xyxy px
    distances: Tensor | None = None  # [B, A, 4, N], logits of distributions, where the student has such


class Distillation:
    """The loss of a ``student`` that learns from a ``teacher``, which is copied and does not learn.

    Attributes:
        weight: of this loss beside that on annotations.
        amp: the type that most of the teacher computes in, None for float32.
    """

    def __init__(self, teacher: Checkpoint, student: Detector, *, weight: float, amp: torch.dtype | None) -> None:
        """Raises ConfigError for a teacher whose outputs are not those of the student, see ``require_same_outputs``."""
        require_same_outputs(teacher, student.config)
        self.weight, self.amp = weight, amp
        self._student_anchors, self._student_code = student.anchors, student.head.box_code
        self._score_function = student.config.head.score_function
        self._bins_are_same = teacher.config.head.bins == student.config.head.bins > 0
        network = fold_batch_norms(teacher.build_detector()).to(student.mean.device)
        self._teacher = network.to(memory_format=torch.channels_last).requires_grad_(False)
        columns = [1 + label for label in _labels_there(teacher, student.class_names)]
        self._columns = torch.tensor([0, *columns], device=student.mean.device)

    @torch.no_grad()
    def _taught(self, images: Tensor) -> Taught:
        """images [B, 3, H, W] -> what the teacher says."""
        with autocast(images.device, self.amp):
            outputs: Outputs = self._teacher(images)
        boxes = self._teacher.head.box_code.decode(outputs.box_deltas.float(), self._teacher.anchors)
        distributions = outputs.distributions if self._bins_are_same else None
        distances = None if distributions is None else distributions.logits.float()
        return Taught(outputs.class_logits.float()[:, :, self._columns], boxes, distances)

    def __call__(self, images: Tensor, outputs: Outputs) -> Tensor:
        """images uint8 [B, 3, H, W] and what the student makes of them -> a scalar, not weighted."""
        taught = self._taught(images)
        scores = class_scores(taught.logits, self._score_function)
        confidence = scores.amax(dim=2)
        confidence = torch.where(confidence >= LEAST_CONFIDENCE, confidence, 0.0)
        normalizer = mean_over_processes(confidence.sum().clamp(min=1))
        logits = outputs.class_logits.float()
        if self._score_function == "sigmoid":
            class_loss = quality_focal(logits[:, :, 1:], scores, FOCUS).sum()
        else:
            class_loss = divergence(logits, taught.logits).sum()
        boxes = self._student_code.decode(outputs.box_deltas.float(), self._student_anchors)
        box_loss = OVERLAP_WEIGHT * giou_loss(boxes, taught.boxes)
        if taught.distances is not None and outputs.distributions is not None:
            box_loss = box_loss + divergence(outputs.distributions.logits.float(), taught.distances).mean(dim=-1)
        return (class_loss + (box_loss * confidence).sum()) / normalizer


def divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the distributions of ``logits`` from those ``wanted``: [..., N] -> [...]."""
    parts = F.kl_div(logits.log_softmax(-1), wanted.log_softmax(-1), reduction="none", log_target=True)
    return parts.sum(dim=-1)


def require_same_classes(teacher: Checkpoint, class_names: tuple[str, ...]) -> None:
    """Raises ConfigError for a teacher of other classes, in whatever order they are."""
    missing = [
        name
        for name, match in zip(class_names, match_classes(class_names, teacher.config.class_names), strict=True)
        if match is None
    ]
    if missing or len(teacher.config.class_names) != len(class_names):
        raise ConfigError(
            f"--teacher {teacher.path}: expected a detector of the classes to be learned, {listing(class_names)}; got "
            f"one of {listing(teacher.config.class_names)}"
        )


def require_same_outputs(teacher: Checkpoint, student: DetectorConfig, *, anchors_are_known: bool = True) -> None:
    """Raises ConfigError where the teacher's outputs cannot stand for the student's: other classes, another input or
    score function, or other anchors.

    ``anchors_are_known``: those of ``student`` are not still to be fitted.
    """
    require_same_classes(teacher, student.class_names)
    theirs, where = teacher.config, f"--teacher {teacher.path}"
    otherwise = "; with --distillation-weight 0 it labels the pictures of --unlabelled, whatever its shape"
    if theirs.input.size != student.input.size:
        height, width = theirs.input.size
        raise ConfigError(
            f"{where}: it takes {width} x {height} px, the detector to train {student.input.size[1]} x "
            f"{student.input.size[0]}; train with --image-size {height} {width}{otherwise}"
        )
    if theirs.input.resize != student.input.resize:
        raise ConfigError(
            f"{where}: its pictures are resized by {theirs.input.resize}, those of the detector to train by "
            f"{student.input.resize}; train with --resize {theirs.input.resize}{otherwise}"
        )
    if theirs.head.score_function != student.head.score_function:
        raise ConfigError(
            f"{where}: its scores are by {theirs.head.score_function}, those of the detector to train by "
            f"{student.head.score_function}; --loss multibox is softmax, others sigmoid{otherwise}"
        )
    if theirs.strides != student.strides or (anchors_are_known and not _have_same_anchors(theirs, student)):
        raise ConfigError(
            f"{where}: it has {theirs.num_anchors} anchors on maps of strides {_strides(theirs)}, the detector to "
            f"train {student.num_anchors} on {_strides(student)}, or of other shapes; any litepan320 preset teaches "
            f"any other, without --anchors and --finest-stride{otherwise}"
        )


def _have_same_anchors(theirs: DetectorConfig, ours: DetectorConfig) -> bool:
    if theirs.num_anchors != ours.num_anchors:
        return False
    first, second = (generate_anchors(one.anchors, one.input.size, one.grid_sizes) for one in (theirs, ours))
    return bool(np.allclose(first, second, rtol=0, atol=SAME_ANCHOR))


def _strides(config: DetectorConfig) -> str:
    return ", ".join(map(str, config.strides))


def _labels_there(teacher: Checkpoint, class_names: tuple[str, ...]) -> list[int]:
    """Of each class the teacher's label."""
    return [label for label in match_classes(class_names, teacher.config.class_names) if label is not None]
