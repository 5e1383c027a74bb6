"""The state dicts of torchvision's and timm's MobileNets, under the names of our backbones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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


class TimmLayout(NamedTuple):
    """A network of timm's; ``first_block`` and ``other_blocks`` hold our places of its blocks' layers."""

    owner: str
    backbone: str
    options: Mapping[str, Any]
    first_block: Mapping[str, str]
    other_blocks: Mapping[str, str]


TIMM_V1 = TimmLayout("timm mobilenetv1", "mobilenet_v1", CENTRED | COMMON | {"norm_eps": 1e-5}, V1_BLOCK, V1_BLOCK)
TIMM_V2 = TimmLayout(
    "timm mobilenetv2", "mobilenet_v2", IMAGENET | COMMON | {"norm_eps": 1e-5}, V2_FIRST_BLOCK, V2_BLOCK
)


@dataclass(frozen=True)
class BackboneWeights:
    """A classifier's weights under our names.

    Attributes:
        path: where they come from, for errors.
        owner: e.g. ``torchvision mobilenet_v2``.
        backbone: ours that they are of.
        names: the file's, by ours, where they differ.
        options: fields of ``DetectorConfig`` that go with them: normalisation of the input, padding, norms' epsilon.
    """

    path: str
    owner: str
    backbone: str
    tensors: Mapping[str, Tensor] = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict, repr=False)


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
        return _from_timm(TIMM_V2, state, path)
    if "conv_stem.weight" in state and "blocks.1.0.conv_pw.weight" in state:
        return _from_timm(TIMM_V1, state, path)
    raise CheckpointError(
        f"{path}: expected the state dict of torchvision's mobilenet_v2 or mobilenet_v3_large, or of timm's "
        f"mobilenetv1 or mobilenetv2; got tensors such as {', '.join(list(state)[:3]) or 'none'}"
    )


def _from_timm(layout: TimmLayout, state: Mapping[str, Tensor], path: str) -> BackboneWeights:
    blocks = _number_blocks(state)
    names = {_our_name(theirs, layout, blocks): theirs for theirs in state}
    tensors = {ours: state[theirs] for ours, theirs in names.items()}
    return BackboneWeights(path, layout.owner, layout.backbone, tensors, layout.options, names)


def _number_blocks(names: Iterable[str]) -> dict[tuple[str, str], int]:
    """timm's (stage, position) -> our number: we count the blocks of all stages, from 1."""
    found = {(match[1], match[2]) for name in names if (match := TIMM_BLOCK.fullmatch(name))}
    return {block: number for number, block in enumerate(sorted(found, key=lambda one: tuple(map(int, one))), 1)}


def _our_name(name: str, layout: TimmLayout, blocks: Mapping[tuple[str, str], int]) -> str:
    """A name that is of no known layer stays as it is."""
    if match := TIMM_BLOCK.fullmatch(name):
        stage, position, layer, entry = match.groups()
        number = blocks[stage, position]
        place = (layout.first_block if number == 1 else layout.other_blocks).get(layer)
        return name if place is None else f"features.{number}.{place}.{entry}"
    last = f"features.{len(blocks) + 1}"
    ends = {"conv_stem": "features.0.0", "bn1": "features.0.1", "conv_head": f"{last}.0", "bn2": f"{last}.1"}
    layer, _, entry = name.partition(".")
    place = (ends | {"classifier": "classifier.1"}).get(layer)
    return name if place is None else f"{place}.{entry}"
