"""The necks and heads there are, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ssdlite.backbones.base import FeatureMap
from ssdlite.config import DetectorConfig
from ssdlite.heads.aligned_head import AlignedDistanceHead
from ssdlite.heads.base import Head, Neck
from ssdlite.heads.csp_pan import CspPathAggregation
from ssdlite.heads.decoupled_head import DecoupledHead
from ssdlite.heads.distance_head import DistanceHead
from ssdlite.heads.necks import ExtraLayers
from ssdlite.heads.pan import PathAggregation
from ssdlite.heads.ssd_head import SSDLiteHead

NECKS: dict[str, Callable[[Sequence[FeatureMap], DetectorConfig], Neck]] = {
    "extra_layers": ExtraLayers.from_config,
    "pan": PathAggregation.from_config,
    "csp_pan": CspPathAggregation.from_config,
}
HEADS: dict[str, Callable[[Sequence[FeatureMap], DetectorConfig], Head]] = {
    "ssdlite": SSDLiteHead.from_config,
    "distances": DistanceHead.from_config,
    "decoupled": DecoupledHead.from_config,
    "aligned_distances": AlignedDistanceHead.from_config,
}
