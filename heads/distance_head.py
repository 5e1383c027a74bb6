"""A head without anchor shapes: in each cell one prediction, of a class and of the distances to a box's four sides."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssdlite.backbones.base import FeatureMap, initialize_classifier
from ssdlite.backbones.layers import DepthwiseSeparableConv
from ssdlite.config import BoxLossName, DetectorConfig, LayerConfig
from ssdlite.heads.base import Head, Outputs, initialize_normal
from ssdlite.heads.boxes import DistanceCode
from ssdlite.heads.ssd_head import FOREGROUND_LOGIT, PredictionHead

PREDICTOR_STD = 0.01  # arXiv 1708.02002, section 4.1


class DistanceHead(Head):
    """Left, top, right and bottom from the cell's centre (FCOS, arXiv 1904.01355, section 3.1), as multiples of the
    side of its anchor, a square that stands for no shape but for the map's scale.

    On every map ``depth`` separable convolutions that both predictors share, then a 1x1 convolution each. Scores are
    sigmoids; a distance is the exponential of the network's number.
    """

    default_loss = "qfl"
    default_assigner = "tal"
    default_box_loss: BoxLossName = "giou"

    def __init__(
        self,
        in_channels: Sequence[int],
        anchors_per_cell: Sequence[int],
        num_logits: int,
        *,
        depth: int,
        kernel_size: int,
        layers: LayerConfig,
    ) -> None:
        super().__init__()
        self.towers = nn.ModuleList(
            nn.Sequential(
                *(
                    DepthwiseSeparableConv(channels, channels, kernel_size=kernel_size, layers=layers)
                    for _ in range(depth)
                )
            )
            for channels in in_channels
        )
        self.classification, self.regression = (
            PredictionHead(in_channels, anchors_per_cell, columns, conv="pointwise", layers=layers)
            for columns in (num_logits, 4)
        )
        self.box_code = DistanceCode()

    @staticmethod
    def from_config(inputs: Sequence[FeatureMap], config: DetectorConfig) -> DistanceHead:
        return DistanceHead(
            [one.channels for one in inputs],
            config.anchors.shapes_per_cell,
            config.num_classes + 1,
            depth=config.head.depth,
            kernel_size=config.head.kernel_size,
            layers=config.layers,
        )

    def forward(self, maps: Sequence[Tensor]) -> Outputs:
        """Maps [B, C_i, H_i, W_i] -> class logits [B, A, num_logits] and box deltas [B, A, 4], which are distances."""
        features = [tower(one) for tower, one in zip(self.towers, maps, strict=True)]
        logarithms = self.regression(features).float()
        limited = F.relu6(logarithms * 0.5 + 3.0) * 2.0 - 6.0  # to -6..6, by what every runtime has
        return Outputs(self.classification(features), torch.exp(limited))

    def initialize_weights(self) -> None:
        initialize_classifier(self.towers)
        for predictor in (self.classification, self.regression):
            initialize_normal(predictor, PREDICTOR_STD)
        self.classification.set_bias(torch.full((self.classification.columns,), FOREGROUND_LOGIT))
        self.regression.set_bias(torch.full((4,), math.log(0.5)))  # the anchor itself
