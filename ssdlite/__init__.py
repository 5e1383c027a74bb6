"""SSD-Lite: object detection for phones. Importing it costs nothing; torch is loaded by what needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdlite.lazy import attach

if TYPE_CHECKING:
    from ssdlite import backbones as backbones
    from ssdlite import datasets as datasets
    from ssdlite import evaluation as evaluation
    from ssdlite import export as export
    from ssdlite import heads as heads
    from ssdlite import runtime as runtime
    from ssdlite import training as training
    from ssdlite import weights as weights
    from ssdlite.anchors import AnchorConfig as AnchorConfig
    from ssdlite.api import TrainResult as TrainResult
    from ssdlite.api import evaluate as evaluate
    from ssdlite.api import export_detector as export_detector
    from ssdlite.api import train as train
    from ssdlite.backbones.registry import build_backbone as build_backbone
    from ssdlite.build import build_detector as build_detector
    from ssdlite.build import build_loss as build_loss
    from ssdlite.build import list_detectors as list_detectors
    from ssdlite.build import load_detector as load_detector
    from ssdlite.build import load_operating_points as load_operating_points
    from ssdlite.build import load_predictor as load_predictor
    from ssdlite.config import PRESETS as PRESETS
    from ssdlite.config import DetectorConfig as DetectorConfig
    from ssdlite.detections import Detection as Detection
    from ssdlite.detections import Detections as Detections
    from ssdlite.detector import Detector as Detector
    from ssdlite.errors import CheckpointError as CheckpointError
    from ssdlite.errors import ConfigError as ConfigError
    from ssdlite.errors import ContractError as ContractError
    from ssdlite.errors import DataError as DataError
    from ssdlite.errors import ExportError as ExportError
    from ssdlite.errors import SsdliteError as SsdliteError
    from ssdlite.errors import TrainingError as TrainingError
    from ssdlite.predictor import Predictor as Predictor
    from ssdlite.weights import import_weights as import_weights
    from ssdlite.weights import list_weights as list_weights
    from ssdlite.weights.backbones import load_backbone_weights as load_backbone_weights

__version__ = "0.1.0"

if not TYPE_CHECKING:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
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
            "TrainResult": "ssdlite.api",
            "TrainingError": "ssdlite.errors",
            "build_backbone": "ssdlite.backbones.registry",
            "build_detector": "ssdlite.build",
            "build_loss": "ssdlite.build",
            "evaluate": "ssdlite.api",
            "export_detector": "ssdlite.api",
            "import_weights": "ssdlite.weights.api",
            "list_detectors": "ssdlite.build",
            "list_weights": "ssdlite.weights.catalog",
            "load_backbone_weights": "ssdlite.weights.backbones",
            "load_detector": "ssdlite.build",
            "load_operating_points": "ssdlite.build",
            "load_predictor": "ssdlite.build",
            "train": "ssdlite.api",
        },
        packages=("backbones", "datasets", "evaluation", "export", "heads", "runtime", "training", "weights"),
    )
