"""``mb1-ssd``, ``mb1-ssd-lite``, ``mb2-ssd-lite`` of qfgaohao/pytorch-ssd and its Jetson fork, dusty-nv/pytorch-ssd.

All three stretch pictures to the input, normalise with mean 127 and std 128, pad symmetrically and have a softmax over
background and classes. Convolutions of V1's extra layers and heads have a bias and no norm: they get a norm that adds
the bias. Those of V2's heads have both: the bias goes into the norm's mean.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssdlite.anchors import AnchorConfig, torchvision_anchors
from ssdlite.backbones.batch_norm import identity_norm
from ssdlite.config import DetectorConfig, override
from ssdlite.errors import CheckpointError
from ssdlite.weights.mapping import (
    HOW_TO_NAME,
    Imported,
    ImportOptions,
    WeightMapping,
    calibrate_restored_norms,
    count_slots,
    name_slots,
)

SOURCE = "pytorch-ssd"
COUNTER = "num_batches_tracked"
SHAPES_PER_CELL = 6
MAPS = 6
LAST_LOGITS = f"classification_headers.{MAPS - 1}.bias"
MARKS = {  # a tensor that one layout alone has
    "mb1-ssd": "extras.0.2.weight",
    "mb1-ssd-lite": "extras.0.2.0.weight",
    "mb2-ssd-lite": "extras.0.conv.0.weight",
}
COMMON = override(
    DetectorConfig(),
    image_size=(300, 300),
    class_names=("object",),
    norm_eps=1e-5,
    norm_momentum=0.1,
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
    score_threshold=0.01,
    nms_threshold=0.45,
    candidates_per_class=200,
)
LAYOUTS: dict[str, dict[str, Any]] = {
    "mb1-ssd": {
        "backbone": "mobilenet_v1",
        "activation": "relu",
        "extra_channels": (512, 256, 256, 256),
        "extra_conv": "plain",
        "head_conv": "plain",
    },
    "mb1-ssd-lite": {
        "backbone": "mobilenet_v1",
        "activation": "relu",
        "extra_channels": (512, 256, 256, 256),
        "extra_output": "linear",
        "last_head_conv": "pointwise",
    },
    "mb2-ssd-lite": {
        "backbone": "mobilenet_v2",
        "extra_channels": (512, 256, 256, 64),
        "extra_hidden": (256, 128, 128, 64),
        "extra_output": "linear",
        "last_head_conv": "pointwise",
    },
}
WITHOUT_NORMS = ("mb1-ssd", "mb1-ssd-lite")  # in extra layers and heads
STEPS_300 = (16.0, 32.0, 64.0, 100.0, 150.0, 300.0)
SCALES_300 = tuple(side / 300 for side in (60, 105, 150, 195, 240, 285, 330))
SCALES = tuple(percent / 100 for percent in (10, 20, 37, 54, 71, 88, 105))  # of the fork, at any other size


class Layer(NamedTuple):
    """A convolution and the norm behind it, in our names and theirs; None where there is no norm."""

    ours: str
    our_norm: str | None
    theirs: str
    their_norm: str | None


def is_pytorch_ssd(keys: Collection[str]) -> bool:
    """Whether state-dict ``keys`` are those of a network of pytorch-ssd, one that we have or another."""
    starts = {key.split(".")[0] for key in keys}
    return {"base_net", "classification_headers", "regression_headers"} <= starts


def read_pytorch_ssd(state: Mapping[str, Tensor], path: str, options: ImportOptions) -> Imported:
    """The detector of a state dict, for inputs of ``options.image_size``, 300 pixels by default.

    Raises:
        CheckpointError: another network of theirs, tensors that are missing, left over or of another shape, or no names
            for the classes.
        ConfigError: pictures were given for a layout that has norms.
    """
    layout = next((name for name, mark in MARKS.items() if mark in state), None)
    if layout is None or LAST_LOGITS not in state:
        marks = ", ".join(f"{mark} ({name})" for name, mark in MARKS.items())
        raise CheckpointError(f"{path}: read as {SOURCE}, but expected {LAST_LOGITS} and one of {marks}")
    if layout not in WITHOUT_NORMS:
        options.refuse_pictures(path, f"{SOURCE} {layout}")
    slots = count_slots(state[LAST_LOGITS], LAST_LOGITS, SHAPES_PER_CELL, path)
    if options.class_names is None:
        raise CheckpointError(f"{path}: the names of its {slots - 1} classes are not in the file; {HOW_TO_NAME}")
    side = options.image_size or COMMON.input.size[0]
    config = override(
        COMMON,
        class_names=name_slots(slots, options.class_names, "softmax", path).names,
        image_size=(side, side),
        anchors=pytorch_ssd_anchors(side),
        **LAYOUTS[layout],
    )
    mapping = WeightMapping(state, path, f"{SOURCE} {layout}")
    for layer in (*_backbone(layout), *_extra_layers(layout), *_heads(layout)):
        _move(mapping, layer, config.layers.norm_eps)
    imported = mapping.close(config)
    return calibrate_restored_norms(imported, options) if layout in WITHOUT_NORMS else imported


def pytorch_ssd_anchors(side: int) -> AnchorConfig:
    """The boxes of both projects at 300 pixels, and of the fork (``--resolution``) at other sizes.

    Their centres follow steps in whole pixels. Where these divide the image evenly, none are set, and the anchors suit
    other sizes too.
    """
    grids = [-(-side // 2**level) for level in range(4, 4 + MAPS)]
    steps = STEPS_300 if side == 300 else tuple(float(-(-side // cells)) for cells in grids)
    uneven = any(step * cells != side for step, cells in zip(steps, grids, strict=True))
    levels = torchvision_anchors(SCALES_300 if side == 300 else SCALES).levels
    return AnchorConfig(levels, steps=steps if uneven else ())


def _move(mapping: WeightMapping, layer: Layer, norm_eps: float) -> None:
    mapping.move(f"{layer.theirs}.weight", f"{layer.ours}.weight")
    bias = f"{layer.theirs}.bias"
    if layer.our_norm is None:
        mapping.move(bias, f"{layer.ours}.bias")
    elif layer.their_norm is None:
        if bias in mapping.tensors:
            for entry, value in identity_norm(mapping.tensors[bias], norm_eps).items():
                if entry != "bias":
                    mapping.make(f"{layer.our_norm}.{entry}", value, "the convolution has a bias and no norm")
        mapping.move(bias, f"{layer.our_norm}.bias")
    else:
        _move_norm(mapping, layer.their_norm, layer.our_norm, bias)


def _move_norm(mapping: WeightMapping, theirs: str, ours: str, bias: str) -> None:
    """A norm, and with it the ``bias`` [C] of the convolution before it, where it has one."""
    shift, mean = mapping.tensors.get(bias), mapping.tensors.get(f"{theirs}.running_mean")
    for entry in ("weight", "bias", "running_mean", "running_var"):
        mapping.move(f"{theirs}.{entry}", f"{ours}.{entry}")
    if shift is not None and mean is not None and shift.shape == mean.shape:
        mapping.weights[f"{ours}.running_mean"] = mean - shift
        mapping.leave([bias], "biases of convolutions, now in the running mean of the norm behind them")
    if f"{theirs}.{COUNTER}" in mapping.tensors:
        mapping.move(f"{theirs}.{COUNTER}", f"{ours}.{COUNTER}")
    else:
        mapping.make(f"{ours}.{COUNTER}", torch.tensor(0), "PyTorch before 0.4.1 did not count")


def _backbone(layout: str) -> Iterator[Layer]:
    def layer(block: int, ours: tuple[str, str], theirs: tuple[str, str]) -> Layer:
        mine, source = f"backbone.features.{block}.", f"base_net.{block}."
        return Layer(mine + ours[0], mine + ours[1], source + theirs[0], source + theirs[1])

    yield layer(0, ("0", "1"), ("0", "1"))
    if layout != "mb2-ssd-lite":
        for block in range(1, 14):
            yield layer(block, ("depthwise.0", "depthwise.1"), ("0", "1"))
            yield layer(block, ("pointwise.0", "pointwise.1"), ("3", "4"))
        return
    yield layer(1, ("conv.0.0", "conv.0.1"), ("conv.0", "conv.1"))
    yield layer(1, ("conv.1", "conv.2"), ("conv.3", "conv.4"))
    for block in range(2, 18):
        yield layer(block, ("conv.0.0", "conv.0.1"), ("conv.0", "conv.1"))
        yield layer(block, ("conv.1.0", "conv.1.1"), ("conv.3", "conv.4"))
        yield layer(block, ("conv.2", "conv.3"), ("conv.6", "conv.7"))
    yield layer(18, ("0", "1"), ("0", "1"))


def _extra_layers(layout: str) -> Iterator[Layer]:
    places: dict[str, dict[str, tuple[str, str | None]]] = {
        "mb1-ssd": {"0": ("0", None), "1": ("2", None)},
        "mb1-ssd-lite": {"0": ("0", None), "1.depthwise": ("2.0", None), "1.pointwise": ("2.2", None)},
        "mb2-ssd-lite": {
            "0": ("conv.0", "conv.1"),
            "1.depthwise": ("conv.3", "conv.4"),
            "1.pointwise": ("conv.6", "conv.7"),
        },
    }
    for number in range(MAPS - 2):
        for place, (conv, norm) in places[layout].items():
            ours, theirs = f"neck.{number}.{place}", f"extras.{number}."
            yield Layer(f"{ours}.0", f"{ours}.1", theirs + conv, None if norm is None else theirs + norm)


def _heads(layout: str) -> Iterator[Layer]:
    for ours, theirs in (("classification", "classification_headers"), ("regression", "regression_headers")):
        for number in range(MAPS):
            mine, source = f"head.{ours}.{number}", f"{theirs}.{number}"
            if layout == "mb1-ssd" or number == MAPS - 1:
                yield Layer(f"{mine}.0", None, source, None)
            elif layout == "mb1-ssd-lite":
                yield Layer(f"{mine}.0.0", f"{mine}.0.1", f"{source}.0", None)
                yield Layer(f"{mine}.1", None, f"{source}.2", None)
            else:
                yield Layer(f"{mine}.0.0", f"{mine}.0.1", f"{source}.0", f"{source}.1")
                yield Layer(f"{mine}.1", None, f"{source}.3", None)
