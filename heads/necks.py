"""Necks. SSD's are layers behind the backbone that halve the map until one cell sees the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from ssdlite.backbones.base import FeatureMap
from ssdlite.backbones.layers import ConvNormActivation, build_conv3x3
from ssdlite.config import DetectorConfig, LayerConfig
from ssdlite.heads.base import Neck, initialize_normal

LEAST_CHANNELS = 16  # of a narrow detector's layers, as in TensorFlow's feature_map_generators


class ExtraLayers(nn.ModuleList, Neck):
    """Adds maps behind the backbone's (SSD, arXiv 1512.02325, section 2.1).

    For each of ``channels`` a 1x1 convolution to fewer, then a 3x3 one with stride 2 to all of them. The 3x3 is
    depthwise-separable in SSDLite and ``plain`` in SSD; batch norm and ReLU6 follow every convolution, except that a
    ``linear`` output has no ReLU6: a separable layer is then an inverted residual without shortcut. ``hidden`` channels
    are those between the two; by default half of ``channels``.
    """

    def __init__(
        self,
        inputs: Sequence[FeatureMap],
        channels: Sequence[int],
        *,
        conv: Literal["separable", "plain"],
        hidden: Sequence[int] = (),
        output: Literal["activated", "linear"] = "activated",
        layers: LayerConfig,
    ) -> None:
        last = inputs[-1]
        inner = hidden or [after // 2 for after in channels]
        super().__init__(
            nn.Sequential(
                ConvNormActivation(before, between, 1, layers=layers),
                build_conv3x3(conv, between, after, 2, linear=output == "linear", layers=layers),
            )
            for before, between, after in zip([last.channels, *channels[:-1]], inner, channels, strict=True)
        )
        self.num_inputs = len(inputs)
        self.feature_maps = (
            *inputs,
            *(FeatureMap(c, last.stride << i, activated=output == "activated") for i, c in enumerate(channels, 1)),
        )

    @staticmethod
    def from_config(inputs: Sequence[FeatureMap], config: DetectorConfig) -> ExtraLayers:
        channels, hidden = (
            [max(int(width * config.backbone.width_mult), LEAST_CHANNELS) for width in widths]
            for widths in (config.neck.channels, config.neck.hidden)
        )
        return ExtraLayers(
            inputs, channels, conv=config.neck.conv, hidden=hidden, output=config.neck.output, layers=config.layers
        )

    def layers_before(self, level: int) -> int:
        return max(level + 1 - self.num_inputs, 0)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps [B, C_i, H_i, W_i] -> these and, by layer, [B, channels[i], ceil(H / 2), ceil(W / 2)] of the last."""
        for layer in self:
            maps = [*maps, layer(maps[-1])]
        return maps

    def initialize_weights(self) -> None:
        initialize_normal(self)
