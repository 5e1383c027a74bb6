"""MobileNetV3-Large (arXiv 1905.02244), torchvision's module with the taps of SSDLite."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large

from ssdlite.backbones.base import Backbone, taps_from
from ssdlite.backbones.layers import AutocastConv2d, LayerOptions
from ssdlite.errors import ConfigError

TAPS = {8: 7, 16: 13}  # stride -> the block that leaves it, tapped behind its expansion; SSDLite taps the last


class MobileNetV3Large(Backbone):
    """Keys are torchvision's. ``reduced_tail`` halves the last stage, as SSDLite does (section 6.3 of the paper)."""

    def __init__(
        self,
        *,
        width_mult: float = 1.0,
        num_classes: int | None = 1000,
        dropout: float = 0.2,
        reduced_tail: bool = False,
        finest_stride: int = 16,
        options: LayerOptions,
    ) -> None:
        super().__init__()
        if options.padding != "symmetric":
            raise ConfigError(f"mobilenet_v3_large has padding 'symmetric' only, got {options.padding!r}")
        network = mobilenet_v3_large(
            width_mult=width_mult,
            reduced_tail=reduced_tail,
            num_classes=num_classes or 1,
            dropout=dropout,
            norm_layer=partial(nn.BatchNorm2d, eps=options.norm_eps, momentum=options.norm_momentum),
        )
        self.features = network.features
        for module in list(self.features.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Conv2d) and child.groups > 1:
                    setattr(module, name, AutocastConv2d.like(child))
        self.classifier = nn.Identity() if num_classes is None else network.classifier
        taps = taps_from(finest_stride, TAPS)
        self.tapped_blocks = tuple(taps.values())
        expansions: list[Any] = [self._layers(block)[0] for block in self.tapped_blocks]
        tail: Any = self.features[-1]
        self.feature_channels = (*(expansion.out_channels for expansion in expansions), tail.out_channels)
        self.feature_strides = (*taps, 32)

    def _layers(self, number: int) -> list[nn.Module]:
        """Of a block of stride 2, which has no shortcut: expansion, depthwise, (squeeze-excitation,) projection."""
        block = self.features[number].block
        assert isinstance(block, nn.Module)
        return list(block.children())

    def forward_features(self, images: Tensor) -> list[Tensor]:
        maps, outputs = [], images
        for number, layer in enumerate(self.features):
            if number in self.tapped_blocks:
                expand, *rest = self._layers(number)
                outputs = expand(outputs)
                maps.append(outputs)
                for part in rest:
                    outputs = part(outputs)
            else:
                outputs = layer(outputs)
        return [*maps, outputs]
