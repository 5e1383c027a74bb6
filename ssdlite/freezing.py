"""What of a detector does not follow the training: its first stages, and batch-norm statistics."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn

from ssdlite.backbones import Backbone
from ssdlite.detector import Detector


def stage_layers(backbone: Backbone, count: int) -> list[nn.Module]:
    """The layers of the first ``count`` stages: those whose output has a stride of at most 2^count."""
    layers, stride = [], 1
    for layer in backbone.features:
        stride *= math.prod(module.stride[0] for module in layer.modules() if isinstance(module, nn.Conv2d))
        if count and stride <= 2**count:
            layers.append(layer)
    return layers


class Freezing:
    """Keeps the first stages of a detector's backbone as they are, and the batch-norm statistics of ``norm_layers``.

    Frozen stages have no gradients, and their norms neither learn nor measure; of the norms in ``norm_layers`` (names
    of layers, prefixes in the state dict) weight and bias learn. ``apply`` is to be called after every ``train()``,
    which puts all modules into training mode.
    """

    def __init__(self, detector: Detector, stages: int, norm_layers: Iterable[str] = ()) -> None:
        self.norm_layers = tuple(norm_layers)
        self.layers = stage_layers(detector.backbone, stages)
        prefixes = tuple(f"{name}." for name in self.norm_layers)
        self.norms = [
            module
            for name, module in detector.named_modules()
            if name.startswith(prefixes) and isinstance(module, nn.BatchNorm2d)
        ]
        for layer in self.layers:
            layer.requires_grad_(False)

    def apply(self) -> None:
        for module in (*self.layers, *self.norms):
            module.eval()
