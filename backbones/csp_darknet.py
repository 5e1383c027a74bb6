"""CSPDarknet of YOLOX (arXiv 2107.08430, section 2.1; Megvii-BaseDetection/YOLOX, yolox/models/darknet.py)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ssdlite.backbones.base import (
    Backbone,
    FeatureMap,
    build_classifier,
    group_by_stride,
    initialize_classifier,
    wanted_taps,
)
from ssdlite.backbones.layers import ConvNormActivation, build_conv3x3
from ssdlite.config import LayerConfig

Conv3x3 = Literal["separable", "plain"]
STEM_WIDTH = 64  # channels at width 1
STEM_KERNEL = 6  # a 3x3 over blocks of 2x2 pixels


class CspStage(NamedTuple):
    """A 3x3 convolution of stride 2 to ``STEM_WIDTH * scale`` channels, then a ``CspLayer`` of that many blocks."""

    scale: int
    blocks: int


# of the published depth 0.33, where the deepest networks have 3, 9, 9, 3
CSP_STAGES = (CspStage(2, 1), CspStage(4, 3), CspStage(8, 3), CspStage(16, 1))
CSP_TAPS = {8: 4, 16: 6}  # stride -> the layer of ``features`` that leaves it; the last one leaves 32


class CspLayer(nn.Module):
    """A cross-stage partial layer (arXiv 1911.11929, figure 3): half of the channels go through the ``blocks``.

    [B, in_channels, H, W] -> [B, out_channels, H, W]. Each half is made by a 1x1 convolution of the whole input, and a
    1x1 convolution joins them (CSPLayer of yolox/models/network_blocks.py).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        blocks: int,
        *,
        shortcut: bool,
        conv: Conv3x3,
        layers: LayerConfig,
    ) -> None:
        super().__init__()
        half = out_channels // 2
        self.main, self.bypass = (ConvNormActivation(in_channels, half, 1, layers=layers) for _ in range(2))
        self.blocks = nn.Sequential(
            *(CspBlock(half, shortcut=shortcut, conv=conv, layers=layers) for _ in range(blocks))
        )
        self.join = ConvNormActivation(2 * half, out_channels, 1, layers=layers)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.join(torch.cat([self.blocks(self.main(inputs)), self.bypass(inputs)], dim=1))
        return outputs


class CspBlock(nn.Module):
    """A 1x1 and a 3x3 convolution, [B, channels, H, W] both; with a ``shortcut`` the input is added."""

    def __init__(self, channels: int, *, shortcut: bool, conv: Conv3x3, layers: LayerConfig) -> None:
        super().__init__()
        self.mix = ConvNormActivation(channels, channels, 1, layers=layers)
        self.spatial = build_conv3x3(conv, channels, channels, layers=layers)
        self.has_residual = shortcut

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.spatial(self.mix(inputs))
        return inputs + outputs if self.has_residual else outputs


class SpatialPyramidPooling(nn.Module):
    """The largest values around each cell, in squares of 5, 9 and 13 cells, beside the map itself (SPPBottleneck).

    [B, channels, H, W] both. The larger squares are the smaller one repeated: of the largest values of 5 cells the
    largest of 5 are those of 9.
    """

    def __init__(self, channels: int, *, layers: LayerConfig) -> None:
        super().__init__()
        half = channels // 2
        self.squeeze = ConvNormActivation(channels, half, 1, layers=layers)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.merge = ConvNormActivation(4 * half, channels, 1, layers=layers)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = [self.squeeze(inputs)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        outputs: Tensor = self.merge(torch.cat(maps, dim=1))
        return outputs


class CspDarknet(Backbone):
    """``features``: the stem, then of each stage its convolution and its layer, with the pooling between in the last.

    The depth is that of YOLOX-Nano, Tiny and S (0.33), their widths are 0.25, 0.375 and 0.5; Nano's 3x3 convolutions
    are ``separable``. The published stem (Focus) puts blocks of 2x2 pixels one behind the other as channels and has a
    3x3 convolution behind that: a 6x6 convolution of stride 2 is the same, and one operator in every runtime.
    """

    def __init__(
        self,
        *,
        width_mult: float = 1.0,
        num_classes: int | None = 1000,
        dropout: float = 0.2,
        strides: Collection[int] = (16, 32),
        layers: LayerConfig,
        conv: Conv3x3 = "plain",
    ) -> None:
        super().__init__()
        width = int(STEM_WIDTH * width_mult)
        modules: list[nn.Module] = [ConvNormActivation(3, width, STEM_KERNEL, 2, layers=layers)]
        steps, before = [2], width
        for stage in CSP_STAGES:
            channels, is_last = width * stage.scale, stage is CSP_STAGES[-1]
            modules.append(build_conv3x3(conv, before, channels, 2, layers=layers))
            if is_last:
                modules.append(SpatialPyramidPooling(channels, layers=layers))
            modules.append(CspLayer(channels, channels, stage.blocks, shortcut=not is_last, conv=conv, layers=layers))
            steps += [2, 1, 1] if is_last else [2, 1]
            before = channels
        self.features = nn.Sequential(*modules)
        self.stages = group_by_stride(steps)
        taps = wanted_taps(strides, CSP_TAPS)
        self.taps = tuple(taps.values())
        self.feature_maps = (
            *(FeatureMap(width * stride // 2, stride, activated=True) for stride in taps),
            FeatureMap(before, 32, activated=True),
        )
        self.classifier = build_classifier(before, num_classes, dropout)
        initialize_classifier(self)
