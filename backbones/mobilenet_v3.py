"""MobileNetV3-Large (arXiv 1905.02244), torchvision's module with the two taps of SSDLite."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large

from ssdlite.backbones.base import Backbone
from ssdlite.backbones.layers import LayerOptions
from ssdlite.errors import ConfigError

TAPPED_BLOCK = 13  # the last block of stride 2; SSDLite taps its expansion, the last map of stride 16


class MobileNetV3Large(Backbone):
    """Keys are torchvision's. ``reduced_tail`` halves the last stage, as SSDLite does (section 6.3 of the paper)."""

    def __init__(
        self,
        *,
        width_mult: float = 1.0,
        num_classes: int | None = 1000,
        dropout: float = 0.2,
        reduced_tail: bool = False,
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
        self.classifier = nn.Identity() if num_classes is None else network.classifier
        expansion: Any = next(self._tapped().children())
        tail: Any = self.features[-1]
        self.feature_channels = (expansion.out_channels, tail.out_channels)
        self.feature_strides = (16, 32)

    def _tapped(self) -> nn.Module:
        block = self.features[TAPPED_BLOCK].block
        assert isinstance(block, nn.Module)
        return block

    def forward_features(self, images: Tensor) -> list[Tensor]:
        expand, *rest = self._tapped().children()
        fine: Tensor = expand(self.features[:TAPPED_BLOCK](images))
        coarse = fine
        for layer in (*rest, *self.features[TAPPED_BLOCK + 1 :]):
            coarse = layer(coarse)
        return [fine, coarse]
