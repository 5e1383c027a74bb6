"""The named detectors. To add one is to add an entry here; every entry passes the same contract test."""

from ssdlite.anchors import tensorflow_anchors, torchvision_anchors
from ssdlite.config import DetectorConfig

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
