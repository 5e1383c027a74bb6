"""The state dicts of torchvision's and timm's MobileNets, under the names of our backbones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ssdlite.errors import CheckpointError

IMAGENET: dict[str, Any] = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
TIMM_BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.(\w+)\.(\w+)")
V1_BLOCK = {"conv_dw": "depthwise.0", "bn1": "depthwise.1", "conv_pw": "pointwise.0", "bn2": "pointwise.1"}
V2_FIRST_BLOCK = {"conv_dw": "conv.0.0", "bn1": "conv.0.1", "conv_pw": "conv.1", "bn2": "conv.2"}
V2_BLOCK = {
    "conv_pw": "conv.0.0",
    "bn1": "conv.0.1",
    "conv_dw": "conv.1.0",
    "bn2": "conv.1.1",
    "conv_pwl": "conv.2",
    "bn3": "conv.3",
}
CENTRED: dict[str, Any] = {"mean": (127.5, 127.5, 127.5), "std": (127.5, 127.5, 127.5)}
COMMON: dict[str, Any] = {"padding": "symmetric", "activation": "relu6"}


@dataclass(frozen=True)
class BackboneWeights:
    """A classifier's weights under our names.

    Attributes:
        path: where they come from, for errors.
        owner: e.g. ``torchvision mobilenet_v2``.
        backbone: ours that they are of.
        options: fields of ``DetectorConfig`` that go with them: normalisation of the input, padding, norms' epsilon.
    """

    path: str
    owner: str
    backbone: str
    tensors: Mapping[str, Tensor] = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)


def recognise_backbone(state: Mapping[str, Tensor], path: str) -> BackboneWeights:
    """The backbone that a classifier's state dict is of, by its tensors' names.

    Raises:
        CheckpointError: of none that is known.
    """
    if "features.1.block.0.0.weight" in state:
        options = IMAGENET | COMMON | {"norm_eps": 1e-3}
        return BackboneWeights(path, "torchvision mobilenet_v3_large", "mobilenet_v3_large", state, options)
    if "features.1.conv.0.0.weight" in state:
        options = IMAGENET | COMMON | {"norm_eps": 1e-5}
        return BackboneWeights(path, "torchvision mobilenet_v2", "mobilenet_v2", state, options)
    if "conv_stem.weight" in state and "blocks.1.0.conv_pwl.weight" in state:
        options = IMAGENET | COMMON | {"norm_eps": 1e-5}
        return BackboneWeights(
            path, "timm mobilenetv2", "mobilenet_v2", _from_timm(state, V2_FIRST_BLOCK, V2_BLOCK), options
        )
    if "conv_stem.weight" in state and "blocks.1.0.conv_pw.weight" in state:
        options = CENTRED | COMMON | {"norm_eps": 1e-5}
        return BackboneWeights(path, "timm mobilenetv1", "mobilenet_v1", _from_timm(state, V1_BLOCK, V1_BLOCK), options)
    raise CheckpointError(
        f"{path}: expected the state dict of torchvision's mobilenet_v2 or mobilenet_v3_large, or of timm's "
        f"mobilenetv1 or mobilenetv2; got tensors such as {', '.join(list(state)[:3]) or 'none'}"
    )


def _from_timm(
    state: Mapping[str, Tensor], first_block: Mapping[str, str], other_blocks: Mapping[str, str]
) -> dict[str, Tensor]:
    """timm numbers blocks within stages, we number them throughout; names that are of neither stay as they are."""
    found = {name: match for name in state if (match := TIMM_BLOCK.fullmatch(name))}
    blocks = sorted({(int(match[1]), int(match[2])) for match in found.values()})
    numbers = {block: number for number, block in enumerate(blocks, 1)}
    ends = {"conv_stem": "features.0.0", "bn1": "features.0.1", "classifier": "classifier.1"}
    ends |= {"conv_head": f"features.{len(blocks) + 1}.0", "bn2": f"features.{len(blocks) + 1}.1"}

    def our_name(name: str) -> str:
        if name not in found:
            layer, _, entry = name.partition(".")
            return f"{ends[layer]}.{entry}" if layer in ends else name
        stage, position, layer, entry = found[name].groups()
        number = numbers[int(stage), int(position)]
        place = (first_block if number == 1 else other_blocks).get(layer)
        return name if place is None else f"features.{number}.{place}.{entry}"

    return {our_name(name): tensor for name, tensor in state.items()}
