"""All that is anchors x classes: necks, heads, the box code, assigners, losses, post-processing."""

from ssdlite.heads.assigners import ASSIGNERS
from ssdlite.heads.base import Head, Neck, Outputs
from ssdlite.heads.boxes import BoxCode, CenterSizeCode
from ssdlite.heads.losses import LOSSES
from ssdlite.heads.necks import NECKS, ExtraLayers
from ssdlite.heads.ssd_head import HEADS, PredictionHead, SSDLiteHead

__all__ = [
    "ASSIGNERS",
    "HEADS",
    "LOSSES",
    "NECKS",
    "BoxCode",
    "CenterSizeCode",
    "ExtraLayers",
    "Head",
    "Neck",
    "Outputs",
    "PredictionHead",
    "SSDLiteHead",
]
