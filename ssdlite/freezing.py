"""What of a detector does not follow the training: its first stages, and batch-norm statistics."""

from __future__ import annotations

import math

from torch import nn

from ssdlite.backbones import Backbone
from ssdlite.detector import Detector
from ssdlite.errors import ConfigError

MAX_STAGES = 5  # the backbones end at stride 32


def check_stages(count: int) -> None:
    """Raises ConfigError for more stages than a backbone has."""
    if not 0 <= count <= MAX_STAGES:
        raise ConfigError(f"--freeze-stages: expected 0 to {MAX_STAGES} (all of the backbone), got {count}")


def stage_layers(backbone: Backbone, count: int) -> list[nn.Module]:
    """The layers of the first ``count`` stages: those whose output has a stride of at most 2^count."""
    layers, stride = [], 1
    for layer in backbone.features:
        stride *= math.prod(module.stride[0] for module in layer.modules() if isinstance(module, nn.Conv2d))
        if count and stride <= 2**count:
            layers.append(layer)
    return layers


class Freezing:
    """Keeps the first stages of a detector's backbone as they are, and with ``norms`` all batch-norm statistics.

    Frozen stages have no gradients, and their norms neither learn nor measure; of other norms, with ``norms``, weight
    and bias learn. To be called after every ``train()``, which puts all modules into training mode.
    """

    def __init__(self, detector: Detector, stages: int, *, norms: bool) -> None:
        check_stages(stages)
        self.stages = stages
        self.layers = stage_layers(detector.backbone, stages)
        self.norms = [module for module in detector.modules() if norms and isinstance(module, nn.BatchNorm2d)]
        for layer in self.layers:
            layer.requires_grad_(False)

    def apply(self) -> None:
        for module in (*self.layers, *self.norms):
            module.eval()
