"""SSDs in PyTorch state dicts: torchvision's ``ssdlite320_mobilenet_v3_large``, and the three of pytorch-ssd."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssdlite.anchors import AnchorConfig, torchvision_anchors
from ssdlite.backbones.batch_norm import BATCH_COUNTER, identity_norm
from ssdlite.config import PRESETS, DetectorConfig, override
from ssdlite.errors import CheckpointError
from ssdlite.stored_tensors import check_tensors
from ssdlite.weights.class_names import ClassRows, count_logits, name_rows
from ssdlite.weights.mapping import Imported, WeightMapping, calibrate_restored_norms, empty_tensors, require_tensors
from ssdlite.weights.source import ImportOptions

SHAPES_PER_CELL = 6  # of all that is read here

TORCHVISION_SSD = "torchvision ssdlite320_mobilenet_v3_large"
STEM = "backbone.features.0.0.0.weight"
TAIL = "backbone.features.1.3.0.weight"  # the last convolution of the backbone, which has half the channels
REDUCED_TAIL_CHANNELS = 480  # where it was not built on ImageNet weights
TORCHVISION_HEADS = {
    "classification": "head.classification_head.module_list",
    "regression": "head.regression_head.module_list",
}
FIRST_LOGITS = f"{TORCHVISION_HEADS['classification']}.0.1.bias"
SPLIT_BLOCK = 13  # its expansion ends torchvision's first group of layers, the rest begins the second


def is_torchvision_ssd(keys: Collection[str]) -> bool:
    """Whether state-dict ``keys`` are those of an SSDLite of torchvision."""
    return STEM in keys and any(key.startswith(tuple(TORCHVISION_HEADS.values())) for key in keys)


def read_torchvision_ssd(
    state: Mapping[str, Tensor], path: str, options: ImportOptions, *, beside: Path | None = None
) -> Imported:
    """The detector of a state dict. All foreground rows are kept, also COCO's ten that no object has: they take part
    in the softmax. A label file ``beside`` the source names them where ``options`` do not.

    Raises:
        CheckpointError: tensors are missing, unused or of another shape, or there are no names for the classes.
        ConfigError: pictures were given.
    """
    options.refuse_pictures(path, TORCHVISION_SSD)
    options.refuse_anchor_order(path, TORCHVISION_SSD)
    require_tensors(state, (FIRST_LOGITS, TAIL), path, TORCHVISION_SSD)
    num_logits = count_logits(state[FIRST_LOGITS], FIRST_LOGITS, SHAPES_PER_CELL, path)
    classes = name_rows(num_logits, options.class_names, "softmax", path, beside=beside)
    config = _torchvision_config(state, classes, options)
    mapping = WeightMapping(state, path, TORCHVISION_SSD)
    for ours in empty_tensors(config):
        mapping.move(_torchvision_name(ours), ours)
    return replace(mapping.complete(config), notes=classes.notes)


def read_published_torchvision_ssd(name: str, options: ImportOptions) -> Imported:
    """The detector that torchvision publishes, trained on COCO; ``name`` is what errors call it.

    Raises:
        CheckpointError: it cannot be downloaded; the error says which file to fetch.
    """
    from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights

    try:
        state = download_torchvision_ssd()
    except (OSError, RuntimeError) as error:  # no network, or not what was expected
        address = SSDLite320_MobileNet_V3_Large_Weights.COCO_V1.url
        raise CheckpointError(
            f"{name}: cannot be downloaded ({error}). Fetch {address} where there is a network, and import that file"
        ) from None
    check_tensors(state, name)
    return read_torchvision_ssd(state, name, options)


def download_torchvision_ssd() -> Mapping[str, Tensor]:
    """The published COCO weights, by torchvision's own loader, which keeps them in torch.hub's folder.

    Raises:
        OSError: no network, or not the file that torchvision expects.
    """
    from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights

    weights = SSDLite320_MobileNet_V3_Large_Weights.COCO_V1
    state: Mapping[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    return state


def _torchvision_config(state: Mapping[str, Tensor], classes: ClassRows, options: ImportOptions) -> DetectorConfig:
    reduced = state[TAIL].shape[:1] == (REDUCED_TAIL_CHANNELS,)
    preset = PRESETS["ssdlite320_mobilenet_v3_large"]
    return override(
        preset,
        backbone="mobilenet_v3_large_reduced" if reduced else "mobilenet_v3_large",
        class_names=classes.names,
        category_ids=classes.category_ids,
        anchors=options.anchors or preset.anchors,
        image_size=(options.image_size, options.image_size) if options.image_size else preset.input.size,
    )


def _torchvision_name(ours: str) -> str:
    """Our ``backbone.features.14.block.0.0.weight`` -> torchvision's ``backbone.features.1.1.block.0.0.weight``."""
    part, *rest = ours.split(".")
    if part == "neck":
        layer, position, *rest = rest
        if position == "1":
            position = {"depthwise": "1", "pointwise": "2"}[rest.pop(0)]
        return ".".join(("backbone.extra", layer, position, *rest))
    if part == "head":
        return ".".join((TORCHVISION_HEADS[rest[0]], *rest[1:]))
    _, number, *rest = rest
    block = int(number) - SPLIT_BLOCK
    if block == 0:
        _, position, *rest = rest
        first = ("0", number) if position == "0" else ("1", "0", position)
    else:
        first = ("0", number) if block < 0 else ("1", str(block))
    return ".".join(("backbone.features", *first, *rest))


# --- ``mb1-ssd``, ``mb1-ssd-lite``, ``mb2-ssd-lite`` of qfgaohao/pytorch-ssd and its Jetson fork, dusty-nv/pytorch-ssd.
#
# All three stretch pictures to the input, normalise with mean 127 and std 128, pad symmetrically and have a softmax
# over background and classes. Convolutions of V1's extra layers and heads have a bias and no norm: they get a norm that
# adds the bias. Those of V2's heads have both: the bias goes into the norm's mean.

PYTORCH_SSD = "pytorch-ssd"
MAPS = 6
LAST_LOGITS = f"classification_headers.{MAPS - 1}.bias"
UNIQUE_TENSORS = {  # a tensor that one layout alone has
    "mb1-ssd": "extras.0.2.weight",
    "mb1-ssd-lite": "extras.0.2.0.weight",
    "mb2-ssd-lite": "extras.0.conv.0.weight",
}
PYTORCH_SSD_CONFIG = override(
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


class LayerNames(NamedTuple):
    """A convolution and the norm behind it, in our names and theirs; None where there is no norm."""

    ours: str
    our_norm: str | None
    theirs: str
    their_norm: str | None


def is_pytorch_ssd(keys: Collection[str]) -> bool:
    """Whether state-dict ``keys`` are those of a network of pytorch-ssd, one that we have or another."""
    starts = {key.split(".")[0] for key in keys}
    return {"base_net", "classification_headers", "regression_headers"} <= starts


def read_pytorch_ssd(
    state: Mapping[str, Tensor], path: str, options: ImportOptions, *, beside: Path | None = None
) -> Imported:
    """The detector of a state dict, for inputs of ``options.image_size``, 300 pixels by default.

    A label file ``beside`` the source names its classes where ``options`` do not.

    Raises:
        CheckpointError: another network of theirs, tensors that are missing, unused or of another shape, or no names
            for the classes.
        ConfigError: pictures were given for a layout that has norms.
    """
    layout = next((name for name, mark in UNIQUE_TENSORS.items() if mark in state), None)
    if layout is None or LAST_LOGITS not in state:
        expected = ", ".join(f"{mark} ({name})" for name, mark in UNIQUE_TENSORS.items())
        raise CheckpointError(f"{path}: read as {PYTORCH_SSD}, but expected {LAST_LOGITS} and one of {expected}")
    options.refuse_anchor_order(path, f"{PYTORCH_SSD} {layout}")
    if layout not in WITHOUT_NORMS:
        options.refuse_pictures(path, f"{PYTORCH_SSD} {layout}")
    num_logits = count_logits(state[LAST_LOGITS], LAST_LOGITS, SHAPES_PER_CELL, path)
    classes = name_rows(num_logits, options.class_names, "softmax", path, beside=beside, coco=None)
    side = options.image_size or PYTORCH_SSD_CONFIG.input.size[0]
    config = override(
        PYTORCH_SSD_CONFIG,
        class_names=classes.names,
        image_size=(side, side),
        anchors=options.anchors or pytorch_ssd_anchors(side),
        **LAYOUTS[layout],
    )
    mapping = WeightMapping(state, path, f"{PYTORCH_SSD} {layout}")
    for layer in (*_backbone(layout), *_extra_layers(layout), *_heads(layout)):
        _move(mapping, layer, config.layers.norm_eps)
    imported = replace(mapping.complete(config), notes=classes.notes)
    return calibrate_restored_norms(imported, options.pictures) if layout in WITHOUT_NORMS else imported


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


def _move(mapping: WeightMapping, layer: LayerNames, norm_eps: float) -> None:
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
    if f"{theirs}.{BATCH_COUNTER}" in mapping.tensors:
        mapping.move(f"{theirs}.{BATCH_COUNTER}", f"{ours}.{BATCH_COUNTER}")
    else:
        mapping.make(f"{ours}.{BATCH_COUNTER}", torch.tensor(0), "PyTorch before 0.4.1 did not count")


def _backbone(layout: str) -> Iterator[LayerNames]:
    def layer(block: int, ours: tuple[str, str], theirs: tuple[str, str]) -> LayerNames:
        mine, source = f"backbone.features.{block}.", f"base_net.{block}."
        return LayerNames(mine + ours[0], mine + ours[1], source + theirs[0], source + theirs[1])

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


def _extra_layers(layout: str) -> Iterator[LayerNames]:
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
            yield LayerNames(f"{ours}.0", f"{ours}.1", theirs + conv, None if norm is None else theirs + norm)


def _heads(layout: str) -> Iterator[LayerNames]:
    for ours, theirs in (("classification", "classification_headers"), ("regression", "regression_headers")):
        for number in range(MAPS):
            mine, source = f"head.{ours}.{number}", f"{theirs}.{number}"
            if layout == "mb1-ssd" or number == MAPS - 1:
                yield LayerNames(f"{mine}.0", None, source, None)
            elif layout == "mb1-ssd-lite":
                yield LayerNames(f"{mine}.0.0", f"{mine}.0.1", f"{source}.0", None)
                yield LayerNames(f"{mine}.1", None, f"{source}.2", None)
            else:
                yield LayerNames(f"{mine}.0.0", f"{mine}.0.1", f"{source}.0", f"{source}.1")
                yield LayerNames(f"{mine}.1", None, f"{source}.3", None)
