"""Our detector as rows of layers, in the order in which they run: what an importer fills one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from ssdlite.backbones import InvertedResidual, build_backbone
from ssdlite.backbones.layers import Narrowing
from ssdlite.config import DetectorConfig
from ssdlite.detector import Detector, detector_from_config


@dataclass(frozen=True)
class Layer:
    """A convolution of ours, by its prefix in the state dict.

    ``norm`` is the batch norm behind it, None where it has a bias instead; ``reach`` says over how many layers, itself
    included, a sum behind it reaches back, 0 for none.
    """

    conv: str
    norm: str | None
    shape: tuple[int, ...]
    depthwise: bool
    stride: int
    activated: bool
    reach: int = 0


@dataclass(frozen=True)
class DetectorLayers:
    """``boxes`` and ``classes`` hold the predictor's layers for each map."""

    trunk: tuple[Layer, ...]
    boxes: tuple[tuple[Layer, ...], ...]
    classes: tuple[tuple[Layer, ...], ...]


def detector_layers(config: DetectorConfig) -> DetectorLayers:
    """The layers of the detector that ``config`` describes; takes no memory."""
    with torch.device("meta"):
        detector = detector_from_config(config)
    trunk = [*_layers(detector, "backbone.features"), *_layers(detector, "extra_layers")]
    boxes, classes = (
        tuple(tuple(_layers(detector, f"head.{kind}.{level}")) for level in range(len(config.strides)))
        for kind in ("regression", "classification")
    )
    return DetectorLayers(tuple(trunk), boxes, classes)


def _layers(detector: Detector, prefix: str) -> list[Layer]:
    layers: list[Layer] = []
    sums: list[str] = []
    for name, module in detector.get_submodule(prefix).named_modules(prefix=prefix):
        if isinstance(module, nn.Conv2d):
            depthwise = module.groups > 1
            layers.append(Layer(name, None, tuple(module.weight.shape), depthwise, module.stride[0], False))
        elif isinstance(module, nn.BatchNorm2d):
            layers[-1] = replace(layers[-1], norm=name)
        elif isinstance(module, (nn.ReLU, nn.ReLU6)):
            layers[-1] = replace(layers[-1], activated=True)
        elif isinstance(module, InvertedResidual) and module.has_residual:
            sums.append(f"{name}.")
    for block in sums:
        places = [number for number, layer in enumerate(layers) if layer.conv.startswith(block)]
        layers[places[-1]] = replace(layers[places[-1]], reach=len(places))
    return layers


def backbone_shapes(backbone: str, width_mult: float, narrowing: Narrowing) -> list[tuple[int, ...]]:
    """Shapes of a backbone's filters, in the order in which they run."""
    with torch.device("meta"):
        network = build_backbone(backbone, width_mult, num_classes=None, narrowing=narrowing)
    return [tuple(module.weight.shape) for module in network.modules() if isinstance(module, nn.Conv2d)]
