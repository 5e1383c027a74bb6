"""The predictors on every map: class logits and box deltas for each anchor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ssdlite.backbones.layers import ConvNormActivation, LayerOptions

HeadConv = Literal["separable", "pointwise", "plain"]
LastHeadConv = Literal["as_others", "pointwise"]


class PredictionHead(nn.ModuleList):
    """One predictor per map with ``columns`` values per anchor; nothing is shared between maps.

    ``separable``: a 3x3 depthwise convolution with batch norm and ReLU6, then 1x1 with bias (SSDLite, arXiv
    1801.04381 section 6.2). ``pointwise``: the 1x1 alone (TensorFlow's SSD MobileNetV1). ``plain``: a 3x3 with bias
    (SSD, arXiv 1512.02325; TensorFlow's SSD MobileNetV2). ``last_conv`` is that of the coarsest map, which may have one
    cell only.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        anchors_per_cell: Sequence[int],
        columns: int,
        *,
        conv: HeadConv,
        last_conv: LastHeadConv = "as_others",
        options: LayerOptions,
    ) -> None:
        self.columns = columns
        kinds: list[HeadConv] = [conv] * len(in_channels)
        if last_conv == "pointwise":
            kinds[-1] = "pointwise"
        super().__init__(
            _predictor(channels, anchors * columns, kind, options)
            for channels, anchors, kind in zip(in_channels, anchors_per_cell, kinds, strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps [B, C_i, H_i, W_i] -> [B, A, columns]; A runs over maps, rows, columns of the grid, anchor shapes."""
        outputs = [
            predictor(features).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, self.columns))
            for predictor, features in zip(self, maps, strict=True)
        ]
        return torch.cat(outputs, dim=1)

    def set_bias(self, values: Tensor) -> None:
        """Give every anchor's output the biases ``values`` [columns]."""
        for predictor in self:
            *_, bias = predictor.parameters()
            with torch.no_grad():
                bias.copy_(values.repeat(len(bias) // self.columns))


def _predictor(channels: int, outputs: int, conv: HeadConv, options: LayerOptions) -> nn.Sequential:
    if conv == "plain":
        return nn.Sequential(nn.Conv2d(channels, outputs, 3, padding=1))
    last = nn.Conv2d(channels, outputs, 1)
    if conv == "pointwise":
        return nn.Sequential(last)
    return nn.Sequential(ConvNormActivation(channels, channels, groups=channels, options=options), last)


class SSDLiteHead(nn.Module):
    """Classification and box predictors side by side."""

    def __init__(
        self,
        in_channels: Sequence[int],
        anchors_per_cell: Sequence[int],
        num_logits: int,
        *,
        conv: HeadConv,
        last_conv: LastHeadConv = "as_others",
        options: LayerOptions,
    ) -> None:
        super().__init__()
        self.classification, self.regression = (
            PredictionHead(in_channels, anchors_per_cell, columns, conv=conv, last_conv=last_conv, options=options)
            for columns in (num_logits, 4)
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps [B, C_i, H_i, W_i] -> class logits [B, A, num_logits] and box deltas [B, A, 4]."""
        return self.classification(maps), self.regression(maps)


def initialise_normal(network: nn.Module, std: float = 0.03) -> None:
    """N(0, 0.03) weights and zero biases for convolutions, as TensorFlow's and torchvision's SSDLite."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
