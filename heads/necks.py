"""The layers behind the backbone that halve the map until one cell sees the whole image (SSD, arXiv 1512.02325)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from ssdlite.backbones.layers import ConvNormActivation, DepthwiseSeparableConv, LayerOptions

ExtraConv = Literal["separable", "plain"]
ExtraOutput = Literal["activated", "linear"]


class ExtraLayers(nn.ModuleList):
    """For each of ``channels``: a 1x1 convolution to fewer, then a 3x3 one with stride 2 to all of them.

    The 3x3 is depthwise-separable in SSDLite and ``plain`` in SSD; batch norm and ReLU6 follow every convolution,
    except that a ``linear`` output has no ReLU6: a separable layer is then an inverted residual without shortcut.
    ``hidden`` channels are those between the two; by default half of ``channels``.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        *,
        conv: ExtraConv,
        hidden: Sequence[int] = (),
        output: ExtraOutput = "activated",
        options: LayerOptions,
    ) -> None:
        inputs = [in_channels, *channels[:-1]]
        inner = hidden or [after // 2 for after in channels]
        super().__init__(
            nn.Sequential(
                ConvNormActivation(before, between, 1, options=options),
                DepthwiseSeparableConv(between, after, 2, linear=output == "linear", options=options)
                if conv == "separable"
                else ConvNormActivation(between, after, 3, 2, activate=output != "linear", options=options),
            )
            for before, between, after in zip(inputs, inner, channels, strict=True)
        )

    def forward(self, features: Tensor) -> list[Tensor]:
        """[B, in_channels, H, W] -> one map per layer, [B, channels[i], ceil(H / 2^(i+1)), ceil(W / 2^(i+1))]."""
        maps: list[Tensor] = []
        for layer in self:
            features = layer(features)
            maps.append(features)
        return maps
