"""The named detectors. To add one is to add an entry here; every entry passes the same contract test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssdlite.anchors import tensorflow_anchors, torchvision_anchors, with_finer_level
from ssdlite.config import MAX_CLASSES, DetectorConfig, override, suggest
from ssdlite.errors import ConfigError

PRESETS: dict[str, DetectorConfig] = {
    # arXiv 1801.04381 table 6; ssdlite_mobilenet_v1/v2_coco.config of the TensorFlow Object Detection API
    "ssdlite320_mobilenet_v1": DetectorConfig(backbone="mobilenet_v1"),
    "ssdlite320_mobilenet_v2": DetectorConfig(backbone="mobilenet_v2"),
    # torchvision's model of that name
    "ssdlite320_mobilenet_v3_large": DetectorConfig(
        backbone="mobilenet_v3_large_reduced", anchors=torchvision_anchors()
    ),
    # ssd_mobilenet_v1_coco.config, and the SSD V2 that MediaPipe ships: 1x1 heads, TensorFlow's padding
    "ssd300_mobilenet_v1": DetectorConfig(
        backbone="mobilenet_v1", image_size=(300, 300), extra_conv="plain", head_conv="pointwise", padding="same"
    ),
    "ssd300_mobilenet_v2": DetectorConfig(
        backbone="mobilenet_v2", image_size=(300, 300), extra_conv="plain", head_conv="pointwise", padding="same"
    ),
    # for trying things on a laptop: a seventh of the work of ssdlite320_mobilenet_v2
    "ssdlite192_mobilenet_v2_050": DetectorConfig(
        backbone="mobilenet_v2",
        width_mult=0.5,
        image_size=(192, 192),
        extra_channels=(256, 256),
        anchors=tensorflow_anchors((0.2, 0.4, 0.65, 0.95, 1.0)),
    ),
}


def preset_config(
    preset: str,
    *,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> DetectorConfig:
    """The configuration of a preset with changes, as ``build_detector`` takes them; None leaves the preset's value."""
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}{suggest(str(preset), PRESETS)}")
    if options.get("finest_stride") == 8 and options.get("anchors") is None:
        options["anchors"] = with_finer_level(PRESETS[preset].anchors)
    changes: dict[str, Any] = {
        "class_names": _class_names(num_classes, class_names),
        "image_size": (image_size, image_size) if isinstance(image_size, (int, np.integer)) else image_size,
        **options,
    }
    return override(PRESETS[preset], **{name: value for name, value in changes.items() if value is not None})


def _class_names(num_classes: int | None, class_names: Sequence[str] | None) -> tuple[str, ...] | None:
    if class_names is not None:
        if isinstance(class_names, str):
            raise ConfigError(f"class_names: expected a sequence of names, got the string {class_names!r}")
        if num_classes not in (None, len(class_names)):
            raise ConfigError(f"num_classes is {num_classes}, but class_names has {len(class_names)} names")
        return tuple(class_names)
    if num_classes is None:
        return None
    if not isinstance(num_classes, (int, np.integer)) or not 1 <= num_classes <= MAX_CLASSES:
        raise ConfigError(f"num_classes: expected 1 to {MAX_CLASSES} (background is not counted), got {num_classes!r}")
    return tuple(f"class_{i}" for i in range(num_classes))
