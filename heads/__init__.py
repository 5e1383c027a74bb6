"""All that is anchors x classes: necks, heads, the box code, assigners, losses, post-processing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdlite.lazy import attach

if TYPE_CHECKING:
    from ssdlite.heads.assigners import ASSIGNERS as ASSIGNERS
    from ssdlite.heads.assigners import Assigner as Assigner
    from ssdlite.heads.assigners import build_assigner as build_assigner
    from ssdlite.heads.base import Head as Head
    from ssdlite.heads.base import Neck as Neck
    from ssdlite.heads.base import Outputs as Outputs
    from ssdlite.heads.boxes import BoxCode as BoxCode
    from ssdlite.heads.boxes import CenterSizeCode as CenterSizeCode
    from ssdlite.heads.distance_head import DistanceHead as DistanceHead
    from ssdlite.heads.losses import LOSSES as LOSSES
    from ssdlite.heads.losses import DetectionLoss as DetectionLoss
    from ssdlite.heads.necks import ExtraLayers as ExtraLayers
    from ssdlite.heads.pan import PathAggregation as PathAggregation
    from ssdlite.heads.registry import HEADS as HEADS
    from ssdlite.heads.registry import NECKS as NECKS
    from ssdlite.heads.ssd_head import PredictionHead as PredictionHead
    from ssdlite.heads.ssd_head import SSDLiteHead as SSDLiteHead
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "ASSIGNERS": "ssdlite.heads.assigners",
            "Assigner": "ssdlite.heads.assigners",
            "build_assigner": "ssdlite.heads.assigners",
            "Head": "ssdlite.heads.base",
            "Neck": "ssdlite.heads.base",
            "Outputs": "ssdlite.heads.base",
            "BoxCode": "ssdlite.heads.boxes",
            "CenterSizeCode": "ssdlite.heads.boxes",
            "LOSSES": "ssdlite.heads.losses",
            "DetectionLoss": "ssdlite.heads.losses",
            "DistanceHead": "ssdlite.heads.distance_head",
            "ExtraLayers": "ssdlite.heads.necks",
            "PathAggregation": "ssdlite.heads.pan",
            "HEADS": "ssdlite.heads.registry",
            "NECKS": "ssdlite.heads.registry",
            "PredictionHead": "ssdlite.heads.ssd_head",
            "SSDLiteHead": "ssdlite.heads.ssd_head",
        },
    )
