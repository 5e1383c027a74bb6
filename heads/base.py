"""What necks and heads declare and give. Labels of boxes that are no objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssdlite.backbones.base import FeatureMap
from ssdlite.config import BoxLossName
from ssdlite.heads.boxes import BoxCode

PADDING_LABEL = -1  # fills a batch up where an image has fewer objects
IGNORE_LABEL = -2  # a crowd region or a difficult object: neither object nor background


class Distributions(NamedTuple):
    """Of each delta, over the multiples 0 to N - 1 of ``bin_size``; what the loss needs beside their means."""

    logits: Tensor  # [B, A, 4, N]
    bin_size: Tensor  # [A, 4], or [1, 1] where all are equal: in the deltas' own unit


class Outputs(NamedTuple):
    """The network's output for every anchor, the same in training and evaluation.

    A runs over maps, rows and columns of the grid, anchor shapes.
    """

    class_logits: Tensor  # [B, A, K + 1], background first
    box_deltas: Tensor  # [B, A, 4]
    distributions: Distributions | None = None  # whose means the deltas are, of heads that predict them so


def class_scores(logits: Tensor, score_function: str) -> Tensor:
    """logits [B, A, K + 1] -> scores [B, A, K] without background, by the ``softmax`` or the ``sigmoid``."""
    if score_function == "softmax":
        return torch.softmax(logits, dim=-1)[..., 1:]
    return torch.sigmoid(logits[..., 1:])


class Neck(nn.Module):
    """Between backbone and head: feature maps in, feature maps out.

    Those in ``ssdlite.heads.NECKS`` are called with the backbone's ``FeatureMap``s, finest first, and the
    ``DetectorConfig``, whose ``strides`` they have to give.

    Attributes:
        feature_maps: that ``forward`` returns, finest first.
    """

    feature_maps: tuple[FeatureMap, ...]

    @property
    def layer_names(self) -> list[str]:
        """Of the parts with weights, in the order in which they run; weight transfer uses them."""
        return [name for name, _ in self.named_children()]

    def layers_before(self, level: int) -> int:
        """How many of ``layer_names``, from the first on, map ``level`` depends on; 0: it is the backbone's own."""
        return len(self.layer_names)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps [B, C_i, H_i, W_i] as the backbone gives them -> maps as ``feature_maps`` says."""
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def initialize_weights(self) -> None:
        """Give the weights their first values; called once, after neck and head have been made."""


class Head(nn.Module):
    """Predicts class logits and box deltas for every anchor of every feature map.

    Those in ``ssdlite.heads.HEADS`` are called with the neck's ``FeatureMap``s, finest first, and the
    ``DetectorConfig``.

    Attributes:
        box_code: between boxes and the deltas that the head predicts.
        default_loss, default_assigner, default_box_loss: names in ``LOSSES``, ``ASSIGNERS`` and ``BOX_LOSSES``, for
            training without these options.
    """

    box_code: BoxCode
    default_loss: str
    default_assigner: str
    default_box_loss: BoxLossName = "smooth_l1"

    def forward(self, maps: Sequence[Tensor]) -> Outputs:
        """Maps [B, C_i, H_i, W_i] -> logits and deltas of all anchors."""
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def initialize_weights(self) -> None:
        """Give the weights their first values; called once, after neck and head have been made."""


def run_each(modules: nn.ModuleList, maps: Sequence[Tensor]) -> list[Tensor]:
    """Every map through the module of its level."""
    return [module(one) for module, one in zip(modules, maps, strict=True)]


def initialize_normal(network: nn.Module, std: float = 0.03) -> None:
    """N(0, std) weights and zero biases for convolutions; 0.03 as in TensorFlow's and torchvision's SSDLite."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
