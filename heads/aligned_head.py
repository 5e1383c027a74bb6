"""The head of distances with a gate in front of its predictors, and a second opinion on every score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssdlite.backbones.base import FeatureMap, initialize_classifier
from ssdlite.backbones.layers import ConvNormActivation
from ssdlite.config import DetectorConfig, LayerConfig
from ssdlite.errors import ConfigError
from ssdlite.heads.base import Outputs, run_each
from ssdlite.heads.distance_head import DistanceHead
from ssdlite.heads.ssd_head import rows_of_anchors

LEAST_REST = 1e-6  # what a score is short of 1 at least; keeps its logit finite
GATE_STD = 0.001  # of a fresh gate's weights, so that it passes half of all


class AlignedDistanceHead(DistanceHead):
    """PicoHeadV2 of PaddlePaddle/PaddleDetection (ppdet/modeling/heads/pico_head.py).

    Behind the towers a gate weighs channels by their means; both predictors see what it leaves. A score is the
    geometric mean of two sigmoids: of the class, and of how well the cell's box will fit, which is predicted from the
    towers' own maps for all classes alike, after the alignment of TOOD (arXiv 2108.07755, section 3.2).

    Deviations: the logit is computed from logarithms, and their code adds 1e-9 to the product below the root, which
    lifts the least score to 0.00003.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        anchors_per_cell: Sequence[int],
        num_logits: int,
        *,
        kernel_size: int,
        layers: LayerConfig,
        **others: Any,
    ) -> None:
        """Arguments as of ``DistanceHead``."""
        super().__init__(in_channels, anchors_per_cell, num_logits, kernel_size=kernel_size, layers=layers, **others)
        self.gates = nn.ModuleList(MeanGate(channels, layers=layers) for channels in in_channels)
        self.alignments = nn.ModuleList(
            nn.Sequential(
                ConvNormActivation(channels, anchors, kernel_size, layers=layers),
                ConvNormActivation(anchors, anchors, 1, activate=False, layers=layers),
            )
            for channels, anchors in zip(in_channels, anchors_per_cell, strict=True)
        )

    @classmethod
    def from_config(cls, inputs: Sequence[FeatureMap], config: DetectorConfig) -> AlignedDistanceHead:
        if config.head.towers != "shared":
            raise ConfigError(f"towers: aligned_distances expects shared, got {config.head.towers!r}")
        return cast(AlignedDistanceHead, super().from_config(inputs, config))

    def forward(self, maps: Sequence[Tensor]) -> Outputs:
        """Maps [B, C_i, H_i, W_i] -> class logits [B, A, num_logits], and deltas [B, A, 4], which are distances."""
        features = run_each(self.towers, maps)
        gated = run_each(self.gates, features)
        alignment = rows_of_anchors(self.alignments, features, 1)
        return self.with_distances(geometric_mean_logit(self.classification(gated).float(), alignment.float()), gated)

    def initialize_weights(self) -> None:
        super().initialize_weights()
        for part in (self.gates, self.alignments):
            initialize_classifier(part)
        for gate in self.gates.children():
            nn.init.normal_(gate.get_parameter("weigh.weight"), 0, GATE_STD)


class MeanGate(nn.Module):
    """[B, C, H, W], each channel scaled by the sigmoid of a 1x1 convolution of all channels' means, then a 1x1
    convolution with norm and activation."""

    def __init__(self, channels: int, *, layers: LayerConfig) -> None:
        super().__init__()
        self.weigh = nn.Conv2d(channels, channels, 1)
        self.conv = ConvNormActivation(channels, channels, 1, layers=layers)

    def forward(self, inputs: Tensor) -> Tensor:
        weights = torch.sigmoid(self.weigh(F.adaptive_avg_pool2d(inputs, 1)))
        outputs: Tensor = self.conv(inputs * weights)
        return outputs


def geometric_mean_logit(first: Tensor, second: Tensor) -> Tensor:
    """The logit of ``sqrt(sigmoid(first) * sigmoid(second))``; finite for all finite inputs, in float16 too.

    From the logarithm of the score, so that small ones do not vanish.
    """
    logarithm = (log_sigmoid(first) + log_sigmoid(second)) * 0.5
    return logarithm - torch.log(1.0 - torch.exp(logarithm) + LEAST_REST)


def log_sigmoid(logits: Tensor) -> Tensor:
    """In operators that every runtime has, and without exponentials of anything above 0."""
    positive = torch.relu(logits)
    negative = logits - positive
    return negative + torch.log(torch.sigmoid(positive - negative))
