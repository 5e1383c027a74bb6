"""MobileNetV2 (arXiv 1801.04381, table 2). State-dict keys are torchvision's."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from ssdlite.backbones.base import Backbone, build_classifier, initialise_weights, taps_from
from ssdlite.backbones.layers import ConvNormActivation, InvertedResidual, LayerOptions, round_channels


class Stage(NamedTuple):
    """``repeats`` inverted residuals to ``channels``; the first has the ``stride``."""

    expansion: int
    channels: int
    repeats: int
    stride: int


STEM_CHANNELS = 32
LAST_CHANNELS = 1280  # does not shrink with the width: a narrow network still needs it to tell classes apart
STAGES = (
    Stage(expansion=1, channels=16, repeats=1, stride=1),
    Stage(expansion=6, channels=24, repeats=2, stride=2),
    Stage(expansion=6, channels=32, repeats=3, stride=2),
    Stage(expansion=6, channels=64, repeats=4, stride=2),
    Stage(expansion=6, channels=96, repeats=3, stride=1),
    Stage(expansion=6, channels=160, repeats=3, stride=2),
    Stage(expansion=6, channels=320, repeats=1, stride=1),
)
TAPS = {8: 7, 16: 14}  # stride -> the block that leaves it; SSDLite taps the expansion of the first of 160 channels


class MobileNetV2(Backbone):
    """Layer ``features[i]`` is torchvision's; TensorFlow's ``expanded_conv_k`` is ``features[k + 1]``."""

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
        least = options.least_channels
        channels = round_channels(STEM_CHANNELS * width_mult, least=least)
        last_width = width_mult if options.narrowing == "detection_api" else max(1.0, width_mult)
        last_channels = round_channels(LAST_CHANNELS * last_width, least=least)
        layers: list[Any] = [ConvNormActivation(3, channels, 3, 2, options=options)]
        for stage in STAGES:
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                width = round_channels(stage.channels * width_mult, least=least)
                layers.append(InvertedResidual(channels, width, stride, expansion=stage.expansion, options=options))
                channels = width
        layers.append(ConvNormActivation(channels, last_channels, 1, options=options))
        self.features = nn.Sequential(*layers)
        self.classifier = build_classifier(last_channels, num_classes, dropout)
        taps = taps_from(finest_stride, TAPS)
        self.tapped_blocks = tuple(taps.values())
        self.feature_channels = (*(int(layers[block].expanded_channels) for block in self.tapped_blocks), last_channels)
        self.feature_strides = (*taps, 32)
        initialise_weights(self)

    def forward_features(self, images: Tensor) -> list[Tensor]:
        maps, outputs = [], images
        for number, layer in enumerate(self.features):
            if number in self.tapped_blocks:
                block: Any = layer
                expanded, outputs = block.forward_with_expansion(outputs)
                maps.append(expanded)
            else:
                outputs = layer(outputs)
        return [*maps, outputs]
