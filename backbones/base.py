"""What every backbone offers: image logits, and the feature maps that a detector takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """A stack of ``features``, tapped at some depths and at its end, with a classifier on top.

    Attributes:
        feature_channels: channels of the maps that ``forward_features`` returns, finest first.
        feature_strides: input pixels per cell of these maps; a side of S pixels gives ceil(S / stride) cells.
    """

    features: nn.Sequential
    classifier: nn.Module
    feature_channels: tuple[int, ...]
    feature_strides: tuple[int, ...]

    def forward_features(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W], normalised -> the tapped maps [B, channels, rows, columns], finest first."""
        raise TypeError(f"{type(self).__name__} does not say where it is tapped")

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W], normalised -> logits [B, num_classes]; pooled features [B, C] where there is no classifier."""
        pooled = torch.flatten(nn.functional.adaptive_avg_pool2d(self.features(images), 1), 1)
        logits: Tensor = self.classifier(pooled)
        return logits


def taps_from(finest_stride: int, taps: dict[int, int]) -> dict[int, int]:
    """Those of ``taps`` (stride -> layer) whose map is no finer than ``finest_stride``."""
    return {stride: layer for stride, layer in taps.items() if stride >= finest_stride}


def build_classifier(channels: int, num_classes: int | None, dropout: float) -> nn.Module:
    if num_classes is None:
        return nn.Identity()
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, num_classes))


def initialise_weights(network: nn.Module) -> None:
    """He initialisation (fan out) for convolutions, 1 and 0 for norms, N(0, 0.01) for linear layers, as torchvision."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
