"""The predictors on every map: class logits and box deltas for each anchor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ssdlite.backbones.base import FeatureMap
from ssdlite.backbones.layers import ConvNormActivation
from ssdlite.config import DetectorConfig, LayerConfig
from ssdlite.heads.base import Head, Outputs, initialize_normal
from ssdlite.heads.boxes import BoxCode, CenterSizeCode

HeadConv = Literal["separable", "pointwise", "plain"]
FOREGROUND_PRIOR = 0.01  # initial score of a sigmoid head (arXiv 1708.02002, section 4.1)
FOREGROUND_LOGIT = math.log(FOREGROUND_PRIOR / (1 - FOREGROUND_PRIOR))


class PredictionHead(nn.ModuleList):
    """One predictor per map with ``columns`` values per anchor; nothing is shared between maps.

    ``separable``: a 3x3 depthwise convolution with batch norm and ReLU6, then 1x1 with bias (SSDLite, arXiv
    1801.04381 section 6.2). ``pointwise``: the 1x1 alone (TensorFlow's SSD MobileNetV1, MediaPipe's V2). ``plain``: a
    3x3 with bias (SSD, arXiv 1512.02325; TensorFlow 1's SSD MobileNetV2). ``last_conv`` is that of the coarsest map,
    which may have one cell only.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        anchors_per_cell: Sequence[int],
        columns: int,
        *,
        conv: HeadConv,
        last_conv: Literal["as_others", "pointwise"] = "as_others",
        layers: LayerConfig,
    ) -> None:
        self.columns = columns
        kinds: list[HeadConv] = [conv] * len(in_channels)
        if last_conv == "pointwise":
            kinds[-1] = "pointwise"
        super().__init__(
            _predictor(channels, anchors * columns, kind, layers)
            for channels, anchors, kind in zip(in_channels, anchors_per_cell, kinds, strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps [B, C_i, H_i, W_i] -> [B, A, columns]; A runs over maps, rows, columns of the grid, anchor shapes."""
        return rows_of_anchors(self, maps, self.columns)

    def set_bias(self, values: Tensor) -> None:
        """Give every anchor's output the biases ``values`` [columns]."""
        for predictor in self:
            *_, bias = predictor.parameters()
            with torch.no_grad():
                bias.copy_(values.repeat(len(bias) // self.columns))


def rows_of_anchors(predictors: nn.ModuleList, maps: Sequence[Tensor], columns: int) -> Tensor:
    """Maps [B, C_i, H_i, W_i] -> what the predictor of each gives, [B, A, columns]."""
    outputs = [
        predictor(features).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, columns))
        for predictor, features in zip(predictors, maps, strict=True)
    ]
    return torch.cat(outputs, dim=1)


def _predictor(channels: int, outputs: int, conv: HeadConv, layers: LayerConfig) -> nn.Sequential:
    if conv == "plain":
        return nn.Sequential(nn.Conv2d(channels, outputs, 3, padding=1))
    last = nn.Conv2d(channels, outputs, 1)
    if conv == "pointwise":
        return nn.Sequential(last)
    return nn.Sequential(ConvNormActivation(channels, channels, groups=channels, layers=layers), last)


class SSDLiteHead(Head):
    """Classification and box predictors side by side. Scores that are sigmoids learn overlaps."""

    def __init__(
        self,
        in_channels: Sequence[int],
        anchors_per_cell: Sequence[int],
        num_logits: int,
        *,
        conv: HeadConv,
        last_conv: Literal["as_others", "pointwise"] = "as_others",
        box_code: BoxCode,
        score_function: Literal["softmax", "sigmoid"] = "softmax",
        layers: LayerConfig,
    ) -> None:
        super().__init__()
        self.classification, self.regression = (
            PredictionHead(in_channels, anchors_per_cell, columns, conv=conv, last_conv=last_conv, layers=layers)
            for columns in (num_logits, 4)
        )
        self.box_code = box_code
        self.score_function = score_function
        if score_function == "softmax":
            self.default_loss, self.default_assigner = "multibox", "ssd"
        else:
            self.default_loss, self.default_assigner, self.default_box_loss = "qfl", "atss", "giou"

    @staticmethod
    def from_config(inputs: Sequence[FeatureMap], config: DetectorConfig) -> SSDLiteHead:
        return SSDLiteHead(
            [one.channels for one in inputs],
            config.anchors.shapes_per_cell,
            config.num_classes + 1,
            conv=config.head.conv,
            last_conv=config.head.last_conv,
            box_code=CenterSizeCode(config.head.box_code_scales),
            score_function=config.head.score_function,
            layers=config.layers,
        )

    def forward(self, maps: Sequence[Tensor]) -> Outputs:
        """Maps [B, C_i, H_i, W_i] -> class logits [B, A, num_logits] and box deltas [B, A, 4]."""
        return Outputs(self.classification(maps), self.regression(maps))

    def initialize_weights(self) -> None:
        initialize_normal(self)
        if self.score_function == "sigmoid":
            self.classification.set_bias(torch.full((self.classification.columns,), FOREGROUND_LOGIT))
