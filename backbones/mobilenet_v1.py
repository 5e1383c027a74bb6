"""MobileNetV1 (arXiv 1704.04861, table 1)."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from ssdlite.backbones.base import (
    STEM_CHANNELS,
    Backbone,
    FeatureMap,
    Stage,
    build_classifier,
    group_by_stride,
    initialize_classifier,
    wanted_taps,
)
from ssdlite.backbones.layers import ConvNormActivation, DepthwiseSeparableConv
from ssdlite.config import LayerConfig

V1_STAGES = (
    Stage(channels=64, repeats=1, stride=1),
    Stage(channels=128, repeats=2, stride=2),
    Stage(channels=256, repeats=2, stride=2),
    Stage(channels=512, repeats=6, stride=2),
    Stage(channels=1024, repeats=2, stride=2),
)
V1_TAPS = {8: 5, 16: 11}  # stride -> the last layer that has it; Conv2d_11_pointwise is SSD's


class MobileNetV1(Backbone):
    """Layer ``features[i]`` is TensorFlow's ``Conv2d_i``; widths are cut to ``max(int(channels * width_mult), 8)``."""

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

        def scale(channels: int) -> int:
            return max(int(channels * width_mult), layers.least_channels)

        widths, layer_strides = [scale(STEM_CHANNELS)], [2]
        modules: list[nn.Module] = [ConvNormActivation(3, widths[0], 3, 2, layers=layers)]
        for stage in V1_STAGES:
            for repeat in range(stage.repeats):
                layer_strides.append(stage.stride if repeat == 0 else 1)
                width = scale(stage.channels)
                modules.append(DepthwiseSeparableConv(widths[-1], width, layer_strides[-1], layers=layers))
                widths.append(width)
        self.features = nn.Sequential(*modules)
        self.classifier = build_classifier(widths[-1], num_classes, dropout)
        taps = wanted_taps(strides, V1_TAPS)
        self.taps = tuple(taps.values())
        self.stages = group_by_stride(layer_strides)
        self.feature_maps = (
            *(FeatureMap(widths[layer], stride, activated=True) for stride, layer in taps.items()),
            FeatureMap(widths[-1], 32, activated=True),
        )
        initialize_classifier(self)
