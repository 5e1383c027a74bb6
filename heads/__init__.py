"""What turns backbone features into predictions."""

from ssdlite.heads.extra_layers import ExtraConv, ExtraLayers
from ssdlite.heads.ssdlite_head import HeadConv, PredictionHead, SSDLiteHead, initialise_normal

__all__ = ["ExtraConv", "ExtraLayers", "HeadConv", "PredictionHead", "SSDLiteHead", "initialise_normal"]
