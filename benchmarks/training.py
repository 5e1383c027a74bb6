"""Training beside others: steps, whole runs, the cost of a sample, and of depthwise convolutions."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from benchmarks import BenchmarksOptions
from benchmarks.coco_scale import CLASSES, write_coco, write_picture
from ssdlite import build_detector
from ssdlite.benchmark.comparison import Comparison, Contestant
from ssdlite.benchmark.timing import Apart
from ssdlite.cli import SPINS, keep_freed_memory
from ssdlite.datasets.dataset import Batch, DetectionDataset, ShuffledBatches, collate
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.loading import load_split
from ssdlite.datasets.transforms import AUGMENTATIONS, DetectionTransform, build_mosaic
from ssdlite.device import Amp, choose_amp, choose_device
from ssdlite.training.options import SystemOptions, TrainOptions
from ssdlite.training.step import TrainingStep

BATCH, OBJECTS, NUM_CLASSES, SIDE = 16, 15, 90, 320
V3, V2 = "ssdlite320_mobilenet_v3_large", "ssdlite320_mobilenet_v2"
Step = Callable[[], object]


def training(options: BenchmarksOptions) -> Iterator[Comparison]:
    """One step: ours beside torchvision's SSDLite in its usual loop, and beside the same network run plainly."""
    yield Comparison(
        f"training step, V3-Large, {NUM_CLASSES} classes, {SIDE} px, batch {BATCH}",
        [
            Contestant("torchvision, its usual loop", Apart(options.threads, torchvision_step), BATCH),
            Contestant("ours", Apart(options.threads, our_step, V3), BATCH),
            Contestant("ours, in float32", Apart(options.threads, our_step, V3, True, "off"), BATCH),
        ],
        reference="torchvision, its usual loop",
        targets={"ours": 1.6},
        threads=options.threads,
        rounds=8,
    )
    yield Comparison(
        f"training step, V2, {NUM_CLASSES} classes, {SIDE} px, batch {BATCH}",
        [
            Contestant("float32, NCHW", Apart(options.threads, our_step, V2, False), BATCH),
            Contestant("as trained", Apart(options.threads, our_step, V2), BATCH),
            Contestant("float32, channels_last", Apart(options.threads, our_step, V2, True, "off"), BATCH),
        ],
        reference="float32, NCHW",
        targets={"as trained": 3.0},
        threads=options.threads,
        rounds=8,
        notes=[f"as trained: {choose_amp('auto', choose_device('auto')) or 'float32'}, channels_last"],
    )


def random_pictures(batch: int = BATCH) -> Tensor:
    """uint8 [B, 3, H, W], stored channels-last, as the input pipeline gives them."""
    return torch.randint(0, 256, (batch, SIDE, SIDE, 3), dtype=torch.uint8).permute(0, 3, 1, 2)


def random_boxes(batch: int = BATCH) -> Tensor:
    low = torch.rand(batch, OBJECTS, 2) * 240
    return torch.cat([low, low + 16 + torch.rand(batch, OBJECTS, 2) * 60], dim=2)


def our_step(preset: str, fast: bool = True, amp: Amp = "auto", batch: int = BATCH) -> Step:
    """A step as ``ssdlite train`` takes it, on data that are on the device."""
    options = TrainOptions(system=SystemOptions(amp=amp))
    step = TrainingStep(build_detector(preset, num_classes=NUM_CLASSES).train(), options, fast=fast)
    if fast and step.device.type == "cpu":
        keep_freed_memory()
    pictures = random_pictures(batch) if fast else random_pictures(batch).contiguous()
    labels = torch.randint(0, NUM_CLASSES, (batch, OBJECTS))
    data = [tensor.to(step.device) for tensor in (pictures, random_boxes(batch), labels)]

    def call() -> None:
        step(*data)
        finish(step.device)

    return call


def torchvision_step() -> Step:
    """torchvision's model as its reference training runs it: lists of pictures and targets, float32, SGD."""
    device = choose_device("auto")
    model = (
        ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1)
        .to(device)
        .train()
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=4e-5)
    pictures = random_pictures()
    boxes, labels = random_boxes(), torch.randint(1, NUM_CLASSES + 1, (BATCH, OBJECTS))

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


# --- Beside other work.

NEIGHBOURS = {"nothing else": 0, "one busy process": 1, "two": 2}
WAITING = {  # what ``ssdlite train --wait`` sets
    "active": {},  # as OpenMP does by itself
    "briefly": {"GOMP_SPINCOUNT": str(SPINS["briefly"])},
    "passive": {"GOMP_SPINCOUNT": "0", "OMP_WAIT_POLICY": "PASSIVE"},
}


def waiting(options: BenchmarksOptions) -> Iterator[Comparison]:
    """How threads wait for one another, alone and beside processes that compute."""
    batch = 8
    for beside, count in NEIGHBOURS.items():
        contestants = []
        for name, variables in WAITING.items():
            with mock.patch.dict(os.environ, variables):  # a process hands on what OpenMP reads when it is loaded
                contestants.append(Contestant(name, Apart(options.threads, our_step, V2, True, "off", batch), batch))
        contestants.append(Contestant("one thread", Apart(1, our_step, V2, True, "off", batch), batch))
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
        yield Comparison(
            f"training step, V2, {SIDE} px, batch {batch}, float32, beside {beside}",
            contestants,
            reference="active",
            threads=options.threads,
            rounds=8,
        )
        for other in others:
            other.kill()


# --- With data.

WORKERS, STEPS = 2, 12  # of a run; steps in a turn


def whole_run(options: BenchmarksOptions) -> Iterator[Comparison]:
    """A run with its data loading, beside the same steps on tensors that are there already."""
    with tempfile.TemporaryDirectory() as folder:
        write_coco(Path(folder), BATCH * STEPS)
        index = load_split(Path(folder), "train2017")
        dataset = DetectionDataset(index, DetectionTransform((SIDE, SIDE), "stretch", "ssdlite"))
        batches = ShuffledBatches(len(index), BATCH, seed=0, rank=0, processes=1)
        loader: DataLoader[Batch] = DataLoader(
            dataset,  # type: ignore[arg-type]
            batch_sampler=batches,
            num_workers=WORKERS,
            collate_fn=collate,
            persistent_workers=True,
        )
        step = TrainingStep(build_detector(V2, num_classes=CLASSES).train(), TrainOptions())
        if step.device.type == "cpu":
            keep_freed_memory()
        kept = list(loader)
        yield Comparison(
            f"training run, V2, {SIDE} px, batch {BATCH}, JPEG pictures of 640 x 480, {WORKERS} workers",
            [
                Contestant("steps alone", partial(train, step, kept), BATCH * STEPS),
                Contestant("with loading", partial(train, step, loader), BATCH * STEPS),
                Contestant("loading alone", lambda: sum(len(batch) for batch in loader), BATCH * STEPS),
            ],
            reference="steps alone",
            targets={"with loading": 0.90},
            threads=options.threads,
            rounds=5,
        )


def train(step: TrainingStep, batches: Iterable[Batch]) -> None:
    for batch in batches:
        step(batch.images, batch.boxes, batch.labels)
    finish(step.device)


SAMPLES = 4  # in a turn
LARGE = (3000, 4000)


def augmentation(options: BenchmarksOptions) -> Iterator[Comparison]:
    """What a sample costs, reading included: each augmentation, and large JPEGs whole and reduced."""
    with tempfile.TemporaryDirectory() as folder:
        index = _coco(Path(folder) / "coco", 64)
        recipes = {name: (name, 0.0) for name in AUGMENTATIONS} | {"ssdlite, all mosaics": ("ssdlite", 1.0)}
        contestants = [Contestant("reading alone", _read(DetectionDataset(index)), SAMPLES)]
        for label, (name, share) in recipes.items():
            transform = DetectionTransform((SIDE, SIDE), "stretch", name)
            dataset = DetectionDataset(index, transform, mosaic=build_mosaic(transform, share, 1))
            contestants.append(Contestant(label, _read(dataset), SAMPLES))
        yield Comparison(
            f"a training sample of {SIDE} px from a JPEG of 640 x 480", contestants, reference="ssdlite", rounds=40
        )
        yield _large_pictures(Path(folder) / "large")


def _large_pictures(root: Path) -> Comparison:
    index = _coco(root, 8)
    for number, path in enumerate(index.paths):
        Path(path).unlink()  # a link to one of 640 x 480
        write_picture(Path(path), LARGE, np.random.default_rng(number))
    index.sizes[:] = LARGE
    transform = DetectionTransform((SIDE, SIDE), "stretch", "ssdlite")
    whole, reduced = (DetectionDataset(index, transform, reduce_to=to) for to in (None, (SIDE, SIDE)))
    return Comparison(
        f"a training sample of {SIDE} px from a JPEG of {LARGE[1]} x {LARGE[0]}",
        [Contestant("whole", _read(whole), SAMPLES), Contestant("--reduced-decoding", _read(reduced), SAMPLES)],
        reference="whole",
        rounds=10,
    )


def _coco(root: Path, images: int) -> DetectionIndex:
    write_coco(root, images)
    return load_split(root, "train2017")


def _read(dataset: DetectionDataset) -> Callable[[], None]:
    positions = cycle(range(len(dataset)))

    def call() -> None:
        for _ in range(SAMPLES):
            dataset[next(positions)]

    return call


# --- Depthwise convolutions.


class Shape(NamedTuple):
    channels: int
    side: int
    kernel_size: int
    stride: int


SHAPES = (  # of MobileNetV2, V3-Large and extra layers at 320 px
    Shape(96, 160, 3, 2),
    Shape(144, 80, 3, 2),
    Shape(576, 20, 3, 2),
    Shape(72, 80, 5, 2),
    Shape(120, 40, 5, 1),
    Shape(480, 10, 5, 1),
    Shape(144, 80, 3, 1),
    Shape(576, 20, 3, 1),
)


def depthwise(options: BenchmarksOptions) -> Iterator[Comparison]:
    """Forward and backward under bfloat16 autocast: in bfloat16, and in float32 with the casts.

    Why ``AutocastConv2d`` trains some of them in float32.
    """
    for shape in SHAPES:
        yield Comparison(
            f"depthwise convolution, {shape.channels} channels of {shape.side} x {shape.side}, "
            f"kernel {shape.kernel_size}, stride {shape.stride}, batch {BATCH}",
            [
                Contestant("bfloat16", _convolve(shape, torch.bfloat16)),
                Contestant("float32 with casts", _convolve(shape, torch.float32)),
            ],
            reference="bfloat16",
            threads=options.threads,
            rounds=9,
        )


def _convolve(shape: Shape, kind: torch.dtype) -> Callable[[], None]:
    images = torch.randn(BATCH, shape.channels, shape.side, shape.side, dtype=torch.bfloat16)
    images = images.to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(shape.channels, 1, shape.kernel_size, shape.kernel_size, requires_grad=True)

    def forward() -> Tensor:
        padding = shape.kernel_size // 2
        outputs = F.conv2d(images.to(kind), weight.to(kind), None, shape.stride, padding, 1, shape.channels)
        return outputs.bfloat16()

    gradients = torch.ones_like(forward())

    def call() -> None:
        images.grad = weight.grad = None
        forward().backward(gradients)

    return call
