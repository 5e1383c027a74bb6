"""MobileNetV2 (arXiv 1801.04381, table 2). State-dict keys are torchvision's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

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
from ssdlite.backbones.layers import ConvNormActivation, InvertedResidual, round_channels
from ssdlite.config import LayerConfig

LAST_CHANNELS = 1280  # does not shrink with the width: a narrow network still needs it to tell classes apart
V2_STAGES = (
    Stage(expansion=1, channels=16, repeats=1, stride=1),
    Stage(expansion=6, channels=24, repeats=2, stride=2),
    Stage(expansion=6, channels=32, repeats=3, stride=2),
    Stage(expansion=6, channels=64, repeats=4, stride=2),
    Stage(expansion=6, channels=96, repeats=3, stride=1),
    Stage(expansion=6, channels=160, repeats=3, stride=2),
    Stage(expansion=6, channels=320, repeats=1, stride=1),
)
V2_TAPS = {8: 7, 16: 14}  # stride -> the block that leaves it; SSDLite taps the expansion of the first of 160 channels


class MobileNetV2(Backbone):
    """Layer ``features[i]`` is torchvision's; TensorFlow's ``expanded_conv_k`` is ``features[k + 1]``."""

    block_stages: ClassVar[tuple[Stage, ...]] = V2_STAGES
    tapped_blocks: ClassVar[Mapping[int, int]] = V2_TAPS

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
        least = layers.least_channels
        channels = round_channels(STEM_CHANNELS * width_mult, least=least)
        last_width = width_mult if layers.narrowing == "detection_api" else max(1.0, width_mult)
        last_channels = round_channels(LAST_CHANNELS * last_width, least=least)
        layer_strides = [2]
        modules: list[Any] = [ConvNormActivation(3, channels, 3, 2, layers=layers)]
        for stage in self.block_stages:
            for repeat in range(stage.repeats):
                layer_strides.append(stage.stride if repeat == 0 else 1)
                width = round_channels(stage.channels * width_mult, least=least)
                modules.append(
                    InvertedResidual(
                        channels,
                        width,
                        layer_strides[-1],
                        expansion=stage.expansion,
                        kernel_size=stage.kernel_size,
                        layers=layers,
                    )
                )
                channels = width
        modules.append(ConvNormActivation(channels, last_channels, 1, layers=layers))
        self.features = nn.Sequential(*modules)
        self.classifier = build_classifier(last_channels, num_classes, dropout)
        taps = wanted_taps(strides, self.tapped_blocks)
        self.taps = tuple(taps.values())
        self.stages = group_by_stride([*layer_strides, 1])
        self.feature_maps = (
            *(FeatureMap(modules[block].expanded_channels, stride, activated=True) for stride, block in taps.items()),
            FeatureMap(last_channels, 32, activated=True),
        )
        initialize_classifier(self)

    def run_tapped(self, layer: InvertedResidual, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return layer.forward_with_expansion(inputs)
