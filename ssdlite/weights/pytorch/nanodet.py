"""NanoDet-Plus-m, of width 1 or 1.5, from the state dicts of RangiLyu/nanodet (Apache-2.0).

Facts of github.com/RangiLyu/nanodet: config/nanodet-plus-m_320.yml and its like (sizes, normalisation of BGR pictures
that are stretched to the input); nanodet/model/backbone/shufflenetv2.py, fpn/ghost_pan.py, backbone/ghostnet.py,
head/nanodet_plus_head.py and module/{conv,norm,activation}.py (names, shapes, arithmetic: a slope of 0.1 below zero,
norms' epsilon 1e-5, distances in strides from a cell's upper left corner, scores above 0.05, suppression at 0.6, a
hundred objects); trainer/task.py, model/weight_averager/ema.py and util/check_point.py (what a file holds: of a
training the weights and their averages, and of both what guides the assignment of labels).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ssdlite.anchors import stride_anchors
from ssdlite.backbones.shufflenet_v2 import SHUFFLENET_CHANNELS, SHUFFLENET_REPEATS
from ssdlite.config import DetectorConfig, HeadConfig, KernelSize, NeckConfig, override
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
)
from ssdlite.weights.source import ImportOptions

NANODET = "NanoDet-Plus"
AVERAGED, TRAINED = "avg_model.", "model."  # prefixes in Lightning's checkpoints
NANODET_STRIDES = (8, 16, 32, 64)
NANODET_BINS = 8  # reg_max 7 of all published configurations
NANODET_SIDE = 320
NANODET_KERNELS: Mapping[int, KernelSize] = {3: 3, 5: 5}
STEM_OF_BGR = "backbone.conv1.0.weight"
BRANCH = "backbone.stage2.0.branch1.2.weight"
REDUCTION = "fpn.reduce_layers.0.conv.weight"
DOWNSAMPLE = "fpn.downsamples.0.depthwise.weight"
FIRST_TOWER = "head.cls_convs.0.0.depthwise.weight"
FIRST_PREDICTOR = "head.gfl_cls.0.bias"
MULTIPLES = "head.distribution_project.project"
NANODET_CONFIG = override(
    DetectorConfig(),
    backbone="shufflenet_v2",
    neck=NeckConfig(name="pan", channels=(96,), kernel_size=5, joint="ghost", enlargement="bilinear"),
    head=HeadConfig(name="distances", score_function="sigmoid", depth=2, kernel_size=5, bins=NANODET_BINS),
    strides=NANODET_STRIDES,
    anchors=stride_anchors(NANODET_STRIDES, NANODET_SIDE, offset=0.0),
    class_names=("object",),
    activation="leaky_relu",
    norm_eps=1e-5,
    norm_momentum=0.1,
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
    score_threshold=0.05,
    nms_threshold=0.6,
    max_detections=100,
)


def is_nanodet_plus(keys: Collection[str]) -> bool:
    """Whether state-dict ``keys`` are those of a NanoDet-Plus, with any backbone, or of its training's checkpoint."""
    return _find_prefix(keys) is not None


def read_nanodet_plus(
    state: Mapping[str, Tensor], path: str, options: ImportOptions, *, beside: Path | None = None
) -> Imported:
    """The detector of a state dict, for inputs of ``options.image_size``, 320 pixels by default.

    Of a training's checkpoint the averaged weights are taken, where it has them, as its own validation does. A label
    file ``beside`` the source names the classes where ``options`` do not; 80 are COCO's otherwise.

    Raises:
        CheckpointError: another backbone, tensors that are missing, unused or of another shape, or no names for the
            classes.
        ConfigError: pictures or anchors were given.
    """
    options.refuse_pictures(path, NANODET)
    options.refuse_anchors(path)
    prefix = _find_prefix(state) or ""
    own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    filters = (f"{prefix}{name}" for name in (BRANCH, REDUCTION, DOWNSAMPLE, FIRST_TOWER))
    require_filters(state, filters, path, f"{NANODET} with ShuffleNetV2")
    bins = _count_bins(own, path)
    count = count_logits(own[FIRST_PREDICTOR], FIRST_PREDICTOR, 1, path, background=False, others=4 * bins)
    names = options.class_names
    classes = name_rows(count, names, "sigmoid", path, beside=beside, coco=DENSE_COCO_LOGITS, background=False)
    with config_of_source(path, NANODET):  # more of something than any network has
        config = _nanodet_config(own, path, classes, bins, options.image_size or NANODET_SIDE)
        names_of_ours = list(empty_tensors(config))

    mapping = WeightMapping(state, path, NANODET)
    for ours in names_of_ours:
        theirs = f"{prefix}{nanodet_name(ours)}"
        if ours.startswith("head.classification."):
            mapping.move(theirs, ours, lambda rows: classes.select(rows[: count - 1]))
        elif ours.startswith("head.regression."):
            mapping.move(theirs, ours, lambda rows: rows[count - 1 :])
        elif theirs == f"{prefix}{STEM_OF_BGR}":
            mapping.move(theirs, ours, lambda filters: filters.flip(1))  # to RGB
        else:
            mapping.move(theirs, ours)
    mapping.leave([f"{prefix}{MULTIPLES}"], "the numbers of the bins")
    mapping.leave([f"{prefix}{name}" for name in own if name.startswith("aux_")], "guides the training's assignment")
    if prefix == AVERAGED:
        mapping.leave([name for name in state if name.startswith(TRAINED)], "not averaged, as the weights taken are")
    return replace(mapping.complete(config), notes=(*classes.notes, *options.note_size(NANODET_SIDE)))


def _find_prefix(keys: Collection[str]) -> str | None:
    """What the names of the weights to take begin with; None where there are none of a NanoDet-Plus."""
    prefixes = (AVERAGED, TRAINED, "")
    return next((one for one in prefixes if f"{one}{FIRST_PREDICTOR}" in keys and f"{one}{REDUCTION}" in keys), None)


def _count_bins(own: Mapping[str, Tensor], path: str) -> int:
    """Of a distribution over distances; where the file does not say so, as in all published configurations."""
    multiples = own.get(MULTIPLES)
    if multiples is None:
        return NANODET_BINS
    expected = torch.arange(multiples.numel(), dtype=torch.float32)
    if multiples.dim() != 1 or not torch.allclose(multiples.float(), expected, atol=1e-3):
        raise CheckpointError(f"{path}: read as {NANODET}, but {MULTIPLES}: expected 0, 1, 2 ..., got other numbers")
    return multiples.numel()


def _nanodet_config(own: Mapping[str, Tensor], path: str, classes: ClassRows, bins: int, side: int) -> DetectorConfig:
    width = _find_width(own, path)
    depth = sum(FIRST_TOWER.replace("0.0", f"0.{number}") in own for number in range(len(own)))
    return override(
        NANODET_CONFIG,
        width_mult=width,
        neck=NANODET_CONFIG.neck.changed(
            channels=(max(1, round(own[REDUCTION].shape[0] / width)),), kernel_size=_find_kernel(own, DOWNSAMPLE, path)
        ),
        head=NANODET_CONFIG.head.changed(depth=depth, kernel_size=_find_kernel(own, FIRST_TOWER, path), bins=bins),
        image_size=(side, side),
        anchors=stride_anchors(NANODET_STRIDES, side, offset=0.0),
        class_names=classes.names,
        category_ids=classes.category_ids,
    )


def _find_width(own: Mapping[str, Tensor], path: str) -> float:
    """Of ShuffleNetV2, by the channels at stride 8, of which the first block's branches give half each."""
    got = own[BRANCH].shape[0]
    known = {channels[0] // 2: width for width, channels in SHUFFLENET_CHANNELS.items()}
    if got not in known:
        raise CheckpointError(
            f"{path}: read as {NANODET}, but of another shape: {BRANCH}: expected "
            f"{', '.join(f'{half} (width {width:g})' for half, width in known.items())} filters, got {got}"
        )
    return known[got]


def _find_kernel(own: Mapping[str, Tensor], name: str, path: str) -> KernelSize:
    kernel = NANODET_KERNELS.get(own[name].shape[-1])
    if kernel is None:
        raise CheckpointError(
            f"{path}: read as {NANODET}, but of another shape: {name}: expected a kernel of 3 or 5, got "
            f"{list(own[name].shape)}"
        )
    return kernel


# --- Our names of layers -> theirs.

CONV_AND_NORM = {"0": "conv", "1": "bn"}
SEPARABLE_PARTS = {
    "depthwise.0": "depthwise",
    "depthwise.1": "dwnorm",
    "pointwise.0": "pointwise",
    "pointwise.1": "pwnorm",
}
GHOST_PARTS = {
    f"ghosts.{number}.{ours}.{place}": f"blocks.0.ghost{number + 1}.{theirs}.{place}"
    for number in range(2)
    for ours, theirs in (("primary", "primary_conv"), ("cheap", "cheap_operation"))
    for place in range(2)
} | {f"shortcut.{place // 2}.{place % 2}": f"blocks.0.shortcut.{place}" for place in range(4)}
BLOCK_PARTS = {layer: layer for layer in (f"branch{branch}.{place}" for branch in (1, 2) for place in range(8))}
SHUFFLENET_BLOCKS = [
    f"stage{stage}.{number}" for stage, count in enumerate(SHUFFLENET_REPEATS, 2) for number in range(count)
]
NANODET_PLACES: tuple[LayerPlace, ...] = (
    ("backbone.features.0", "backbone.conv1", {"0": "0", "1": "1"}),
    *(
        (f"backbone.features.{number}", f"backbone.{block}", BLOCK_PARTS)
        for number, block in enumerate(SHUFFLENET_BLOCKS, 2)
    ),
    ("neck.reduce.#", "fpn.reduce_layers.{0}", CONV_AND_NORM),
    ("neck.top_down.#", "fpn.top_down_blocks.{0}", GHOST_PARTS),
    ("neck.halve.#", "fpn.downsamples.{0}", SEPARABLE_PARTS),
    ("neck.bottom_up.#", "fpn.bottom_up_blocks.{0}", GHOST_PARTS),
    ("neck.add_entering.#", "fpn.extra_lvl_in_conv.{0}", SEPARABLE_PARTS),
    ("neck.add_leaving.#", "fpn.extra_lvl_out_conv.{0}", SEPARABLE_PARTS),
    ("head.towers.#.#", "head.cls_convs.{0}.{1}", SEPARABLE_PARTS),
    ("head.classification.#", "head", {"0": "gfl_cls.{0}"}),
    ("head.regression.#", "head", {"0": "gfl_cls.{0}"}),
)


def nanodet_name(ours: str) -> str:
    """Our ``head.towers.2.1.depthwise.1.running_var`` -> their ``head.cls_convs.2.1.dwnorm.running_var``."""
    layer, _, entry = ours.rpartition(".")
    return f"{layer_elsewhere(layer, NANODET_PLACES)}.{entry}"
