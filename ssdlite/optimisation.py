"""Optimiser, learning rate and weight average of a training run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ssdlite.train_options import TrainOptions


def build_optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """SGD or AdamW; weights of convolutions decay, norms and biases do not.

    Groups of the backbone have its ``lr_factor``, which ``set_learning_rate`` heeds.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if options.backbone_lr_factor == 1:
        groups = _groups([parameter for _, parameter in trained], options.decay, 1.0)
    else:
        backbone = [parameter for name, parameter in trained if name.startswith("backbone.")]
        rest = [parameter for name, parameter in trained if not name.startswith("backbone.")]
        groups = _groups(backbone, options.decay, options.backbone_lr_factor) + _groups(rest, options.decay, 1.0)
    if options.optimizer == "sgd":
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
    warmup = min(options.warmup_steps, total_steps // 10)
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
