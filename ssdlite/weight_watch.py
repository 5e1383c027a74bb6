"""Whether a network is still what it was: its layers, and every weight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

SMALL = 4096  # values of a tensor that are all looked at
_version = attrgetter("_version")


def hooks_of(modules: Iterable[nn.Module]) -> list[dict[int, Any]]:
    """Where forward hooks are kept: a user's, pruning's, an old-style weight norm's."""
    return [hooks for one in modules for hooks in (one._forward_hooks, one._forward_pre_hooks)]


class WeightWatch:
    """Remembers what ``module`` is made of.

    It is asked at every prediction, so it goes by way of the modules' own dictionaries: to list ``parameters()`` and
    ``buffers()`` takes ten times as long.
    """

    def __init__(self, module: nn.Module) -> None:
        modules = list(module.modules())
        self.hooks = hooks_of(modules)
        self.holders = [kept for one in modules for kept in (one._modules, one._parameters, one._buffers) if kept]
        self.held = self._now_held()
        self.tensors = [one for one in self.held if isinstance(one, Tensor)]
        self.counted = [one for one in self.tensors if not one.is_inference()]
        self.samples = _Samples(self.tensors)
        self.state = self._state()

    def is_unchanged(self) -> bool:
        held = self._now_held()
        same = len(held) == len(self.held) and all(map(is_, held, self.held))
        return same and not any(self.hooks) and self._state() == self.state

    def _now_held(self) -> list[object]:
        """The modules, parameters and buffers."""
        return list(chain.from_iterable(map(dict.values, self.holders)))  # type: ignore[arg-type]

    def _state(self) -> tuple[list[int], list[int], list[float]]:
        """Differs as soon as a tensor is stored elsewhere or was written to."""
        return list(map(Tensor.data_ptr, self.tensors)), list(map(_version, self.counted)), self.samples.now()


class _Samples:
    """Numbers that differ when tensors have been written to in ways that their versions do not count.

    Such are fused optimisers, batch norms, ``.data``, numpy and whatever is done to inference tensors. On a CPU every
    value of a small tensor counts, and of a large one the first filter and a value of every other; elsewhere one value.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        with torch.inference_mode():
            floats = [one.detach() for one in tensors if one.is_floating_point() and one.numel()]
            self.arrays = [part for one in floats if one.device.type == "cpu" for part in _parts(one)]
            self.corners = [one[(0,) * one.dim()] for one in floats if one.device.type != "cpu"]
        longest = max((len(one) for one in self.arrays), default=0)
        ramp = np.linspace(1, 2, longest, dtype=np.float32)  # so that the order of the values matters, and their sign
        self.factors = [ramp[: len(one)] for one in self.arrays]

    def now(self) -> list[float]:
        corners = torch.stack(self.corners).tolist() if self.corners else []
        return [*map(np.dot, self.arrays, self.factors), *corners]


def _parts(tensor: Tensor) -> Iterator[npt.NDArray[Any]]:
    """Views [N] of a CPU tensor's memory, as integers where numpy does not compute with its type."""
    values = tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.view(torch.int16)
    dense = values.permute(0, 2, 3, 1) if values.dim() == 4 and not values.is_contiguous() else values
    array = dense.numpy()
    if array.ndim < 2 or array.size <= SMALL:
        yield array.reshape(-1)
    else:
        filters = array.reshape(len(array), -1)
        yield filters[0]
        yield filters[:, 0]
