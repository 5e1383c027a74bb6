"""A depthwise path-aggregation neck: coarse maps are told to fine ones, and fine ones to coarse ones again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssdlite.backbones.base import FeatureMap, initialize_classifier
from ssdlite.backbones.layers import ConvNormActivation, DepthwiseSeparableConv, round_channels
from ssdlite.config import DetectorConfig, LayerConfig
from ssdlite.errors import ConfigError
from ssdlite.heads.base import Neck


class PathAggregation(Neck):
    """PANet's two paths (arXiv 1803.01534, section 3.1) of separable convolutions, all maps ``channels`` wide.

    1x1 convolutions bring the backbone's maps to that width. Top-down each is joined with the coarser one, enlarged to
    the nearest pixel; bottom-up with the finer one, which a convolution of stride 2 halves. Each of ``added`` coarser
    maps is the sum of two such halvings, of the map before it as it entered and as it left (LC-PAN of PP-PicoDet, arXiv
    2111.00902, section 2.2, whose CSP blocks are one separable convolution here).
    """

    def __init__(
        self, inputs: Sequence[FeatureMap], channels: int, *, added: int, kernel_size: int, layers: LayerConfig
    ) -> None:
        super().__init__()

        def separable(before: int, stride: int = 1) -> DepthwiseSeparableConv:
            return DepthwiseSeparableConv(before, channels, stride, kernel_size=kernel_size, layers=layers)

        joints = len(inputs) - 1
        self.reduce = nn.ModuleList(ConvNormActivation(one.channels, channels, 1, layers=layers) for one in inputs)
        self.top_down = nn.ModuleList(separable(2 * channels) for _ in range(joints))
        self.halve = nn.ModuleList(separable(channels, 2) for _ in range(joints))
        self.bottom_up = nn.ModuleList(separable(2 * channels) for _ in range(joints))
        self.add_entering, self.add_leaving = (
            nn.ModuleList(separable(channels, 2) for _ in range(added)) for _ in range(2)
        )
        coarsest = inputs[-1].stride
        strides = (*(one.stride for one in inputs), *(coarsest << level for level in range(1, added + 1)))
        self.feature_maps = tuple(FeatureMap(channels, stride, activated=stride <= coarsest) for stride in strides)

    @staticmethod
    def from_config(inputs: Sequence[FeatureMap], config: DetectorConfig) -> PathAggregation:
        widths = config.neck.channels
        if len(set(widths)) != 1:
            raise ConfigError(
                f"channels: pan expects those of at least one map that it adds, all equal, got {tuple(widths)}"
            )
        channels, added = round_channels(widths[0] * config.backbone.width_mult), len(widths)
        return PathAggregation(inputs, channels, added=added, kernel_size=config.neck.kernel_size, layers=config.layers)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps [B, C_i, H_i, W_i] -> as many and the added ones, all of ``channels``."""
        entering = [reduce(one) for reduce, one in zip(self.reduce, maps, strict=True)]
        fine = entering[-1:]
        for fuse, one in zip(self.top_down, reversed(entering[:-1]), strict=True):
            fine.insert(0, fuse(torch.cat([_enlarge(fine[0], one), one], dim=1)))
        leaving = fine[:1]
        for halve, fuse, one in zip(self.halve, self.bottom_up, fine[1:], strict=True):
            leaving.append(fuse(torch.cat([halve(leaving[-1]), one], dim=1)))
        entered = entering[-1]
        for from_entering, from_leaving in zip(self.add_entering, self.add_leaving, strict=True):
            entered = from_entering(entered)
            leaving.append(entered + from_leaving(leaving[-1]))
        return leaving

    def initialize_weights(self) -> None:
        initialize_classifier(self)


def _enlarge(coarse: Tensor, fine: Tensor) -> Tensor:
    """Twice as large, cut to the size of ``fine`` where that is odd."""
    enlarged = F.interpolate(coarse, scale_factor=2, mode="nearest")
    return enlarged if enlarged.shape[2:] == fine.shape[2:] else enlarged[:, :, : fine.shape[2], : fine.shape[3]]
