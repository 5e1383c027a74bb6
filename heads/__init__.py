"""What turns backbone features into predictions."""

from ssdlite.heads.necks import ExtraConv, ExtraLayers, ExtraOutput
from ssdlite.heads.ssd_head import HeadConv, LastHeadConv, PredictionHead, SSDLiteHead, initialise_normal

__all__ = [
    "ExtraConv",
    "ExtraLayers",
    "ExtraOutput",
    "HeadConv",
    "LastHeadConv",
    "PredictionHead",
    "SSDLiteHead",
    "initialise_normal",
]
