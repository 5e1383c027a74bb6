"""The step that changes the weights, and everything it needs: precision, loss, optimiser, EMA of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from ssdlite.build import build_loss
from ssdlite.checkpoint import Checkpoint, load_weights
from ssdlite.detector import Detector
from ssdlite.device import autocast, choose_amp, choose_device
from ssdlite.heads.base import Outputs
from ssdlite.heads.losses import Losses
from ssdlite.training.distillation import Distillation
from ssdlite.training.guide import ATTACHED_SHARE, AssignmentGuide, GuidedDetector, require_guided_assigner
from ssdlite.training.options import TrainOptions
from ssdlite.training.state import TrainingState, check_fit


def build_optimizer(model: nn.Module, options: TrainOptions, guide: nn.Module | None = None) -> torch.optim.Optimizer:
    """SGD or AdamW; weights of convolutions decay, norms and biases do not. Those of ``guide`` are trained beside.

    Groups of the backbone have its ``lr_factor``, which ``set_learning_rate`` heeds.
    """
    parameters = [*model.named_parameters(), *(() if guide is None else guide.named_parameters("guide"))]
    trained = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    decay, factor = options.optimization.decay, options.backbone_lr_factor
    if factor == 1:
        groups = _groups([parameter for _, parameter in trained], decay, 1.0)
    else:
        backbone = [parameter for name, parameter in trained if name.startswith("backbone.")]
        rest = [parameter for name, parameter in trained if not name.startswith("backbone.")]
        groups = _groups(backbone, decay, factor) + _groups(rest, decay, 1.0)
    if options.optimization.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.peak_lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=options.peak_lr, fused=True)


def _groups(parameters: list[nn.Parameter], decay: float, lr_factor: float) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay, "lr_factor": lr_factor},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0, "lr_factor": lr_factor},
    ]
    return [group for group in groups if group["params"]]


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group ``rate`` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_factor", 1.0)  # runs of before there were factors have none


def learning_rate(step: int, total_steps: int, options: TrainOptions) -> float:
    """At ``step`` (from 0) of ``total_steps``: a linear rise, then a cosine to 0 (arXiv 1608.03983)."""
    warmup = min(options.optimization.warmup, total_steps // 10)
    if step < warmup:
        return options.peak_lr * (step + 1) / warmup
    progress = (step - warmup) / max(total_steps - warmup, 1)
    return options.peak_lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class WeightAverage:
    """An exponential moving average of a model's parameters, with the batch-norm statistics as they are.

    The statistics are moving averages already; averaged a second time they lag so far behind the weights that early
    evaluations show nothing (measured on BCCD after 192 steps: AP50 0.01, against 0.29 with the statistics copied).

    The decay is (1 + n) / (10 + n) after n updates until that reaches ``decay``, so that a short run is not
    dominated by its first, random weights (as TensorFlow's ExponentialMovingAverage with ``num_updates``).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._average = AveragedModel(model, multi_avg_fn=self._blend)

    @property
    def model(self) -> nn.Module:
        return self._average.module

    def update(self, model: nn.Module) -> None:
        self.updates += 1
        self._average.update_parameters(model)

    def restore(self, weights: dict[str, Tensor], updates: int) -> None:
        """Continue from an earlier average after that many updates."""
        self.model.load_state_dict(weights)
        self.updates = updates
        self._average.n_averaged.fill_(updates)

    @torch.no_grad()
    def _blend(self, averages: Sequence[Tensor], values: Sequence[Tensor], _: Tensor | int) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(averages), list(values), 1 - decay)


class StepLosses(NamedTuple):
    """Those of ``Losses``; ``distillation``, before it is weighted, is 0 without a teacher, and ``guide``, the sum of a
    guide's own losses, without one."""

    total: Tensor
    classification: Tensor
    box: Tensor
    distribution: Tensor
    distillation: Tensor
    guide: Tensor


class TrainingStep:
    """Trains ``detector``, which it moves to the device of ``options`` and stores channels last.

    Attributes:
        amp: the type that most of the network computes in, None for float32.
        model: what is called: the detector, or what shares its gradients between processes.
    """

    def __init__(
        self, detector: Detector, options: TrainOptions, *, teacher: Checkpoint | None = None, fast: bool = True
    ) -> None:
        """``fast=False``: in float32 and without channels_last, to compare with.

        Raises:
            ConfigError: the detector cannot learn from ``teacher``.
        """
        self.device = choose_device(options.system.device)
        self.amp = choose_amp(options.system.amp if fast else "off", self.device)
        layout = torch.channels_last if fast else torch.contiguous_format
        self.detector = detector.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self.model: nn.Module = self.detector
        own = options.settings
        self.criterion = build_loss(
            detector, loss=own.loss, matcher=own.matcher, box_loss=own.box_loss, box_weight=own.box_weight
        )
        self.criterion.checked_steps = 0  # what the data readers give is known
        self.guide = None
        if options.loss.assignment_guide:
            require_guided_assigner(options.settings.matcher)
            guide = AssignmentGuide(detector)
            self.guide = guide.to(self.device, memory_format=layout)  # type: ignore[call-overload]
            self.model = GuidedDetector(self.detector, guide)
        self.progress = 0.0  # the share of training that is done
        self.optimizer = build_optimizer(detector, options, self.guide)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp == torch.float16)
        ema_decay = options.optimization.average_decay
        self.average = WeightAverage(detector, ema_decay) if ema_decay else None
        self.clip_norm = options.optimization.clip_norm
        weight = options.distillation.distillation_weight
        self.distillation = None
        if teacher is not None and weight:
            self.distillation = Distillation(teacher, self.detector, weight=weight, amp=self.amp)

    @property
    def evaluated(self) -> Detector:
        """The weights that are evaluated and saved: the average, where one is kept."""
        return self.detector if self.average is None else cast(Detector, self.average.model)

    def share_gradients(self) -> None:
        """With the other processes that train."""
        self.model = DistributedDataParallel(self.model)

    def __call__(self, images: Tensor, boxes: Tensor, labels: Tensor) -> StepLosses:
        """images uint8 [B, 3, H, W], boxes [B, M, 4] in input pixels, labels [B, M], -1 where there is no object."""
        images, boxes, labels = (one.to(self.device, non_blocking=True) for one in (images, boxes, labels))
        with autocast(self.device, self.amp):
            outputs, guide = self._forward(images)
        losses = self._losses(images, outputs, boxes, labels, guide)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(losses.total).backward()  # type: ignore[no-untyped-call]
        if self.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.detector)
        return losses

    def _forward(self, images: Tensor) -> tuple[Outputs, Outputs | None]:
        """Outputs of the detector, and of the guide where there is one."""
        if self.guide is None:
            return self.model(images), None
        outputs, guide = self.model(images, self.progress < ATTACHED_SHARE)
        return outputs, guide

    def _losses(
        self, images: Tensor, outputs: Outputs, boxes: Tensor, labels: Tensor, guide: Outputs | None
    ) -> StepLosses:
        own: Losses = self.criterion(outputs, boxes, labels, guide)
        total = own.total
        distilled = guided = torch.zeros_like(total)
        if guide is not None:
            guided = self.criterion(guide, boxes, labels).total
            total = total + guided
        if self.distillation is not None:
            distilled = self.distillation(images, outputs)
            total = total + self.distillation.weight * distilled
        return StepLosses(total, own.classification, own.box, own.distribution, distilled, guided)

    def state(self) -> dict[str, Any]:
        """What ``restore`` needs besides the weights of a checkpoint, which are the evaluated ones."""
        return {
            "model": self.detector.state_dict() if self.average is not None else None,
            "guide": None if self.guide is None else self.guide.state_dict(),
            "average_updates": 0 if self.average is None else self.average.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, checkpoint: Checkpoint, state: TrainingState) -> None:
        """Raises CheckpointError where the checkpoint's state is of another network or optimiser."""
        check_fit(state, checkpoint, self.detector, self.optimizer, self.guide)
        load_weights(self.detector, state.model or checkpoint.weights, checkpoint.path)
        if self.guide is not None and state.guide is not None:
            self.guide.load_state_dict(state.guide)
        if self.average is not None:
            self.average.restore(checkpoint.weights, state.average_updates)
        self.optimizer.load_state_dict(state.optimizer)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state.scaler)
