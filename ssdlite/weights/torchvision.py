"""torchvision's ``ssdlite320_mobilenet_v3_large``, from its state dict."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from ssdlite.config import PRESETS, DetectorConfig, override
from ssdlite.errors import CheckpointError
from ssdlite.weights.mapping import Imported, ImportOptions, WeightMapping, count_slots, empty_tensors, name_slots

SOURCE = "torchvision ssdlite320_mobilenet_v3_large"
STEM = "backbone.features.0.0.0.weight"
TAIL = "backbone.features.1.3.0.weight"  # the last convolution of the backbone, which has half the channels
REDUCED_TAIL_CHANNELS = 480  # where it was not built on ImageNet weights
HEADS = {"classification": "head.classification_head.module_list", "regression": "head.regression_head.module_list"}
FIRST_LOGITS = f"{HEADS['classification']}.0.1.bias"
SHAPES_PER_CELL = 6
SPLIT_BLOCK = 13  # its expansion ends torchvision's first group of layers, the rest begins the second


def is_torchvision_ssd(keys: Collection[str]) -> bool:
    """Whether state-dict ``keys`` are those of an SSDLite of torchvision."""
    return STEM in keys and any(key.startswith(tuple(HEADS.values())) for key in keys)


def read_torchvision_ssd(state: Mapping[str, Tensor], path: str, options: ImportOptions) -> Imported:
    """The detector of a state dict. All foreground slots are kept, also COCO's ten that no object has: they take part
    in the softmax.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape, or there are no names for the classes.
        ConfigError: pictures were given.
    """
    options.refuse_pictures(path, SOURCE)
    for name in (FIRST_LOGITS, TAIL):
        if name not in state:
            raise CheckpointError(f"{path}: read as {SOURCE}, but not in the file: {name}")
    config = _config(state, path, options)
    mapping = WeightMapping(state, path, SOURCE)
    for ours in empty_tensors(config):
        mapping.move(_their_name(ours), ours)
    return mapping.close(config)


def download_torchvision_ssd() -> Mapping[str, Tensor]:
    """The published COCO weights, by torchvision's own loader, which keeps them in torch.hub's folder.

    Raises:
        OSError: no network, or not the file that torchvision expects.
    """
    from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights

    weights = SSDLite320_MobileNet_V3_Large_Weights.COCO_V1
    state: Mapping[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    return state


def _config(state: Mapping[str, Tensor], path: str, options: ImportOptions) -> DetectorConfig:
    slots = count_slots(state[FIRST_LOGITS], FIRST_LOGITS, SHAPES_PER_CELL, path)
    classes = name_slots(slots, options.class_names, "softmax", path)
    reduced = state[TAIL].shape[:1] == (REDUCED_TAIL_CHANNELS,)
    preset = PRESETS["ssdlite320_mobilenet_v3_large"]
    return override(
        preset,
        backbone="mobilenet_v3_large_reduced" if reduced else "mobilenet_v3_large",
        class_names=classes.names,
        category_ids=classes.category_ids,
        image_size=(options.image_size, options.image_size) if options.image_size else preset.input.size,
    )


def _their_name(ours: str) -> str:
    """Our ``backbone.features.14.block.0.0.weight`` -> torchvision's ``backbone.features.1.1.block.0.0.weight``."""
    part, *rest = ours.split(".")
    if part == "neck":
        layer, position, *rest = rest
        if position == "1":
            position = {"depthwise": "1", "pointwise": "2"}[rest.pop(0)]
        return ".".join(("backbone.extra", layer, position, *rest))
    if part == "head":
        return ".".join((HEADS[rest[0]], *rest[1:]))
    _, number, *rest = rest
    block = int(number) - SPLIT_BLOCK
    if block == 0:
        _, position, *rest = rest
        first = ("0", number) if position == "0" else ("1", "0", position)
    else:
        first = ("0", number) if block < 0 else ("1", str(block))
    return ".".join(("backbone.features", *first, *rest))
