"""What every backbone declares and offers: its stages, the feature maps that a detector takes, image logits."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

STEM_CHANNELS = 32  # of MobileNet V1 and V2


class FeatureMap(NamedTuple):
    """One of the feature maps that a detector predicts on.

    Attributes:
        stride: input pixels per cell; a side of S pixels gives ceil(S / stride) cells.
        activated: it ends with the activation of ``LayerConfig``.
    """

    channels: int
    stride: int
    activated: bool


class Stage(NamedTuple):
    """``repeats`` blocks to ``channels``; the first has the ``stride``.

    ``expansion`` and ``kernel_size`` are those of inverted residuals.
    """

    channels: int
    repeats: int
    stride: int
    expansion: int = 1
    kernel_size: int = 3


class Backbone(nn.Module):
    """A sequence of layers whose outputs at some depths, and at the end, are the feature maps of a detector.

    Those in ``ssdlite.backbones.BACKBONES`` are called with ``width_mult``, ``num_classes`` (None: no classifier),
    ``dropout``, ``layers`` (a ``LayerConfig``) and the ``strides`` of the feature maps that a detector needs. It gives
    those of them that it has; the neck adds coarser ones.

    Attributes:
        feature_maps: what ``forward_features`` returns, finest first.
        stages: names of the layers (of ``get_submodule``) in the order in which they run: those in ``stages[i]`` have
            an output of stride 2^(i + 1). Freezing and weight transfer use them.
        features, classifier: all layers, and the classifier behind them.
        taps: positions in ``features`` of the layers whose outputs are feature maps, without the last, finest first.

    A backbone that is not a sequence overrides ``forward_features``, and needs of these three only what that uses.
    """

    feature_maps: tuple[FeatureMap, ...]
    stages: tuple[tuple[str, ...], ...]
    features: nn.Sequential
    classifier: nn.Module
    taps: tuple[int, ...]

    @property
    def feature_channels(self) -> tuple[int, ...]:
        return tuple(one.channels for one in self.feature_maps)

    @property
    def feature_strides(self) -> tuple[int, ...]:
        return tuple(one.stride for one in self.feature_maps)

    @property
    def layer_names(self) -> list[str]:
        """All of ``stages`` in one row."""
        return [name for stage in self.stages for name in stage]

    def forward_features(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W], normalised -> the feature maps [B, channels, rows, columns], finest first."""
        maps, outputs = [], images
        for position, layer in enumerate(self.features):
            if position in self.taps:
                tapped, outputs = self.run_tapped(layer, outputs)
                maps.append(tapped)
            else:
                outputs = layer(outputs)
        return [*maps, outputs]

    def run_tapped(self, layer: Any, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The map that a layer of ``taps`` gives, and its output, which are the same unless it is tapped inside."""
        outputs = layer(inputs)
        return outputs, outputs

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W], normalised -> logits [B, num_classes]; pooled features [B, C] where there is no classifier."""
        pooled = torch.flatten(nn.functional.adaptive_avg_pool2d(self.features(images), 1), 1)
        logits: Tensor = self.classifier(pooled)
        return logits


def group_by_stride(strides: Iterable[int]) -> tuple[tuple[str, ...], ...]:
    """The stride of each layer of ``features`` -> the names of the layers as ``Backbone.stages``."""
    stages: list[list[str]] = []
    for number, total in enumerate(accumulate(strides, operator.mul)):
        while 2 << len(stages) <= total:
            stages.append([])
        stages[-1].append(f"features.{number}")
    return tuple(map(tuple, stages))


def wanted_taps(strides: Collection[int], taps: Mapping[int, int]) -> dict[int, int]:
    """Those of ``taps`` (stride -> layer, finest first) whose map is wanted."""
    return {stride: layer for stride, layer in taps.items() if stride in strides}


def build_classifier(channels: int, num_classes: int | None, dropout: float) -> nn.Module:
    if num_classes is None:
        return nn.Identity()
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, num_classes))


def initialize_classifier(network: nn.Module) -> None:
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
