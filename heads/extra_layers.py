"""The layers behind the backbone that halve the map until one cell sees the whole image (SSD, arXiv 1512.02325)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from ssdlite.backbones.layers import ConvNormActivation, DepthwiseSeparableConv, LayerOptions

ExtraConv = Literal["separable", "plain"]


class ExtraLayers(nn.ModuleList):
    """For each of ``channels``: a 1x1 convolution to half of it, then a 3x3 one with stride 2 to all of it.

    The 3x3 is depthwise-separable in SSDLite and ``plain`` in SSD; batch norm and ReLU6 follow every convolution.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], *, conv: ExtraConv, options: LayerOptions) -> None:
        inputs = [in_channels, *channels[:-1]]
        super().__init__(
            nn.Sequential(
                ConvNormActivation(before, after // 2, 1, options=options),
                DepthwiseSeparableConv(after // 2, after, 2, options=options)
                if conv == "separable"
                else ConvNormActivation(after // 2, after, 3, 2, options=options),
            )
            for before, after in zip(inputs, channels, strict=True)
        )

    def forward(self, features: Tensor) -> list[Tensor]:
        """[B, in_channels, H, W] -> one map per layer, [B, channels[i], ceil(H / 2^(i+1)), ceil(W / 2^(i+1))]."""
        maps: list[Tensor] = []
        for layer in self:
            features = layer(features)
            maps.append(features)
        return maps
