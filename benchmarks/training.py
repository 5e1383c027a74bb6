"""One training step: ours beside torchvision's SSDLite in its usual loop, and beside the same network run plainly."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from benchmarks.apart import Apart
from benchmarks.harness import Comparison, Contestant, Settings
from ssdlite import build_detector
from ssdlite.cli import keep_freed_memory
from ssdlite.device import choose_amp, choose_device
from ssdlite.training.options import TrainOptions
from ssdlite.training.step import TrainingStep

ROUNDS = 8
BATCH, OBJECTS, SLOTS, SIDE = 16, 15, 91, 320
V3, V2 = "ssdlite320_mobilenet_v3_large", "ssdlite320_mobilenet_v2"
Step = Callable[[], object]


def comparisons(settings: Settings) -> Iterator[Comparison]:
    yield Comparison(
        f"training step, V3-Large, {SLOTS} slots, {SIDE} px, batch {BATCH}",
        [
            Contestant("torchvision, its usual loop", Apart(settings.threads, torchvision_step), BATCH),
            Contestant("ours", Apart(settings.threads, our_step, V3), BATCH),
        ],
        reference="torchvision, its usual loop",
        targets={"ours": 1.6},
        threads=settings.threads,
    )
    yield Comparison(
        f"training step, V2, {SLOTS} slots, {SIDE} px, batch {BATCH}",
        [
            Contestant("float32, NCHW", Apart(settings.threads, our_step, V2, False), BATCH),
            Contestant("as trained", Apart(settings.threads, our_step, V2, True), BATCH),
        ],
        reference="float32, NCHW",
        targets={"as trained": 3.0},
        threads=settings.threads,
        notes=[f"as trained: {choose_amp('auto', choose_device('auto')) or 'float32'}, channels_last"],
    )


def random_pictures() -> Tensor:
    """uint8 [B, 3, H, W], stored channels-last, as the input pipeline gives them."""
    return torch.randint(0, 256, (BATCH, SIDE, SIDE, 3), dtype=torch.uint8).permute(0, 3, 1, 2)


def random_boxes() -> Tensor:
    low = torch.rand(BATCH, OBJECTS, 2) * 240
    return torch.cat([low, low + 16 + torch.rand(BATCH, OBJECTS, 2) * 60], dim=2)


def our_step(preset: str, fast: bool = True) -> Step:
    """A step as ``ssdlite train`` takes it, on data that are on the device."""
    step = TrainingStep(build_detector(preset, num_classes=SLOTS - 1).train(), TrainOptions(), fast=fast)
    if fast and step.device.type == "cpu":
        keep_freed_memory()
    pictures = random_pictures() if fast else random_pictures().contiguous()
    labels = torch.randint(0, SLOTS - 1, (BATCH, OBJECTS))
    data = [tensor.to(step.device) for tensor in (pictures, random_boxes(), labels)]

    def call() -> None:
        step(*data)
        finish(step.device)

    return call


def torchvision_step() -> Step:
    """torchvision's model as its reference training runs it: lists of pictures and targets, float32, SGD."""
    device = choose_device("auto")
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=SLOTS).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=4e-5)
    pictures = random_pictures()
    boxes, labels = random_boxes(), torch.randint(1, SLOTS, (BATCH, OBJECTS))

    def step() -> None:
        images = [(picture.float() / 255).to(device) for picture in pictures]
        targets = [{"boxes": b.to(device), "labels": n.to(device)} for b, n in zip(boxes, labels, strict=True)]
        losses = model(images, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        finish(device)

    return step


def finish(device: torch.device) -> None:
    """A GPU works on when the host is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
