"""MobileNetV3-Large (arXiv 1905.02244), torchvision's module with the taps of SSDLite."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large

from ssdlite.backbones.base import Backbone, FeatureMap, group_by_stride, wanted_taps
from ssdlite.backbones.layers import AutocastConv2d
from ssdlite.config import LayerConfig
from ssdlite.errors import ConfigError

V3_TAPS = {8: 7, 16: 13}  # stride -> the block that leaves it, tapped behind its expansion; SSDLite taps the last


class MobileNetV3Large(Backbone):
    """Keys are torchvision's. ``reduced_tail`` halves the last stage, as SSDLite does (section 6.3 of the paper)."""

    def __init__(
        self,
        *,
        width_mult: float = 1.0,
        num_classes: int | None = 1000,
        dropout: float = 0.2,
        reduced_tail: bool = False,
        strides: Collection[int] = (16, 32),
        layers: LayerConfig,
    ) -> None:
        super().__init__()
        if layers.padding != "symmetric":
            raise ConfigError(f"mobilenet_v3_large has padding 'symmetric' only, got {layers.padding!r}")
        network = mobilenet_v3_large(
            width_mult=width_mult,
            reduced_tail=reduced_tail,
            num_classes=num_classes or 1,
            dropout=dropout,
            norm_layer=partial(nn.BatchNorm2d, eps=layers.norm_eps, momentum=layers.norm_momentum),
        )
        self.features = network.features
        for module in list(self.features.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Conv2d) and child.groups > 1:
                    setattr(module, name, AutocastConv2d.like(child))
        self.classifier = nn.Identity() if num_classes is None else network.classifier
        _stem, *blocks, tail = list[Any](self.features)
        self.stages = group_by_stride([2, *map(_stride, blocks), 1])
        taps = wanted_taps(strides, V3_TAPS)
        self.taps = tuple(taps.values())
        expansions = {stride: list[Any](blocks[block - 1].block)[0] for stride, block in taps.items()}
        self.feature_maps = (
            *(FeatureMap(one.out_channels, stride, activated=False) for stride, one in expansions.items()),
            FeatureMap(tail.out_channels, 32, activated=False),  # by hard-swish, which changes its own output
        )

    def run_tapped(self, layer: Any, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Behind the expansion, and at the end, of a block of stride 2, which has no shortcut."""
        expand, *rest = layer.block
        expanded = outputs = expand(inputs)
        for part in rest:
            outputs = part(outputs)
        return expanded, outputs


def _stride(block: nn.Module) -> int:
    """Of the one convolution in a block that has any."""
    return max(one.stride[0] for one in block.modules() if isinstance(one, nn.Conv2d))
