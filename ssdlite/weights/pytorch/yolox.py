"""YOLOX-Nano, Tiny and S of Megvii (arXiv 2107.08430), from their published state dicts.

Facts of github.com/Megvii-BaseDetection/YOLOX (Apache-2.0): yolox/models (names and shapes), exps/default and
yolox/exp/yolox_base.py (widths, sizes, thresholds, the norms' epsilon and momentum), yolox/data/data_augment.py (the
input: BGR in 0..255 without normalisation, letterboxed with 114).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ssdlite.anchors import AnchorConfig, square_anchors
from ssdlite.backbones.csp_darknet import STEM_WIDTH, Conv3x3
from ssdlite.config import DetectorConfig, HeadConfig, InputConfig, NeckConfig, override
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.weights.class_names import DENSE_COCO_LOGITS, ClassRows, count_logits, name_rows
from ssdlite.weights.mapping import Imported, WeightMapping, empty_tensors
from ssdlite.weights.source import ImportOptions

YOLOX = "YOLOX"
YOLOX_STRIDES = (8, 16, 32)
FOCUS_WEIGHT = "backbone.backbone.stem.conv.conv.weight"
DEPTHWISE_WEIGHT = "backbone.backbone.dark2.0.dconv.conv.weight"  # which a plain network has not
SECOND_BLOCK = "backbone.backbone.dark2.1.m.1."  # in this layer, of networks that are deeper
FIRST_CLASSES = "head.cls_preds.0.bias"
FIRST_OBJECTS = "head.obj_preds.0.bias"


class YoloxLayout(NamedTuple):
    """A published network: channels behind the stem, whether 3x3 convolutions are depthwise, the input's side."""

    name: str
    stem: int
    depthwise: bool
    side: int


YOLOX_LAYOUTS = (
    YoloxLayout("YOLOX-Nano", 16, True, 416),
    YoloxLayout("YOLOX-Tiny", 24, False, 416),
    YoloxLayout("YOLOX-S", 32, False, 640),
)
YOLOX_CONFIG = override(
    DetectorConfig(),
    strides=YOLOX_STRIDES,
    anchors=square_anchors([1.0] * len(YOLOX_STRIDES)),
    class_names=("object",),
    input=InputConfig(resize="letterbox", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    activation="silu",
    score_threshold=0.01,
    nms_threshold=0.65,
)

# Ours -> theirs: the layers of the backbone in their order, the joints of the neck by kind, the parts of the head.
YOLOX_FEATURES = (
    "stem.conv",
    *("dark2.0", "dark2.1", "dark3.0", "dark3.1", "dark4.0", "dark4.1"),
    *("dark5.0", "dark5.1", "dark5.2"),
)
YOLOX_JOINTS = {
    "reduce": ("lateral_conv0", "reduce_conv1"),
    "top_down": ("C3_p4", "C3_p3"),
    "halve": ("bu_conv2", "bu_conv1"),
    "bottom_up": ("C3_n3", "C3_n4"),
}
YOLOX_TOWERS = {"stems": "stems", "class_towers": "cls_convs", "box_towers": "reg_convs"}
YOLOX_PREDICTORS = {"classification": "cls_preds", "objectness": "obj_preds", "regression": "reg_preds"}
YOLOX_WORDS = {
    "depthwise": "dconv",
    "pointwise": "pconv",  # of DWConv
    "main": "conv1",
    "bypass": "conv2",
    "blocks": "m",
    "join": "conv3",  # of CSPLayer
    "mix": "conv1",
    "spatial": "conv2",  # of Bottleneck
    "squeeze": "conv1",
    "merge": "conv2",  # of SPPBottleneck
}


def is_yolox(keys: Collection[str]) -> bool:
    """Whether state-dict ``keys`` are those of a YOLOX, one that is read here or another."""
    return FIRST_CLASSES in keys and FIRST_OBJECTS in keys


def read_yolox(
    state: Mapping[str, Tensor], path: str, options: ImportOptions, *, beside: Path | None = None
) -> Imported:
    """The detector of a state dict, for inputs of ``options.image_size``, by default the published one.

    A label file ``beside`` the source names its classes where ``options`` do not; 80 are COCO's otherwise.

    Raises:
        CheckpointError: another network of theirs, tensors that are missing, unused or of another shape, or no names
            for the classes.
        ConfigError: pictures or anchors were given, or a size that YOLOX cannot have.
    """
    layout = _find_layout(state, path)
    options.refuse_pictures(path, layout.name)
    options.refuse_anchors(path)
    count = count_logits(state[FIRST_CLASSES], FIRST_CLASSES, 1, path, background=False)
    names = options.class_names
    classes = name_rows(count, names, "sigmoid", path, beside=beside, coco=DENSE_COCO_LOGITS, background=False)
    config = _config(layout, classes, _input_side(layout, options, path))
    mapping = WeightMapping(state, path, layout.name)
    rows = torch.tensor(classes.kept[1:]) - 1  # theirs have no background
    for ours in empty_tensors(config):
        theirs = yolox_name(ours)
        if theirs == FOCUS_WEIGHT:
            mapping.move(theirs, ours, unfold_focus)
        elif ours.startswith("head.classification."):
            mapping.move(theirs, ours, lambda tensor: tensor[rows] if len(tensor) == count - 1 else tensor)
        else:
            mapping.move(theirs, ours)
    return replace(mapping.complete(config), notes=classes.notes)


def _find_layout(state: Mapping[str, Tensor], path: str) -> YoloxLayout:
    known = ", ".join(f"{one.stem} channels{', depthwise' * one.depthwise} ({one.name})" for one in YOLOX_LAYOUTS)
    if FOCUS_WEIGHT not in state:
        raise CheckpointError(f"{path}: read as {YOLOX}, but missing keys: {FOCUS_WEIGHT}; expected one of {known}")
    channels, depthwise = len(state[FOCUS_WEIGHT]) if state[FOCUS_WEIGHT].dim() else 0, DEPTHWISE_WEIGHT in state
    deeper = next((name for name in state if name.startswith(SECOND_BLOCK)), None)
    found = next((one for one in YOLOX_LAYOUTS if (one.stem, one.depthwise) == (channels, depthwise)), None)
    if found is None or deeper is not None:
        kind = f"{channels} channels{', depthwise' * depthwise}{f', deeper by {deeper}' if deeper else ''}"
        raise CheckpointError(f"{path}: read as {YOLOX}, but expected a stem of {known}, got {kind}")
    return found


def _input_side(layout: YoloxLayout, options: ImportOptions, path: str) -> int:
    """Of every other size a map is not twice as large as the next, and their neck cannot put them together."""
    side, step = options.image_size or layout.side, YOLOX_STRIDES[-1]
    if below := side % step:
        raise ConfigError(
            f"{path}: read as {layout.name}, whose input has sides that are multiples of {step}, but image_size "
            f"(--image-size) is {side}; the nearest are {side - below} and {side - below + step}"
        )
    return side


def _config(layout: YoloxLayout, classes: ClassRows, side: int) -> DetectorConfig:
    conv: Conv3x3 = "separable" if layout.depthwise else "plain"
    return override(
        YOLOX_CONFIG,
        backbone="csp_darknet_separable" if layout.depthwise else "csp_darknet",
        width_mult=layout.stem / STEM_WIDTH,
        neck=NeckConfig(name="csp_pan", channels=(), conv=conv),
        head=HeadConfig(
            name="decoupled", conv=conv, score_function="sigmoid", box_code_scales=(1.0, 1.0, 1.0, 1.0), depth=2
        ),
        image_size=(side, side),
        anchors=cell_anchors(side),
        class_names=classes.names,
        category_ids=classes.category_ids,
    )


def cell_anchors(side: int) -> AnchorConfig:
    """Squares of a cell around its upper left corner, from which x and y are counted (``decode_outputs``)."""
    return square_anchors([stride / side for stride in YOLOX_STRIDES]).changed(offset=0.0)


def yolox_name(ours: str) -> str:
    """Our ``neck.top_down.0.blocks.0.spatial.depthwise.1.bias`` -> their ``backbone.C3_p4.m.0.conv2.dconv.bn.bias``."""
    (part, kind, number, *inner), layer, entry = _split(ours)
    if kind in YOLOX_PREDICTORS:
        return f"head.{YOLOX_PREDICTORS[kind]}.{number}.{entry}"
    if part == "backbone":
        start = f"backbone.backbone.{YOLOX_FEATURES[int(number)]}"
    elif part == "neck":
        start = f"backbone.{YOLOX_JOINTS[kind][int(number)]}"
    else:
        start = f"head.{YOLOX_TOWERS[kind]}.{number}"
    return ".".join((start, *(YOLOX_WORDS.get(word, word) for word in inner), {"0": "conv", "1": "bn"}[layer], entry))


def _split(name: str) -> tuple[list[str], str, str]:
    *place, layer, entry = name.split(".")
    return place, layer, entry


def unfold_focus(weight: Tensor) -> Tensor:
    """[C, 12, 3, 3] over the corners of 2x2 pixels, BGR each -> [C, 3, 6, 6] over the pixels themselves, RGB.

    Focus stacks the corners upper left, lower left, upper right, lower right: columns, then rows.
    """
    corners = weight.view(len(weight), 2, 2, 3, 3, 3).flip(3)  # C, column, row, RGB, y, x
    return corners.permute(0, 3, 4, 2, 5, 1).reshape(len(weight), 3, 6, 6)
