"""Convolutions as oneDNN runs them fastest: weights stored in its own layout, the activation in the same step."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from ssdlite.backbones.layers import SamePadConv2d

M = TypeVar("M", bound=nn.Module)

# what follows a convolution -> the name and the numbers by which oneDNN knows it
ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
}


def can_pack(module: nn.Module) -> bool:
    """Whether this build of torch has the operators, and the module is one of float32 on a CPU."""
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
        and all(one.device.type == "cpu" and one.dtype == torch.float32 for one in module.parameters())
    )


def pack_convolutions(module: M) -> M:
    """The module, changed in place, to be used without gradients; ``can_pack`` has to hold.

    An activation right behind a convolution in an ``nn.Sequential`` becomes part of it.
    """
    for block in list(module.modules()):
        if isinstance(block, nn.Sequential):
            _join_activations(block)
        for name, child in block.named_children():
            if isinstance(child, nn.Conv2d):
                setattr(block, name, PackedConv2d(child))
    return module


def _join_activations(block: nn.Sequential) -> None:
    layers = [(name, layer) for name, layer in block.named_children() if not isinstance(layer, nn.Identity)]
    for (name, conv), (name_behind, behind) in pairwise(layers):
        if isinstance(conv, nn.Conv2d) and type(behind) in ACTIVATIONS:
            setattr(block, name, PackedConv2d(conv, *ACTIVATIONS[type(behind)]))
            setattr(block, name_behind, nn.Identity())


class PackedConv2d(nn.Module):
    """What ``conv`` and the activation behind it compute; the first input decides how the weights are stored."""

    def __init__(self, conv: nn.Conv2d, activation: str = "none", numbers: list[float] | None = None) -> None:
        super().__init__()
        self.pad = conv.pad if isinstance(conv, SamePadConv2d) else None
        self.weight = conv.weight.detach()
        self.bias = None if conv.bias is None else conv.bias.detach()
        assert not isinstance(conv.padding, str)
        self.geometry = list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups
        self.activation = activation, numbers or [], ""
        self.is_packed = False

    def forward(self, input: Tensor) -> Tensor:
        if self.pad is not None:
            input = self.pad(input)
        if not self.is_packed:
            pack = torch.ops.mkldnn._reorder_convolution_weight
            self.weight, self.is_packed = pack(self.weight, *self.geometry, list(input.shape)), True
        output: Tensor = torch.ops.mkldnn._convolution_pointwise(
            input, self.weight, self.bias, *self.geometry, *self.activation
        )
        return output
