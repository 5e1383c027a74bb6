"""A head that predicts a class and the distances to a box's four sides, once in a cell unless anchors say otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssdlite.backbones.base import FeatureMap
from ssdlite.backbones.layers import DepthwiseSeparableConv
from ssdlite.config import BoxLossName, DetectorConfig, LayerConfig
from ssdlite.heads.base import Distributions, Head, Outputs, initialize_normal, run_each
from ssdlite.heads.boxes import DistanceCode, GeometryModule
from ssdlite.heads.ssd_head import FOREGROUND_LOGIT, HeadConv, PredictionHead

PREDICTOR_STD = 0.01  # arXiv 1708.02002, section 4.1
LOG_STEP = 0.2  # what the network's number counts in the log of a distance, as in SSD's code of sides (its variance)


class DistanceHead(Head):
    """Left, top, right and bottom from the cell's centre (FCOS, arXiv 1904.01355, section 3.1), as multiples of the
    sides of the anchor.

    On every map ``depth`` separable convolutions, then a 1x1 convolution for classes and one for boxes, which share
    those before or have ``separate_towers``; without any the two predictors are separable themselves, as SSDLite's.
    Scores are sigmoids. A distance is the exponential of a fifth of the network's number, or, with ``bin_sizes``, the
    mean of a distribution over ``bins`` multiples of them (generalised focal loss, arXiv 2006.04388, section 3.2).

    Args:
        bin_sizes: [A, 4] in sides of the anchor, or [1, 1] where all are equal.
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
        separate_towers: bool = False,
        bins: int = 0,
        bin_sizes: Tensor | None = None,
        layers: LayerConfig,
    ) -> None:
        super().__init__()
        build_towers = partial(_build_towers, in_channels, depth=depth, kernel_size=kernel_size, layers=layers)
        self.towers = build_towers()
        self.box_towers = build_towers() if separate_towers else None
        rows, columns = ([4 * one for one in anchors_per_cell], bins) if bins else (anchors_per_cell, 4)
        conv: HeadConv = "pointwise" if depth else "separable"
        self.classification = PredictionHead(in_channels, anchors_per_cell, num_logits, conv=conv, layers=layers)
        self.regression = PredictionHead(in_channels, rows, columns, conv=conv, layers=layers)
        self.distance_mean = None if bin_sizes is None else DistributionMean(bins, bin_sizes)
        self.box_code = DistanceCode()

    @classmethod
    def from_config(cls, inputs: Sequence[FeatureMap], config: DetectorConfig) -> DistanceHead:
        return cls(
            [one.channels for one in inputs],
            config.anchors.shapes_per_cell,
            config.num_classes + 1,
            depth=config.head.depth,
            kernel_size=config.head.kernel_size,
            separate_towers=config.head.towers == "separate",
            bins=config.head.bins,
            bin_sizes=_strides_in_sides(config) if config.head.bins else None,
            layers=config.layers,
        )

    def forward(self, maps: Sequence[Tensor]) -> Outputs:
        """Maps [B, C_i, H_i, W_i] -> class logits [B, A, num_logits] and box deltas [B, A, 4], which are distances."""
        features = run_each(self.towers, maps)
        of_boxes = features if self.box_towers is None else run_each(self.box_towers, maps)
        return self.with_distances(self.classification(features), of_boxes)

    def with_distances(self, class_logits: Tensor, features: Sequence[Tensor]) -> Outputs:
        """The outputs of these logits, and of the distances that ``features`` [B, C_i, H_i, W_i] give."""
        predicted = self.regression(features).float()
        if self.distance_mean is not None:
            logits = predicted.unflatten(1, (-1, 4))
            return Outputs(
                class_logits, self.distance_mean(predicted), Distributions(logits, self.distance_mean.bin_sizes)
            )
        limited = F.relu6(predicted * (0.5 * LOG_STEP) + 3.0) * 2.0 - 6.0  # to -6..6, by what every runtime has
        return Outputs(class_logits, torch.exp(limited))

    def initialize_weights(self) -> None:
        initialize_normal(self)
        for predictor in (*self.classification, *self.regression):
            initialize_normal(predictor[-1], PREDICTOR_STD)
        self.classification.set_bias(torch.full((self.classification.columns,), FOREGROUND_LOGIT))
        if self.distance_mean is None:
            self.regression.set_bias(torch.full((4,), math.log(0.5) / LOG_STEP))  # the anchor itself


def _build_towers(channels: Sequence[int], *, depth: int, kernel_size: int, layers: LayerConfig) -> nn.ModuleList:
    """For every map ``depth`` separable convolutions of its width."""
    return nn.ModuleList(
        nn.Sequential(*(DepthwiseSeparableConv(c, c, kernel_size=kernel_size, layers=layers) for _ in range(depth)))
        for c in channels
    )


class DistributionMean(GeometryModule):
    """The mean of distributions over 0 to ``bins`` - 1 times a bin's size, by a softmax (arXiv 2006.04388, eq. 5)."""

    multiples: Tensor
    bin_sizes: Tensor

    def __init__(self, bins: int, bin_sizes: Tensor) -> None:
        super().__init__()
        self.register_buffer("multiples", torch.arange(bins, dtype=torch.float32)[:, None], persistent=False)
        self.register_buffer("bin_sizes", bin_sizes, persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """[B, 4 * A, bins] in float32 -> deltas [B, A, 4]."""
        kind = logits.device.type
        # autocast would round the shares to 8 bits before they are summed
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                return self._means(logits)
        return self._means(logits)

    def _means(self, logits: Tensor) -> Tensor:
        """A product of matrices: of NNAPI, ncnn and Core ML's execution provider each has another sum along an axis."""
        means = torch.softmax(logits, dim=-1) @ self.multiples.to(logits.dtype)
        deltas: Tensor = means.reshape(means.shape[0], -1, 4) * self.bin_sizes
        return deltas


def _strides_in_sides(config: DetectorConfig) -> Tensor:
    """[A, 4]: a stride of each anchor's map in sides of the anchor, or [1, 1] where that is the same for all."""
    levels = zip(config.strides, config.anchors.sides(config.input.size), config.grid_sizes, strict=True)
    sizes = np.concatenate([np.tile(stride / sides, (rows * columns, 2)) for stride, sides, (rows, columns) in levels])
    values = sizes.astype(np.float32)
    return torch.tensor(values[:1, :1] if (values == values[0, 0]).all() else values)
