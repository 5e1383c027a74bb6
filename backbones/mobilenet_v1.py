"""MobileNetV1 (arXiv 1704.04861, table 1)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from ssdlite.backbones.base import Backbone, build_classifier, initialise_weights, taps_from
from ssdlite.backbones.layers import ConvNormActivation, DepthwiseSeparableConv, LayerOptions


class Stage(NamedTuple):
    """``repeats`` depthwise-separable convolutions to ``channels``; the first has the ``stride``."""

    channels: int
    repeats: int
    stride: int


STEM_CHANNELS = 32
STAGES = (
    Stage(channels=64, repeats=1, stride=1),
    Stage(channels=128, repeats=2, stride=2),
    Stage(channels=256, repeats=2, stride=2),
    Stage(channels=512, repeats=6, stride=2),
    Stage(channels=1024, repeats=2, stride=2),
)
TAPS = {8: 5, 16: 11}  # stride -> the last layer that has it; Conv2d_11_pointwise is SSD's


class MobileNetV1(Backbone):
    """Layer ``features[i]`` is TensorFlow's ``Conv2d_i``; widths are cut to ``max(int(channels * width_mult), 8)``."""

    def __init__(
        self,
        *,
        width_mult: float = 1.0,
        num_classes: int | None = 1000,
        dropout: float = 0.2,
        finest_stride: int = 16,
        options: LayerOptions,
    ) -> None:
        super().__init__()

        def scale(channels: int) -> int:
            return max(int(channels * width_mult), options.least_channels)

        channels = scale(STEM_CHANNELS)
        layers: list[nn.Module] = [ConvNormActivation(3, channels, 3, 2, options=options)]
        widths = [channels]
        for stage in STAGES:
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                layers.append(DepthwiseSeparableConv(widths[-1], scale(stage.channels), stride, options=options))
                widths.append(scale(stage.channels))
        self.features = nn.Sequential(*layers)
        self.classifier = build_classifier(widths[-1], num_classes, dropout)
        taps = taps_from(finest_stride, TAPS)
        self.tapped_layers = tuple(taps.values())
        self.feature_channels = (*(widths[layer] for layer in self.tapped_layers), widths[-1])
        self.feature_strides = (*taps, 32)
        initialise_weights(self)

    def forward_features(self, images: Tensor) -> list[Tensor]:
        maps, outputs = [], images
        for number, layer in enumerate(self.features):
            outputs = layer(outputs)
            if number in self.tapped_layers:
                maps.append(outputs)
        return [*maps, outputs]
