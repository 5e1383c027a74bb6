"""The path-aggregation neck of YOLOX, whose maps keep the widths of the backbone's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssdlite.backbones.base import FeatureMap, initialize_classifier
from ssdlite.backbones.csp_darknet import Conv3x3, CspLayer
from ssdlite.backbones.layers import ConvNormActivation, build_conv3x3
from ssdlite.config import DetectorConfig, LayerConfig
from ssdlite.errors import ConfigError
from ssdlite.heads.base import Neck
from ssdlite.heads.pan import enlarge

JOINT_BLOCKS = 1  # in each layer, of the published depth 0.33


class CspPathAggregation(Neck):
    """PANet's two paths (arXiv 1803.01534, section 3.1) with a ``CspLayer`` without shortcuts at every joint.

    YOLOPAFPN of Megvii-BaseDetection/YOLOX (yolox/models/yolo_pafpn.py), at its depth of 0.33. Top-down a 1x1
    convolution brings each map to the width of the next finer one, which it is joined with, enlarged to the nearest
    pixel; bottom-up a 3x3 one of stride 2 halves each map, and it is joined with what that 1x1 convolution gave.
    """

    def __init__(self, inputs: Sequence[FeatureMap], *, conv: Conv3x3, layers: LayerConfig) -> None:
        super().__init__()
        widths = [one.channels for one in inputs]
        finer, coarser = widths[:-1], widths[1:]

        def joint(before: int, after: int) -> CspLayer:
            return CspLayer(2 * before, after, JOINT_BLOCKS, shortcut=False, conv=conv, layers=layers)

        self.reduce = nn.ModuleList(
            ConvNormActivation(before, after, 1, layers=layers)
            for before, after in zip(reversed(coarser), reversed(finer), strict=True)
        )
        self.top_down = nn.ModuleList(joint(width, width) for width in reversed(finer))
        self.halve = nn.ModuleList(build_conv3x3(conv, width, width, 2, layers=layers) for width in finer)
        self.bottom_up = nn.ModuleList(joint(before, after) for before, after in zip(finer, coarser, strict=True))
        self.feature_maps = tuple(FeatureMap(one.channels, one.stride, activated=True) for one in inputs)

    @staticmethod
    def from_config(inputs: Sequence[FeatureMap], config: DetectorConfig) -> CspPathAggregation:
        if config.neck.channels:
            raise ConfigError(f"channels: csp_pan adds no maps, so expected (), got {config.neck.channels}")
        return CspPathAggregation(inputs, conv=config.neck.conv, layers=config.layers)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps [B, C_i, H_i, W_i] -> the same shapes."""
        current = maps[-1]
        reduced: list[Tensor] = []
        for reduce, fuse, one in zip(self.reduce, self.top_down, reversed(maps[:-1]), strict=True):
            reduced.insert(0, reduce(current))
            current = fuse(torch.cat([enlarge(reduced[0], one), one], dim=1))
        leaving = [current]
        for halve, fuse, one in zip(self.halve, self.bottom_up, reduced, strict=True):
            leaving.append(fuse(torch.cat([halve(leaving[-1]), one], dim=1)))
        return leaving

    def initialize_weights(self) -> None:
        initialize_classifier(self)
