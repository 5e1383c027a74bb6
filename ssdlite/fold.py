"""Batch norms folded into the convolutions before them: the same function in fewer steps, for inference and export."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def fold_batch_norms(module: M) -> M:
    """A copy in evaluation mode whose convolutions carry the batch norms that followed them; the rest is shared form.

    Every ``BatchNorm2d`` that stands right behind a ``Conv2d`` in an ``nn.Sequential`` becomes an ``nn.Identity``.
    Computed in float64, so that one rounding is all that the weights see.
    """
    folded = copy.deepcopy(module).eval()
    for block, name, conv, norm in find_conv_norm_pairs(folded):
        _fold(conv, norm)
        setattr(block, name, nn.Identity())
    return folded


def find_conv_norm_pairs(module: nn.Module) -> list[tuple[nn.Sequential, str, nn.Conv2d, nn.BatchNorm2d]]:
    """Every norm right behind a convolution: the ``nn.Sequential`` of both, the norm's name in it, and the two."""
    return [
        (block, name, conv, norm)
        for block in module.modules()
        if isinstance(block, nn.Sequential)
        for (_, conv), (name, norm) in pairwise(block.named_children())
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    ]


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None  # these networks keep running statistics
    factor = norm.weight.double() / torch.sqrt(variance.double() + norm.eps)
    bias = torch.zeros_like(factor) if conv.bias is None else conv.bias.double()
    kind = conv.weight.dtype
    conv.weight = nn.Parameter((conv.weight.double() * factor[:, None, None, None]).to(kind), requires_grad=False)
    conv.bias = nn.Parameter(((bias - mean.double()) * factor + norm.bias.double()).to(kind), requires_grad=False)
