"""The step of ``ssdlite train``, apart from its data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssdlite import build_detector
from ssdlite.device import autocast, choose_amp, choose_device
from ssdlite.loss import MultiBoxLoss
from ssdlite.optimisation import WeightAverage, build_optimizer
from ssdlite.train_options import TrainOptions


class Steps:
    """Trains a preset; ``fast=False``: in float32, without channels_last."""

    def __init__(self, preset: str, classes: int, *, fast: bool = True) -> None:
        self.device = choose_device("auto")
        self.amp = choose_amp("auto", self.device) if fast else None
        self.options = TrainOptions()
        self.detector = build_detector(preset, num_classes=classes).to(self.device).train()
        if fast:
            self.detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = build_optimizer(self.detector, self.options)
        self.average = WeightAverage(self.detector, self.options.ema_decay)
        scales = torch.tensor(self.detector.config.box_code_scales, device=self.device)
        self.criterion = MultiBoxLoss(self.detector.anchors, scales)

    def step(self, images: Tensor, boxes: Tensor, labels: Tensor) -> None:
        """images uint8 [B, 3, H, W], boxes [B, M, 4], labels [B, M]: one, and on a GPU it is over on return."""
        with autocast(self.device, self.amp):
            outputs = self.detector(images)
        self.optimizer.zero_grad(set_to_none=True)
        self.criterion(outputs, boxes, labels).total.backward()
        nn.utils.clip_grad_norm_(self.detector.parameters(), self.options.clip_norm)
        self.optimizer.step()
        self.average.update(self.detector)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
