"""A depthwise path-aggregation neck: coarse maps are told to fine ones, and fine ones to coarse ones again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssdlite.backbones.base import FeatureMap
from ssdlite.backbones.layers import ConvNormActivation, DepthwiseSeparableConv, round_channels
from ssdlite.config import DetectorConfig, EnlargementName, JointName, LayerConfig
from ssdlite.errors import ConfigError
from ssdlite.heads.base import Neck, initialize_normal, run_each
from ssdlite.heads.joints import JOINTS


class PathAggregation(Neck):
    """PANet's two paths (arXiv 1803.01534, section 3.1) of depthwise convolutions, all maps ``channels`` wide.

    1x1 convolutions bring the backbone's maps to that width. Top-down each is joined with the coarser one, enlarged
    twofold; bottom-up with the finer one, which a separable convolution of stride 2 halves. A ``joint`` of ``JOINTS``
    makes one map of the two. Each of ``added`` coarser maps is the sum of two such halvings, of the map before it as it
    entered and as it left (LC-PAN of PP-PicoDet, arXiv 2111.00902, section 2.2; Ghost-PAN of NanoDet-Plus).
    """

    def __init__(
        self,
        inputs: Sequence[FeatureMap],
        channels: int,
        *,
        added: int,
        kernel_size: int,
        joint: JointName = "separable",
        enlargement: EnlargementName = "nearest",
        layers: LayerConfig,
    ) -> None:
        super().__init__()
        self.enlargement = enlargement
        build_joint = JOINTS[joint]

        def join() -> nn.Module:
            return build_joint(2 * channels, channels, kernel_size=kernel_size, layers=layers)

        def halve() -> nn.Module:
            return DepthwiseSeparableConv(channels, channels, 2, kernel_size=kernel_size, layers=layers)

        joints = len(inputs) - 1
        self.reduce = nn.ModuleList(ConvNormActivation(one.channels, channels, 1, layers=layers) for one in inputs)
        self.top_down = nn.ModuleList(join() for _ in range(joints))
        self.halve = nn.ModuleList(halve() for _ in range(joints))
        self.bottom_up = nn.ModuleList(join() for _ in range(joints))
        self.add_entering, self.add_leaving = (nn.ModuleList(halve() for _ in range(added)) for _ in range(2))
        coarsest = inputs[-1].stride
        strides = (*(one.stride for one in inputs), *(coarsest << level for level in range(1, added + 1)))
        self.feature_maps = tuple(
            FeatureMap(channels, stride, activated=joint != "ghost" and stride <= coarsest) for stride in strides
        )

    @staticmethod
    def from_config(inputs: Sequence[FeatureMap], config: DetectorConfig) -> PathAggregation:
        widths = config.neck.channels
        if len(set(widths)) != 1:
            raise ConfigError(
                f"channels: pan expects those of at least one map that it adds, all equal, got {tuple(widths)}"
            )
        channels, added = round_channels(widths[0] * config.backbone.width_mult), len(widths)
        return PathAggregation(
            inputs,
            channels,
            added=added,
            kernel_size=config.neck.kernel_size,
            joint=config.neck.joint,
            enlargement=config.neck.enlargement,
            layers=config.layers,
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps [B, C_i, H_i, W_i] -> as many and the added ones, all of ``channels``."""
        entering = run_each(self.reduce, maps)
        fine = entering[-1:]
        for fuse, one in zip(self.top_down, reversed(entering[:-1]), strict=True):
            fine.insert(0, fuse(torch.cat([enlarge(fine[0], one, self.enlargement), one], dim=1)))
        leaving = fine[:1]
        for halve, fuse, one in zip(self.halve, self.bottom_up, fine[1:], strict=True):
            leaving.append(fuse(torch.cat([halve(leaving[-1]), one], dim=1)))
        entered = entering[-1]
        for from_entering, from_leaving in zip(self.add_entering, self.add_leaving, strict=True):
            entered = from_entering(entered)
            leaving.append(entered + from_leaving(leaving[-1]))
        return leaving

    def initialize_weights(self) -> None:
        initialize_normal(self)


def enlarge(coarse: Tensor, fine: Tensor, mode: EnlargementName = "nearest") -> Tensor:
    """Twice as large, cut to the size of ``fine`` where that is odd."""
    enlarged = F.interpolate(coarse, scale_factor=2, mode=mode)
    return enlarged if enlarged.shape[2:] == fine.shape[2:] else enlarged[:, :, : fine.shape[2], : fine.shape[3]]
