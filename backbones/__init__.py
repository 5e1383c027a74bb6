"""Backbones: classifiers that also give the feature maps a detector needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdlite.lazy import attach

if TYPE_CHECKING:
    from ssdlite.backbones.base import Backbone as Backbone
    from ssdlite.backbones.base import FeatureMap as FeatureMap
    from ssdlite.backbones.base import Stage as Stage
    from ssdlite.backbones.layers import ConvNormActivation as ConvNormActivation
    from ssdlite.backbones.layers import DepthwiseSeparableConv as DepthwiseSeparableConv
    from ssdlite.backbones.layers import InvertedResidual as InvertedResidual
    from ssdlite.backbones.registry import BACKBONES as BACKBONES
    from ssdlite.backbones.registry import backbone_from_parts as backbone_from_parts
    from ssdlite.backbones.registry import build_backbone as build_backbone
    from ssdlite.config import LayerConfig as LayerConfig
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "LayerConfig": "ssdlite.config",
            "BACKBONES": "ssdlite.backbones.registry",
            "backbone_from_parts": "ssdlite.backbones.registry",
            "build_backbone": "ssdlite.backbones.registry",
            "Backbone": "ssdlite.backbones.base",
            "FeatureMap": "ssdlite.backbones.base",
            "Stage": "ssdlite.backbones.base",
            "ConvNormActivation": "ssdlite.backbones.layers",
            "DepthwiseSeparableConv": "ssdlite.backbones.layers",
            "InvertedResidual": "ssdlite.backbones.layers",
        },
    )
