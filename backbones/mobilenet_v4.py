"""MobileNetV4-Conv-Small (arXiv 2404.10518, table 11): no squeeze-and-excitation, ReLU alone."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from torch import Tensor, nn

from ssdlite.backbones.base import (
    STEM_CHANNELS,
    Backbone,
    FeatureMap,
    group_by_stride,
    initialize_classifier,
)
from ssdlite.backbones.layers import ConvNormActivation, round_channels
from ssdlite.config import LayerConfig

LAST_CHANNELS = 1280  # between pooling and classifier, as a layer of its own


class PlainConv(NamedTuple):
    """A convolution with norm and activation."""

    channels: int
    kernel_size: int
    stride: int = 1


class UniversalBottleneck(NamedTuple):
    """An inverted residual with up to two depthwise convolutions (section 3): one of ``start`` in front of the
    expansion, one of ``middle`` behind it; 0 for none. The one behind has the stride, where it is there."""

    channels: int
    start: int
    middle: int
    expansion: int
    stride: int = 1


V4_SMALL: tuple[PlainConv | UniversalBottleneck, ...] = (
    PlainConv(32, 3, 2),
    PlainConv(32, 1),
    PlainConv(96, 3, 2),
    PlainConv(64, 1),
    UniversalBottleneck(96, 5, 5, 3, 2),
    UniversalBottleneck(96, 0, 3, 2),
    UniversalBottleneck(96, 0, 3, 2),
    UniversalBottleneck(96, 0, 3, 2),
    UniversalBottleneck(96, 0, 3, 2),
    UniversalBottleneck(96, 3, 0, 4),
    UniversalBottleneck(128, 3, 3, 6, 2),
    UniversalBottleneck(128, 5, 5, 4),
    UniversalBottleneck(128, 0, 5, 4),
    UniversalBottleneck(128, 0, 5, 3),
    UniversalBottleneck(128, 0, 3, 4),
    UniversalBottleneck(128, 0, 3, 4),
    PlainConv(960, 1),
)


class UniversalInvertedBottleneck(nn.Module):
    """[B, in_channels, H, W] -> [B, row.channels, ceil(H / stride), ceil(W / stride)]; the input is added where the
    shapes agree. Keys are timm's, but that convolution and norm are ``0`` and ``1``."""

    def __init__(self, in_channels: int, out_channels: int, row: UniversalBottleneck, *, layers: LayerConfig) -> None:
        super().__init__()
        hidden = round_channels(in_channels * row.expansion)
        start_stride, middle_stride = (1, row.stride) if row.middle else (row.stride, 1)
        parts: dict[str, nn.Module] = {}
        if row.start:
            parts["dw_start"] = ConvNormActivation(
                in_channels, in_channels, row.start, start_stride, groups=in_channels, activate=False, layers=layers
            )
        parts["pw_exp"] = ConvNormActivation(in_channels, hidden, 1, layers=layers)
        if row.middle:
            parts["dw_mid"] = ConvNormActivation(
                hidden, hidden, row.middle, middle_stride, groups=hidden, layers=layers
            )
        parts["pw_proj"] = ConvNormActivation(hidden, out_channels, 1, activate=False, layers=layers)
        for name, part in parts.items():
            self.add_module(name, part)
        self.has_residual = row.stride == 1 and in_channels == out_channels

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = inputs
        for part in self.children():
            outputs = part(outputs)
        return inputs + outputs if self.has_residual else outputs


class MobileNetV4Small(Backbone):
    """``features[0]`` is the stem; the blocks of timm's ``mobilenetv4_conv_small`` follow in their order.

    A feature map is what the last layer of its stride gives. Between pooling and classifier stands a layer of 1280
    channels, as published.
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
        layers = layers.changed(activation="relu")
        channels = round_channels(STEM_CHANNELS * width_mult)
        modules: list[nn.Module] = [ConvNormActivation(3, channels, 3, 2, layers=layers)]
        ends: dict[int, tuple[int, FeatureMap]] = {}  # of each stride, the last layer and what it gives
        total = 2
        for row in V4_SMALL:
            width = round_channels(row.channels * width_mult)
            modules.append(_build_layer(channels, width, row, layers))
            channels, total = width, total * row.stride
            ends[total] = len(modules) - 1, FeatureMap(width, total, activated=isinstance(row, PlainConv))
        self.features = nn.Sequential(*modules)
        taps = [ends[stride] for stride in (8, 16) if stride in strides]
        self.taps = tuple(layer for layer, _ in taps)
        self.feature_maps = (*(one for _, one in taps), ends[32][1])
        self.stages = group_by_stride([2, *(row.stride for row in V4_SMALL)])
        self.classifier = _build_classifier(channels, num_classes, dropout, layers)
        initialize_classifier(self)

    def forward(self, images: Tensor) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(self.features(images), 1)
        logits: Tensor = self.classifier(pooled).flatten(1)
        return logits


def _build_layer(
    in_channels: int, out_channels: int, row: PlainConv | UniversalBottleneck, layers: LayerConfig
) -> nn.Module:
    if isinstance(row, PlainConv):
        return ConvNormActivation(in_channels, out_channels, row.kernel_size, row.stride, layers=layers)
    return UniversalInvertedBottleneck(in_channels, out_channels, row, layers=layers)


def _build_classifier(channels: int, num_classes: int | None, dropout: float, layers: LayerConfig) -> nn.Module:
    if num_classes is None:
        return nn.Identity()
    hidden = ConvNormActivation(channels, LAST_CHANNELS, 1, layers=layers)
    return nn.Sequential(hidden, nn.Flatten(), nn.Dropout(dropout), nn.Linear(LAST_CHANNELS, num_classes))
