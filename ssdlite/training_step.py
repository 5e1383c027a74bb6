"""The step that changes the weights, and everything it needs: precision, loss, optimiser, weight average."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssdlite.allocator import keep_freed_memory
from ssdlite.checkpoint import Checkpoint, load_weights
from ssdlite.detector import Detector
from ssdlite.device import autocast, choose_amp, choose_device
from ssdlite.loss import Losses
from ssdlite.optimisation import WeightAverage, build_optimizer
from ssdlite.run_setup import build_loss
from ssdlite.train_options import TrainOptions


class TrainingStep:
    """Trains ``detector``, which it moves to the device of ``options`` and stores channels last.

    Attributes:
        amp: the type that most of the network computes in, None for float32.
        model: what is called: the detector, or what shares its gradients between processes.
    """

    def __init__(self, detector: Detector, options: TrainOptions, *, fast: bool = True) -> None:
        """``fast=False``: in float32, without channels_last, and memory goes back to the system; to compare with."""
        self.device = choose_device(options.device)
        self.amp = choose_amp(options.amp if fast else "off", self.device)
        layout = torch.channels_last if fast else torch.contiguous_format
        self.detector = detector.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self.model: nn.Module = self.detector
        self.criterion = build_loss(detector, options)
        self.optimizer = build_optimizer(detector, options)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp == torch.float16)
        self.average = WeightAverage(detector, options.ema_decay) if options.ema_decay else None
        self.clip_norm = options.clip_norm
        if fast and self.device.type == "cpu":
            keep_freed_memory()

    @property
    def evaluated(self) -> Detector:
        """The weights that are evaluated and saved: the average, where one is kept."""
        return self.detector if self.average is None else cast(Detector, self.average.model)

    def share_gradients(self, rank: int) -> None:
        """With the other processes that train; ``rank`` is this one's on its machine."""
        ids = [rank] if self.device.type == "cuda" else None
        self.model = DistributedDataParallel(self.detector, device_ids=ids)

    def __call__(self, images: Tensor, boxes: Tensor, labels: Tensor) -> Losses:
        """images uint8 [B, 3, H, W], boxes [B, M, 4] in input pixels, labels [B, M], -1 where there is no object."""
        images, boxes, labels = (one.to(self.device, non_blocking=True) for one in (images, boxes, labels))
        with autocast(self.device, self.amp):
            outputs = self.model(images)
        losses: Losses = self.criterion(outputs, boxes, labels)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(losses.total).backward()  # type: ignore[no-untyped-call]
        if self.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.detector.parameters(), self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.detector)
        return losses

    def state(self) -> dict[str, Any]:
        """What ``restore`` needs besides the weights of a checkpoint, which are the evaluated ones."""
        return {
            "model": self.detector.state_dict() if self.average is not None else None,
            "average_updates": 0 if self.average is None else self.average.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Raises KeyError, TypeError, ValueError or RuntimeError where the checkpoint's state is of another run."""
        state = checkpoint.training
        load_weights(self.detector, state["model"] or checkpoint.weights, checkpoint.path)
        if self.average is not None:
            self.average.restore(checkpoint.weights, state["average_updates"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
