"""Depthwise convolutions, forward and backward, under bfloat16 autocast: in bfloat16, and in float32 with the casts.

Why ``AutocastConv2d`` trains some of them in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Comparison, Contestant, Settings

ROUNDS = 9
BATCH = 16


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


def comparisons(settings: Settings) -> Iterator[Comparison]:
    for shape in SHAPES:
        yield Comparison(
            f"depthwise convolution, {shape.channels} channels of {shape.side} x {shape.side}, "
            f"kernel {shape.kernel_size}, stride {shape.stride}, batch {BATCH}",
            [
                Contestant("bfloat16", _call(shape, torch.bfloat16)),
                Contestant("float32 with casts", _call(shape, torch.float32)),
            ],
            reference="bfloat16",
            threads=settings.threads,
        )


def _call(shape: Shape, kind: torch.dtype) -> Callable[[], None]:
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
