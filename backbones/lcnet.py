"""PP-LCNet (arXiv 2109.15099, table 1): separable convolutions with hard-swish, wide kernels and gates at the end."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from ssdlite.backbones.base import (
    Backbone,
    FeatureMap,
    group_by_stride,
    initialize_classifier,
    wanted_taps,
)
from ssdlite.backbones.layers import ConvNormActivation, DepthwiseSeparableConv, round_channels
from ssdlite.config import LayerConfig

LCNET_STEM = 16
LCNET_LAST = 1280  # channels between pooling and classifier, whatever the width
LCNET_TAPS = {8: 5, 16: 11}  # stride -> the last layer that has it


class LcnetRow(NamedTuple):
    """A separable convolution; ``gated`` where squeeze-and-excitation stands between its two halves."""

    channels: int
    kernel_size: int
    stride: int = 1
    gated: bool = False


LCNET_ROWS = (
    LcnetRow(32, 3),
    LcnetRow(64, 3, 2),
    LcnetRow(64, 3),
    LcnetRow(128, 3, 2),
    LcnetRow(128, 3),
    LcnetRow(256, 3, 2),
    *(LcnetRow(256, 5) for _ in range(5)),
    LcnetRow(512, 5, 2, gated=True),
    LcnetRow(512, 5, gated=True),
)


class GatedSeparableConv(DepthwiseSeparableConv):
    """With squeeze-and-excitation (arXiv 1709.01507) by a hard-sigmoid in the middle: a quarter of the channels."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, *, kernel_size: int, layers: LayerConfig
    ) -> None:
        super().__init__(in_channels, out_channels, stride, kernel_size=kernel_size, layers=layers)
        self.gate = SqueezeExcitation(in_channels, in_channels // 4, scale_activation=nn.Hardsigmoid)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.pointwise(self.gate(self.depthwise(inputs)))
        return outputs


class LCNet(Backbone):
    """``features[0]`` is the stem, the rows of ``LCNET_ROWS`` follow; ends as PaddleClas' and timm's classifiers do.

    As in PaddleDetection (ppdet/modeling/backbones/lcnet.py), where a detector takes the last map of strides 8, 16, 32.
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
        layers = layers.changed(activation="hardswish")
        scale = partial(_scaled, width_mult=width_mult)
        channels = scale(LCNET_STEM)
        modules: list[nn.Module] = [ConvNormActivation(3, channels, 3, 2, layers=layers)]
        for row in LCNET_ROWS:
            kind = GatedSeparableConv if row.gated else DepthwiseSeparableConv
            before, channels = channels, scale(row.channels)
            modules.append(kind(before, channels, row.stride, kernel_size=row.kernel_size, layers=layers))
        self.features = nn.Sequential(*modules)
        taps = wanted_taps(strides, LCNET_TAPS)
        self.taps = tuple(taps.values())
        maps = {stride: scale(LCNET_ROWS[layer - 1].channels) for stride, layer in taps.items()}
        self.feature_maps = tuple(
            FeatureMap(width, stride, activated=True) for stride, width in (*maps.items(), (32, channels))
        )
        self.stages = group_by_stride([2, *(row.stride for row in LCNET_ROWS)])
        self.classifier = _build_classifier(channels, num_classes, dropout)
        initialize_classifier(self)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(nn.functional.adaptive_avg_pool2d(self.features(images), 1)).flatten(1)
        return logits


def _scaled(channels: int, width_mult: float) -> int:
    return round_channels(channels * width_mult)


def _build_classifier(channels: int, num_classes: int | None, dropout: float) -> nn.Module:
    if num_classes is None:
        return nn.Identity()
    hidden = nn.Conv2d(channels, LCNET_LAST, 1)
    return nn.Sequential(hidden, nn.Hardswish(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(LCNET_LAST, num_classes))
