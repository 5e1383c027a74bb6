"""Images per second of one training step on synthetic pictures, ours beside torchvision's SSDLite in its usual loop.

``python benchmarks/training_step.py``: the contestants take turns, so that a change of the machine's speed meets all of
them; a line each with the median and the ratio to torchvision's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from ssdlite import build_detector
from ssdlite.device import autocast, choose_amp
from ssdlite.loss import MultiBoxLoss
from ssdlite.optimisation import WeightAverage, build_optimizer
from ssdlite.train_options import TrainOptions

BATCH, OBJECTS, CLASSES, SIDE = 16, 15, 3, 320
ROUNDS = 5
STEPS = 2  # of a contestant in each round
PICTURES = torch.randint(0, 256, (BATCH, SIDE, SIDE, 3), dtype=torch.uint8).permute(0, 3, 1, 2)


def random_boxes() -> Tensor:
    low = torch.rand(BATCH, OBJECTS, 2) * 240
    return torch.cat([low, low + 16 + torch.rand(BATCH, OBJECTS, 2) * 60], dim=2)


def ours(preset: str, *, fast: bool) -> Callable[[], object]:
    """A step as ``ssdlite train`` takes it; ``fast=False``: plain float32 without channels_last."""
    device = torch.device("cpu")
    detector = build_detector(preset, num_classes=CLASSES).train()
    amp = choose_amp("auto", device) if fast else None
    if fast:
        detector = detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pictures = PICTURES if fast else PICTURES.contiguous()
    options = TrainOptions()
    optimizer, average = build_optimizer(detector, options), WeightAverage(detector, options.ema_decay)
    loss = MultiBoxLoss(detector.anchors, torch.tensor(detector.config.box_code_scales))
    boxes, labels = random_boxes(), torch.randint(0, CLASSES, (BATCH, OBJECTS))

    def step() -> None:
        with autocast(device, amp):
            outputs = detector(pictures)
        optimizer.zero_grad()
        loss(outputs, boxes, labels).total.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), options.clip_norm)
        optimizer.step()
        average.update(detector)

    return step


def torchvision_step() -> Callable[[], object]:
    """torchvision's model as its reference training runs it: lists of pictures and targets, float32, SGD."""
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES + 1).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=4e-5)
    boxes, labels = random_boxes(), torch.randint(1, CLASSES + 1, (BATCH, OBJECTS))
    targets = [{"boxes": b, "labels": n} for b, n in zip(boxes, labels, strict=True)]

    def step() -> None:
        images = [picture.float() / 255 for picture in PICTURES]
        losses = model(images, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    return step


def main() -> None:
    contestants = {
        "torchvision ssdlite320_mobilenet_v3_large": torchvision_step(),
        "ours ssdlite320_mobilenet_v3_large": ours("ssdlite320_mobilenet_v3_large", fast=True),
        "ours ssdlite320_mobilenet_v2": ours("ssdlite320_mobilenet_v2", fast=True),
        "ours ssdlite320_mobilenet_v2, plain float32": ours("ssdlite320_mobilenet_v2", fast=False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_number in range(ROUNDS + 1):
        for name, step in contestants.items():
            start = time.perf_counter()
            for _ in range(STEPS):
                step()
            if round_number:  # the first is warm-up
                seconds[name].append((time.perf_counter() - start) / STEPS)
    rates = {name: BATCH / statistics.median(times) for name, times in seconds.items()}
    reference = next(iter(rates.values()))
    print(f"batch {BATCH}, {SIDE} px, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, rate in rates.items():
        print(f"{name:45s} {rate:6.1f} images/s   {rate / reference:5.2f}")


if __name__ == "__main__":
    main()
