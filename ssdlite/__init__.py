"""SSD-Lite: object detection for phones. Importing it costs nothing; torch is loaded by what needs it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssdlite.anchors import AnchorConfig
    from ssdlite.backbones import build_backbone
    from ssdlite.build import build_detector, list_detectors, load_detector, load_predictor
    from ssdlite.config import PRESETS, DetectorConfig
    from ssdlite.detections import Detection, Detections
    from ssdlite.detector import Detector
    from ssdlite.errors import (
        CheckpointError,
        ConfigError,
        ContractError,
        DataError,
        ExportError,
        SsdliteError,
        TrainingError,
    )
    from ssdlite.predictor import Predictor
    from ssdlite.weights import import_weights
    from ssdlite.weights.backbones import load_backbone_weights

__version__ = "0.1.0"

_HOME = {  # public name: the module it is loaded from on first use
    "AnchorConfig": "ssdlite.anchors",
    "CheckpointError": "ssdlite.errors",
    "ConfigError": "ssdlite.errors",
    "ContractError": "ssdlite.errors",
    "DataError": "ssdlite.errors",
    "Detection": "ssdlite.detections",
    "Detections": "ssdlite.detections",
    "Detector": "ssdlite.detector",
    "DetectorConfig": "ssdlite.config",
    "PRESETS": "ssdlite.config",
    "Predictor": "ssdlite.predictor",
    "ExportError": "ssdlite.errors",
    "SsdliteError": "ssdlite.errors",
    "TrainingError": "ssdlite.errors",
    "build_backbone": "ssdlite.backbones",
    "build_detector": "ssdlite.build",
    "import_weights": "ssdlite.weights.api",
    "list_detectors": "ssdlite.build",
    "load_backbone_weights": "ssdlite.weights.backbones",
    "load_detector": "ssdlite.build",
    "load_predictor": "ssdlite.build",
}

__all__ = [
    "PRESETS",
    "AnchorConfig",
    "CheckpointError",
    "ConfigError",
    "ContractError",
    "DataError",
    "Detection",
    "Detections",
    "Detector",
    "DetectorConfig",
    "ExportError",
    "Predictor",
    "SsdliteError",
    "TrainingError",
    "build_backbone",
    "build_detector",
    "import_weights",
    "list_detectors",
    "load_backbone_weights",
    "load_detector",
    "load_predictor",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'ssdlite' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
