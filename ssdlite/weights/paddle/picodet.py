"""PicoDet as PaddleDetection publishes it since 2.4: LCNet, LC-PAN and PicoHeadV2 (arXiv 2111.00902: its beginnings).

Facts of github.com/PaddlePaddle/PaddleDetection (Apache-2.0): ppdet/modeling/backbones/lcnet.py, necks/lc_pan.py and
csp_pan.py, heads/pico_head.py and gfl_head.py (names and shapes), configs/picodet/_base_/picodet_v2.yml and
picodet_320_reader.yml (thresholds and input). XS, S, M and L differ in widths and depths, which the tensors tell. The
earlier release of the same names, on ESNet, has other parts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ssdlite.anchors import AnchorConfig, square_anchors
from ssdlite.backbones.batch_norm import BATCH_COUNTER
from ssdlite.backbones.layers import round_channels
from ssdlite.config import DetectorConfig, HeadConfig, NeckConfig, override
from ssdlite.errors import CheckpointError
from ssdlite.weights.class_names import DENSE_COCO_LOGITS, ClassRows, count_logits, name_rows
from ssdlite.weights.mapping import (
    Imported,
    LayerPlace,
    WeightMapping,
    config_of_source,
    empty_tensors,
    layer_elsewhere,
    require_filters,
    require_tensors,
)
from ssdlite.weights.source import ImportOptions

PICODET = "PaddleDetection's PicoDet"
PICODET_STRIDES = (8, 16, 32, 64)
PICODET_SIDE = 320
LCNET_WIDTHS = (0.35, 0.75, 1.5, 2.0, 0.25, 0.5, 1.0, 2.5)  # of PicoDet XS, S, M and L, and the others there are
STEM_FILTERS = "backbone.conv1.conv.weight"
LAST_FILTERS = "backbone.blocks6.1.pw_conv.conv.weight"
NECK_FILTERS = "neck.conv_t.convs.0.conv.weight"
FIRST_GATE = "head.conv_feat.se.0.fc.weight"
FIRST_CLASS_BIAS = "head.head_cls0.bias"
FIRST_BOX_BIAS = "head.head_reg0.bias"
SECOND_NAME = re.compile(r"(head\.head_(?:cls|reg))_list\.(\d+)(\.\w+)")  # of layers that newer releases hold twice
PICODET_CONFIG = override(
    DetectorConfig(),
    strides=PICODET_STRIDES,
    anchors=square_anchors([1.0] * len(PICODET_STRIDES)),
    class_names=("object",),
    backbone="lcnet",
    activation="hardswish",
    norm_eps=1e-5,
    norm_momentum=0.1,
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
    score_threshold=0.025,
    nms_threshold=0.6,
    candidates_per_class=1000,
    max_detections=100,
)


def is_picodet(keys: Collection[str]) -> bool:
    """Whether state-dict ``keys`` are those of a PicoDet with LCNet and a head that is gated."""
    return STEM_FILTERS in keys and FIRST_GATE in keys


def read_picodet(
    state: Mapping[str, Tensor], path: str, options: ImportOptions, *, beside: Path | None = None
) -> Imported:
    """The detector of a state dict, for inputs of ``options.image_size``, 320 pixels by default.

    A label file ``beside`` the source names its classes where ``options`` do not; 80 are COCO's otherwise.

    Raises:
        CheckpointError: tensors are missing, unused or of another shape, or there are no names for the classes.
        ConfigError: pictures or anchors were given.
    """
    options.refuse_pictures(path, PICODET)
    options.refuse_anchors(path)
    state = _with_first_names(state, path)
    require_filters(state, (STEM_FILTERS, LAST_FILTERS, NECK_FILTERS), path, PICODET)
    require_tensors(state, (FIRST_CLASS_BIAS, FIRST_BOX_BIAS), path, PICODET)
    count = count_logits(state[FIRST_CLASS_BIAS], FIRST_CLASS_BIAS, 1, path, background=False)
    names = options.class_names
    classes = name_rows(count, names, "sigmoid", path, beside=beside, coco=DENSE_COCO_LOGITS, background=False)
    with config_of_source(path, PICODET):  # more of something than any network has
        config = _picodet_config(state, path, classes, options.image_size or PICODET_SIDE)
        names_of_ours = list(empty_tensors(config))
    mapping = WeightMapping(state, path, PICODET)
    for ours in names_of_ours:
        if ours.endswith(BATCH_COUNTER):
            mapping.make(ours, torch.tensor(0), "PaddlePaddle does not count batches")
        elif ours.startswith("head.classification."):
            mapping.move(picodet_name(ours), ours, classes.select)
        else:
            mapping.move(picodet_name(ours), ours)
    scales = [f"head.p{stride.bit_length() - 1}_feat.scale_reg" for stride in PICODET_STRIDES]
    mapping.leave(scales, "of GFLHead, which PicoHeadV2 inherits from and does not use")
    mapping.leave(["head.distribution_project.project"], "the numbers of the bins")
    return replace(mapping.complete(config), notes=(*classes.notes, *options.note_size(PICODET_SIDE)))


def _with_first_names(state: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    """Layers that the file holds by two names, once: ``head_cls_list.0`` as ``head_cls0``."""
    named = {name: tensor for name, tensor in state.items() if not SECOND_NAME.fullmatch(name)}
    for name in state.keys() - named.keys():
        first = SECOND_NAME.sub(r"\1\2\3", name)
        if not torch.equal(named.setdefault(first, state[name]), state[name]):
            raise CheckpointError(f"{path}: read as {PICODET}, but {name} and {first} are one layer and differ")
    return named


def _picodet_config(state: Mapping[str, Tensor], path: str, classes: ClassRows, side: int) -> DetectorConfig:
    width = _find_width(state, path)
    depth = sum(f"head.conv_feat.cls_conv_dw0.{number}.conv.weight" in state for number in range(len(state)))
    channels = round(len(state[NECK_FILTERS]) / width)
    return override(
        PICODET_CONFIG,
        width_mult=width,
        neck=NeckConfig(name="pan", channels=(channels,), joint="separable_pair", kernel_size=5),
        head=HeadConfig(
            name="aligned_distances",
            score_function="sigmoid",
            depth=depth,
            kernel_size=5,
            bins=state[FIRST_BOX_BIAS].numel() // 4,
        ),
        image_size=(side, side),
        anchors=stride_anchors(side),
        class_names=classes.names,
        category_ids=classes.category_ids,
    )


def _find_width(state: Mapping[str, Tensor], path: str) -> float:
    """Of LCNet, by the channels of its first and its last layer."""
    got = tuple(state[name].shape[0] for name in (STEM_FILTERS, LAST_FILTERS))
    known = {width: (round_channels(16 * width), round_channels(512 * width)) for width in LCNET_WIDTHS}
    found = next((width for width, channels in known.items() if channels == got), None)
    if found is None:
        raise CheckpointError(
            f"{path}: read as {PICODET}, but {STEM_FILTERS} and {LAST_FILTERS} have {got[0]} and {got[1]} channels; "
            f"expected LCNet's, which are {', '.join(f'{a} and {b} (width {w:g})' for w, (a, b) in known.items())}"
        )
    return found


def stride_anchors(side: int) -> AnchorConfig:
    """Squares as large as a cell, in which the head counts, around the cells' middles (``_generate_anchors``)."""
    anchors = square_anchors([stride / side for stride in PICODET_STRIDES])
    if all(side % stride == 0 for stride in PICODET_STRIDES):
        return anchors
    return anchors.changed(steps=tuple(map(float, PICODET_STRIDES)))


# --- Our names of layers -> theirs.

PAIR = {"0": "conv", "1": "bn"}
SEPARABLE = {
    "depthwise.0": "dw_conv.conv",
    "depthwise.1": "dw_conv.bn",
    "pointwise.0": "pw_conv.conv",
    "pointwise.1": "pw_conv.bn",
    "gate.fc1": "se.conv1",
    "gate.fc2": "se.conv2",
}
HALVING = {"depthwise.0": "dwconv", "depthwise.1": "bn1", "pointwise.0": "pwconv", "pointwise.1": "bn2"}
TOWER = {
    "depthwise.0": "cls_conv_dw{0}.{1}.conv",
    "depthwise.1": "cls_conv_dw{0}.{1}.norm",
    "pointwise.0": "cls_conv_pw{0}.{1}.conv",
    "pointwise.1": "cls_conv_pw{0}.{1}.norm",
}
GATE = {"weigh": "fc", "conv.0": "conv.conv", "conv.1": "conv.norm"}
ALIGNMENT = {"0.0": "dwconv", "0.1": "bn1", "1.0": "pwconv", "1.1": "bn2"}
LCNET_BLOCKS = [f"{stage}.{n}" for stage, count in zip(range(2, 7), (1, 2, 2, 6, 2), strict=True) for n in range(count)]
PICODET_PLACES: tuple[LayerPlace, ...] = (
    ("backbone.features.0", "backbone.conv1", PAIR),
    *(
        (f"backbone.features.{number}", f"backbone.blocks{block}", SEPARABLE)
        for number, block in enumerate(LCNET_BLOCKS, 1)
    ),
    ("neck.reduce.#", "neck.conv_t.convs.{0}", PAIR),
    ("neck.top_down.#.#", "neck.top_down_blocks.{0}.{1}", SEPARABLE),
    ("neck.bottom_up.#.#", "neck.bottom_up_blocks.{0}.{1}", SEPARABLE),
    ("neck.halve.#", "neck.downsamples.{0}", HALVING),
    ("neck.add_entering.0", "neck.first_top_conv", HALVING),
    ("neck.add_leaving.0", "neck.second_top_conv", HALVING),
    ("head.towers.#.#", "head.conv_feat", TOWER),
    ("head.gates.#", "head.conv_feat.se.{0}", GATE),
    ("head.alignments.#", "head.cls_align.{0}", ALIGNMENT),
    ("head.classification.#", "head", {"0": "head_cls{0}"}),
    ("head.regression.#", "head", {"0": "head_reg{0}"}),
)
ENTRIES = {"running_mean": "_mean", "running_var": "_variance"}


def picodet_name(ours: str) -> str:
    """Our ``head.towers.2.1.depthwise.1.running_var`` -> their ``head.conv_feat.cls_conv_dw2.1.norm._variance``."""
    layer, _, entry = ours.rpartition(".")
    return f"{layer_elsewhere(layer, PICODET_PLACES)}.{ENTRIES.get(entry, entry)}"
