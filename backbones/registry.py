"""The backbones there are, by name."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Literal

from ssdlite.backbones.base import Backbone
from ssdlite.backbones.csp_darknet import CspDarknet
from ssdlite.backbones.efficientnet_lite import EfficientNetLite0
from ssdlite.backbones.lcnet import LCNet
from ssdlite.backbones.mobilenet_v1 import MobileNetV1
from ssdlite.backbones.mobilenet_v2 import MobileNetV2
from ssdlite.backbones.mobilenet_v3 import MobileNetV3Large
from ssdlite.backbones.mobilenet_v4 import MobileNetV4Small
from ssdlite.backbones.shufflenet_v2 import ShuffleNetV2
from ssdlite.config import ActivationName, LayerConfig, standard_strides
from ssdlite.validation import require, require_known

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "mobilenet_v1": MobileNetV1,
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3_large": MobileNetV3Large,
    "mobilenet_v3_large_reduced": partial(MobileNetV3Large, reduced_tail=True),
    "mobilenet_v4_conv_small": MobileNetV4Small,
    "efficientnet_lite0": EfficientNetLite0,
    "shufflenet_v2": ShuffleNetV2,
    "lcnet": LCNet,
    "csp_darknet": CspDarknet,
    "csp_darknet_separable": partial(CspDarknet, conv="separable"),
}


def build_backbone(
    name: str,
    width_mult: float = 1.0,
    num_classes: int | None = 1000,
    *,
    dropout: float = 0.2,
    padding: Literal["symmetric", "same"] = "symmetric",
    norm_eps: float = 1e-5,
    norm_momentum: float = 0.1,
    activation: ActivationName = "relu6",
    narrowing: Literal["classifier", "detection_api"] = "classifier",
    finest_stride: int = 16,
) -> Backbone:
    """A backbone of that name, randomly initialised.

    Called, it is a classifier: normalised images [B, 3, H, W] -> logits [B, num_classes] (pooled features where
    ``num_classes`` is None). ``forward_features`` gives the maps that ``feature_channels`` and ``feature_strides``
    declare: strides 16 and 32, and 8 as well with a ``finest_stride`` of 8. The defaults of ``padding``, ``norm_eps``,
    ``norm_momentum``, ``activation`` and ``narrowing`` are those of torchvision's V2 (``LayerConfig`` says what they
    mean); V3 has activations and widths of its own.

    Raises:
        ConfigError: an unknown name (the known ones are listed) or a width that is not positive.
    """
    require(finest_stride in (8, 16), f"finest_stride: expected 8 or 16, got {finest_stride!r}")
    layers = LayerConfig(
        padding=padding, norm_eps=norm_eps, norm_momentum=norm_momentum, activation=activation, narrowing=narrowing
    )
    return backbone_from_parts(
        name,
        width_mult=width_mult,
        num_classes=num_classes,
        dropout=dropout,
        strides=standard_strides(finest_stride, 0),
        layers=layers,
    )


def backbone_from_parts(
    name: str,
    *,
    width_mult: float,
    num_classes: int | None,
    dropout: float = 0.2,
    strides: Collection[int],
    layers: LayerConfig,
) -> Backbone:
    """The entry ``name`` of ``BACKBONES``, called as ``Backbone`` says. Raises ConfigError as ``build_backbone``."""
    require_known([name], BACKBONES, "backbone")
    require(0 < width_mult <= 4, f"width_mult must be in (0, 4], got {width_mult}")
    require(
        num_classes is None or num_classes >= 1,
        f"num_classes: expected 1 or more, or None for pooled features, got {num_classes}",
    )
    return BACKBONES[name](
        width_mult=width_mult, num_classes=num_classes, dropout=dropout, strides=strides, layers=layers
    )
