"""Backbones: classifiers that also give the feature maps a detector needs."""

from collections.abc import Callable
from functools import partial
from typing import get_args

from ssdlite.backbones.base import Backbone
from ssdlite.backbones.layers import (
    Activation,
    ConvNormActivation,
    DepthwiseSeparableConv,
    InvertedResidual,
    LayerOptions,
    Narrowing,
    Padding,
)
from ssdlite.backbones.mobilenet_v1 import MobileNetV1
from ssdlite.backbones.mobilenet_v2 import MobileNetV2
from ssdlite.backbones.mobilenet_v3 import MobileNetV3Large
from ssdlite.errors import ConfigError

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "mobilenet_v1": MobileNetV1,
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3_large": MobileNetV3Large,
    "mobilenet_v3_large_reduced": partial(MobileNetV3Large, reduced_tail=True),
}


def build_backbone(
    name: str,
    width_mult: float = 1.0,
    num_classes: int | None = 1000,
    *,
    dropout: float = 0.2,
    padding: Padding = "symmetric",
    norm_eps: float = 1e-5,
    norm_momentum: float = 0.1,
    activation: Activation = "relu6",
    narrowing: Narrowing = "classifier",
    finest_stride: int = 16,
) -> Backbone:
    """A backbone of that name, randomly initialised.

    Called, it is a classifier: normalised images [B, 3, H, W] -> logits [B, num_classes] (pooled features where
    ``num_classes`` is None). ``forward_features`` gives the maps that ``feature_channels`` and ``feature_strides``
    declare: strides 16 and 32, and 8 as well with a ``finest_stride`` of 8. The defaults of ``padding``, ``norm_eps``,
    ``norm_momentum``, ``activation`` and ``narrowing`` are those of torchvision's V2 (``LayerOptions`` says what they
    mean); V3 has activations and widths of its own.

    Raises:
        ConfigError: an unknown name (the known ones are listed) or a width that is not positive.
    """
    if name not in BACKBONES:
        raise ConfigError(f"unknown backbone {name!r}; known: {', '.join(BACKBONES)}")
    if not 0 < width_mult <= 4:
        raise ConfigError(f"width_mult must be in (0, 4], got {width_mult}")
    for option, value, choices in (
        ("padding", padding, Padding),
        ("activation", activation, Activation),
        ("narrowing", narrowing, Narrowing),
    ):
        if value not in get_args(choices):
            raise ConfigError(f"{option}: expected one of {', '.join(get_args(choices))}, got {value!r}")
    if finest_stride not in (8, 16):
        raise ConfigError(f"finest_stride: expected 8 or 16, got {finest_stride!r}")
    if num_classes is not None and num_classes < 1:
        raise ConfigError(f"num_classes: expected 1 or more, or None for pooled features, got {num_classes}")
    options = LayerOptions(
        padding=padding, norm_eps=norm_eps, norm_momentum=norm_momentum, activation=activation, narrowing=narrowing
    )
    return BACKBONES[name](
        width_mult=width_mult,
        num_classes=num_classes,
        dropout=dropout,
        finest_stride=finest_stride,
        options=options,
    )


__all__ = [
    "BACKBONES",
    "Backbone",
    "ConvNormActivation",
    "DepthwiseSeparableConv",
    "InvertedResidual",
    "LayerOptions",
    "build_backbone",
]
