"""ShuffleNetV2 (arXiv 1807.11164, table 5): half of the channels pass a block untouched, and a shuffle mixes both."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from ssdlite.backbones.base import Backbone, FeatureMap, group_by_stride, initialize_classifier
from ssdlite.backbones.layers import ConvNormActivation
from ssdlite.config import LayerConfig

SHUFFLENET_STEM = 24  # channels of the first convolution, at any published width
SHUFFLENET_REPEATS = (4, 8, 4)  # blocks to strides 8, 16 and 32
# by width the channels at these strides, and of the last convolution: table 5, whose rows are no multiples
SHUFFLENET_CHANNELS: dict[float, tuple[int, int, int, int]] = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}
BRANCHES = 2


def shuffle_channels(inputs: Tensor, groups: int) -> Tensor:
    """[B, C, H, W] -> the same, its channels taken from each of ``groups`` equal parts in turn (figure 3 of arXiv
    1707.01083); in four dimensions throughout, as some runtimes have no fifth."""
    _, channels, height, width = inputs.shape
    parts = inputs.reshape(-1, groups, channels // groups, height * width)
    return parts.transpose(1, 2).reshape(-1, channels, height, width)


class ShuffleBlock(nn.Module):
    """[B, in_channels, H, W] -> [B, out_channels, ceil(H / stride), ceil(W / stride)] (figure 3, c and d).

    With a stride of 1, where ``in_channels`` are ``out_channels``, the first half passes by; with 2 both branches see
    all channels and give half of the outcome each. Depthwise convolutions have no activation. Keys are torchvision's.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, layers: LayerConfig) -> None:
        super().__init__()
        half = out_channels // BRANCHES
        self.kept = half if stride == 1 else 0
        seen = in_channels - self.kept
        self.branch1 = nn.Sequential()
        if not self.kept:
            self.branch1 = nn.Sequential(*_depthwise(seen, stride, layers), *_pointwise(seen, half, layers))
        self.branch2 = nn.Sequential(
            *_pointwise(seen, half, layers), *_depthwise(half, stride, layers), *_pointwise(half, half, layers)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        if self.kept:
            first, second = inputs[:, : self.kept], self.branch2(inputs[:, self.kept :])
        else:
            first, second = self.branch1(inputs), self.branch2(inputs)
        return shuffle_channels(torch.cat([first, second], dim=1), BRANCHES)


def _depthwise(channels: int, stride: int, layers: LayerConfig) -> nn.Sequential:
    return ConvNormActivation(channels, channels, 3, stride, groups=channels, activate=False, layers=layers)


def _pointwise(in_channels: int, out_channels: int, layers: LayerConfig) -> nn.Sequential:
    return ConvNormActivation(in_channels, out_channels, 1, layers=layers)


class ShuffleNetV2(Backbone):
    """``features``: a convolution and a max pooling to stride 4, then the blocks. A feature map is what the last block
    of its stride gives. Widths that are not published scale the channels of width 1.

    Detectors do without the last convolution: it is a part of the classifier, in front of its pooling.
    """

    def __init__(
        self,
        *,
        width_mult: float = 1.0,
        num_classes: int | None = 1000,
        dropout: float = 0.2,
        strides: Collection[int] = (16, 32),
        layers: LayerConfig,
    ) -> None:
        super().__init__()
        *channels, last = SHUFFLENET_CHANNELS.get(width_mult) or _scaled_channels(width_mult)
        before = SHUFFLENET_STEM
        modules: list[nn.Module] = [ConvNormActivation(3, before, 3, 2, layers=layers), nn.MaxPool2d(3, 2, padding=1)]
        steps = [2, 2]
        ends: dict[int, tuple[int, FeatureMap]] = {}  # of each stride, the last block and what it gives
        for stride, width, repeats in zip((8, 16, 32), channels, SHUFFLENET_REPEATS, strict=True):
            for number in range(repeats):
                steps.append(2 if number == 0 else 1)
                modules.append(ShuffleBlock(before, width, steps[-1], layers=layers))
                before = width
            ends[stride] = len(modules) - 1, FeatureMap(width, stride, activated=True)
        self.features = nn.Sequential(*modules)
        taps = [ends[stride] for stride in (8, 16) if stride in strides]
        self.taps = tuple(block for block, _ in taps)
        self.feature_maps = (*(one for _, one in taps), ends[32][1])
        self.stages = group_by_stride(steps)
        self.classifier = _build_classifier(before, last, num_classes, dropout, layers)
        initialize_classifier(self)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits


def _scaled_channels(width_mult: float) -> tuple[int, ...]:
    *channels, last = SHUFFLENET_CHANNELS[1.0]
    return (*(BRANCHES * max(1, round(width * width_mult / BRANCHES)) for width in channels), last)


def _build_classifier(
    channels: int, last: int, num_classes: int | None, dropout: float, layers: LayerConfig
) -> nn.Sequential:
    pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    if num_classes is None:
        return pooling
    return nn.Sequential(
        _pointwise(channels, last, layers), *pooling, nn.Dropout(dropout), nn.Linear(last, num_classes)
    )
