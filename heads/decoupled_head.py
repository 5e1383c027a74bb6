"""The head of YOLOX: classes apart from boxes, and beside the boxes whether there is an object at all."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssdlite.backbones.base import FeatureMap, initialize_classifier
from ssdlite.backbones.csp_darknet import Conv3x3
from ssdlite.backbones.layers import ConvNormActivation, build_conv3x3
from ssdlite.config import BoxLossName, DetectorConfig, LayerConfig
from ssdlite.errors import ConfigError
from ssdlite.heads.base import Head, Outputs, initialize_normal, run_each
from ssdlite.heads.boxes import BoxCode, CenterSizeCode
from ssdlite.heads.distance_head import PREDICTOR_STD
from ssdlite.heads.ssd_head import FOREGROUND_PRIOR, PredictionHead

HALF_PRIOR = math.sqrt(FOREGROUND_PRIOR)  # of either score, whose product starts at the prior
HALF_LOGIT = math.log(HALF_PRIOR / (1 - HALF_PRIOR))
LEAST_LOGIT = -10.0  # exp(10) is still a float16; what it cuts off are scores below 3e-9


class DecoupledHead(Head):
    """A score is the product of two sigmoids, of the class and of the object (YOLOX, arXiv 2107.08430, section 2.1;
    yolox/models/yolo_head.py).

    On every map a 1x1 convolution to the width of the finest, then two rows of ``depth`` 3x3 convolutions, one for the
    classes, one for box and object; predictors are 1x1. In training the product is the score that is learnt, where
    YOLOX has a loss for either factor.
    """

    default_loss = "qfl"
    default_assigner = "simota"
    default_box_loss: BoxLossName = "giou"

    def __init__(
        self,
        in_channels: Sequence[int],
        anchors_per_cell: Sequence[int],
        num_classes: int,
        *,
        depth: int,
        conv: Conv3x3,
        box_code: BoxCode,
        layers: LayerConfig,
    ) -> None:
        super().__init__()
        width = in_channels[0]
        widths = [width] * len(in_channels)
        self.stems = nn.ModuleList(ConvNormActivation(channels, width, 1, layers=layers) for channels in in_channels)
        self.class_towers, self.box_towers = (
            nn.ModuleList(
                nn.Sequential(*(build_conv3x3(conv, width, width, layers=layers) for _ in range(depth))) for _ in widths
            )
            for _ in range(2)
        )
        self.classification, self.objectness, self.regression = (
            PredictionHead(widths, anchors_per_cell, columns, conv="pointwise", layers=layers)
            for columns in (num_classes, 1, 4)
        )
        self.box_code = box_code

    @staticmethod
    def from_config(inputs: Sequence[FeatureMap], config: DetectorConfig) -> DecoupledHead:
        head = config.head
        if head.conv == "pointwise":
            raise ConfigError("conv: decoupled expects separable or plain, got 'pointwise'")
        if head.score_function != "sigmoid":
            raise ConfigError(
                f"score_function: decoupled expects sigmoid (--loss qfl or focal), got {head.score_function!r}"
            )
        return DecoupledHead(
            [one.channels for one in inputs],
            config.anchors.shapes_per_cell,
            config.num_classes,
            depth=head.depth,
            conv=head.conv,
            box_code=CenterSizeCode(head.box_code_scales),
            layers=config.layers,
        )

    def forward(self, maps: Sequence[Tensor]) -> Outputs:
        """Maps [B, C_i, H_i, W_i] -> class logits [B, A, num_classes + 1], of background that of no object, and box
        deltas [B, A, 4]."""
        features = run_each(self.stems, maps)
        of_classes, of_boxes = (run_each(towers, features) for towers in (self.class_towers, self.box_towers))
        objects = self.objectness(of_boxes).float()
        logits = joint_logits(self.classification(of_classes).float(), objects)
        return Outputs(torch.cat([-1.0 * objects, logits], dim=-1), self.regression(of_boxes).float())

    def initialize_weights(self) -> None:
        initialize_classifier(self)
        for predictor in (self.classification, self.objectness, self.regression):
            initialize_normal(predictor, PREDICTOR_STD)
        for predictor in (self.classification, self.objectness):
            predictor.set_bias(torch.full((predictor.columns,), HALF_LOGIT))


def joint_logits(logits: Tensor, others: Tensor) -> Tensor:
    """Logits of two independent scores, of broadcasting shapes -> the logit of their product.

    1 / (sigmoid(a) sigmoid(b)) = 1 + exp(-a) + exp(-b) + exp(-a - b), so that logit is ``-log(exp(-a) + exp(-b) +
    exp(-a - b))``. With a being the lower of the two it is a less the logarithm of 1 + exp(a - b) + exp(-b), where
    nothing is lost to cancellation, and nothing too large for float16 as long as b is limited from below. Least and
    largest of two are written with the ReLU, which every runtime has.
    """
    difference = logits - others
    above = torch.relu(difference)
    lower, higher = logits - above, others + above
    limited = torch.relu(higher - LEAST_LOGIT)
    return lower - torch.log(1 + torch.exp(difference - 2 * above) + torch.exp(-LEAST_LOGIT - limited))
