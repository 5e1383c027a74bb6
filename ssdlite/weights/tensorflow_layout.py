"""SSD MobileNets of the TensorFlow Object Detection API: their layers' names, and the detector of ours that each is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ssdlite.anchors import SSDLITE_SCALES, AnchorConfig, tensorflow_anchors
from ssdlite.backbones.layers import Narrowing
from ssdlite.config import DetectorConfig, override
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.weights.class_slots import ClassSlots
from ssdlite.weights.layers import Layer, backbone_shapes

FIRST_TAPS = {"mobilenet_v1": "Conv2d_11_pointwise", "mobilenet_v2": "expanded_conv_13/expand"}
LAST_LAYERS = {"mobilenet_v1": "Conv2d_13_pointwise", "mobilenet_v2": "Conv_1"}
EXTRA_PREFIXES = {"mobilenet_v1": "Conv2d_13_pointwise", "mobilenet_v2": "layer_19"}
WIDTHS = (1.0, 1.4, 1.3, 0.75, 0.5, 0.35, 0.25)  # those that were published, common ones first
NMS_THRESHOLD = 0.6  # ssd_mobilenet_v1_coco.config and its descendants
ROWS = torch.tensor([1, 0, 3, 2])  # TensorFlow's (y, x, height, width) as our (x, y, width, height)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """What tensors of a source say about its detector. ``shapes`` are those of the backbone's filters, in order."""

    backbone: Literal["mobilenet_v1", "mobilenet_v2"]
    shapes: tuple[Shape, ...]
    extra_channels: tuple[int, ...]
    extra_conv: Literal["separable", "plain"]
    head_conv: Literal["separable", "pointwise", "plain"]
    anchors_per_cell: tuple[int, ...]
    slots: int


def backbone_scopes(backbone: str) -> list[str]:
    """TensorFlow's names of a backbone's convolutions, in the order in which they run."""
    if backbone == "mobilenet_v1":
        blocks = [f"Conv2d_{block}_{part}" for block in range(1, 14) for part in ("depthwise", "pointwise")]
        return ["Conv2d_0", *blocks]
    blocks = [f"expanded_conv_{block}/{part}" for block in range(1, 17) for part in ("expand", "depthwise", "project")]
    return ["Conv", "expanded_conv/depthwise", "expanded_conv/project", *blocks, "Conv_1"]


def extra_scopes(layout: Layout) -> list[str]:
    """The same of the extra layers."""
    prefix, scopes = EXTRA_PREFIXES[layout.backbone], []
    for number, channels in enumerate(layout.extra_channels, 2):
        scopes.append(f"{prefix}_1_Conv2d_{number}_1x1_{channels // 2}")
        last = f"{prefix}_2_Conv2d_{number}_3x3_s2_{channels}"
        scopes += [f"{last}_depthwise", last] if layout.extra_conv == "separable" else [last]
    return scopes


def trunk_taps(layout: Layout) -> tuple[int, ...]:
    """How many layers lead to each of the maps that are predicted on, finest first."""
    scopes = backbone_scopes(layout.backbone)
    taps = [scopes.index(names[layout.backbone]) + 1 for names in (FIRST_TAPS, LAST_LAYERS)]
    step = 3 if layout.extra_conv == "separable" else 2
    return (*taps, *(len(scopes) + step * (i + 1) for i in range(len(layout.extra_channels))))


def detector_config(
    layout: Layout,
    *,
    image_size: tuple[int, int],
    classes: ClassSlots,
    score_function: Literal["sigmoid", "softmax"],
    path: str,
    anchors: AnchorConfig | None = None,
    changes: Mapping[str, Any],
) -> DetectorConfig:
    """The configuration of our detector; ``anchors`` where the source holds its own, else TensorFlow's for it.

    ``changes`` are other values that the source gives.

    Raises:
        CheckpointError: there is no such detector.
    """
    width, narrowing = _width(layout)
    try:
        config = DetectorConfig(
            backbone=layout.backbone,
            width_mult=width,
            narrowing=narrowing,
            image_size=image_size,
            class_names=classes.names,
            category_ids=classes.category_ids,
            anchors=anchors or standard_anchors(layout.anchors_per_cell, path),
            extra_channels=tuple(_unscaled(channels, width) for channels in layout.extra_channels),
            extra_conv=layout.extra_conv,
            head_conv=layout.head_conv,
            padding="same",
            score_function=score_function,
            nms_threshold=NMS_THRESHOLD,
        )
        return override(config, **changes)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _width(layout: Layout) -> tuple[float, Narrowing]:
    """The width whose filters most of the source's are like; what still differs, the import names."""
    best: tuple[float, Narrowing] = WIDTHS[0], "classifier"
    most = -1
    for width, narrowing in itertools.product(WIDTHS, get_args(Narrowing)):
        own = backbone_shapes(layout.backbone, width, narrowing)
        alike = sum(ours == theirs for ours, theirs in zip(own, layout.shapes, strict=False))
        if alike > most:
            best, most = (width, narrowing), alike
        if alike == len(own):
            break
    return best


def _unscaled(channels: int, width: float) -> int:
    """The number that ``width`` turns into ``channels``, of those that do the usual one."""
    usual = (one for one in (512, 256, 128) if max(int(one * width), 16) == channels)
    return next(usual, math.ceil(channels / width - 1e-6))


def standard_anchors(anchors_per_cell: Sequence[int], path: str) -> AnchorConfig:
    """TensorFlow's ``ssd_anchor_generator`` with scales .2 to .95, as all published configurations have it."""
    maps = len(anchors_per_cell)
    scales = [0.2 + 0.75 * i / max(maps - 1, 1) for i in range(maps)] + [1.0]
    for reduced in (True, False):
        anchors = tensorflow_anchors(SSDLITE_SCALES if maps == 6 else scales, reduce_lowest=reduced)
        if anchors.shapes_per_cell == tuple(anchors_per_cell):
            return anchors
    raise CheckpointError(
        f"{path}: its anchors are not TensorFlow's usual ones (per cell of each map 3 or 6, then 6; here "
        f"{', '.join(map(str, anchors_per_cell))}), and the file does not hold them"
    )


def to_torch(layer: Layer) -> Callable[[Tensor], Tensor]:
    """Filters as checkpoints hold them, HWIO or HWCM -> ours."""
    return (
        (lambda tensor: tensor.permute(2, 3, 0, 1)) if layer.depthwise else (lambda tensor: tensor.permute(3, 2, 0, 1))
    )


def box_rows(tensor: Tensor) -> Tensor:
    """Box predictor [A * 4, ...] of (y, x, height, width) -> of (x, y, width, height)."""
    return tensor.reshape(-1, 4, *tensor.shape[1:])[:, ROWS].flatten(0, 1)
