"""What makes one map of two in a path-aggregation neck: they come concatenated, twice as wide as what they become."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ssdlite.backbones.layers import ConvNormActivation, DepthwiseSeparableConv
from ssdlite.config import JointName, LayerConfig

GHOST_KERNEL = 3  # of the cheap operations


class GhostModule(nn.Module):
    """[B, in_channels, H, W] -> [B, out_channels, H, W], ``out_channels`` even: half by a 1x1 convolution, half from
    those by a depthwise one, its cheap operation (GhostNet, arXiv 1911.11907, section 3.1, with s = 2 and d = 3)."""

    def __init__(self, in_channels: int, out_channels: int, *, activate: bool, layers: LayerConfig) -> None:
        super().__init__()
        half = out_channels // 2
        self.primary = ConvNormActivation(in_channels, half, 1, activate=activate, layers=layers)
        self.cheap = ConvNormActivation(half, half, GHOST_KERNEL, groups=half, activate=activate, layers=layers)

    def forward(self, inputs: Tensor) -> Tensor:
        own = self.primary(inputs)
        return torch.cat([own, self.cheap(own)], dim=1)


class GhostBottleneck(nn.Module):
    """Two ghost modules, the second without activation, and beside them a linear separable convolution
    [B, in_channels, H, W] -> [B, out_channels, H, W], whose results are added (arXiv 1911.11907, section 3.2).

    The separable one has the ``kernel_size``, as in Ghost-PAN (RangiLyu/nanodet, model/fpn/ghost_pan.py), and unlike
    ``DepthwiseSeparableConv`` no activation at all.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int, layers: LayerConfig) -> None:
        super().__init__()
        self.ghosts = nn.Sequential(
            GhostModule(in_channels, out_channels, activate=True, layers=layers),
            GhostModule(out_channels, out_channels, activate=False, layers=layers),
        )
        self.shortcut = nn.Sequential(
            ConvNormActivation(
                in_channels, in_channels, kernel_size, groups=in_channels, activate=False, layers=layers
            ),
            ConvNormActivation(in_channels, out_channels, 1, activate=False, layers=layers),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.ghosts(inputs) + self.shortcut(inputs)
        return outputs


def build_separable_pair(in_channels: int, out_channels: int, *, kernel_size: int, layers: LayerConfig) -> nn.Module:
    """Two separable convolutions, of which the second gives ``out_channels``: LC-PAN (PaddlePaddle/PaddleDetection,
    ppdet/modeling/necks/lc_pan.py)."""
    return nn.Sequential(
        DepthwiseSeparableConv(in_channels, in_channels, kernel_size=kernel_size, layers=layers),
        DepthwiseSeparableConv(in_channels, out_channels, kernel_size=kernel_size, layers=layers),
    )


# called with the channels before and behind, kernel_size and layers
JOINTS: Mapping[JointName, Callable[..., nn.Module]] = {
    "separable": DepthwiseSeparableConv,
    "separable_pair": build_separable_pair,
    "ghost": GhostBottleneck,
}
