"""The network that predicts: the detector's with its batch norms folded away, stored as the device likes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ssdlite.fold import fold_batch_norms
from ssdlite.loss import Outputs
from ssdlite.packed import can_pack, pack_convolutions

if TYPE_CHECKING:
    from ssdlite.detector import Detector


SMALL = 4096  # values of a tensor that are all looked at
_version = attrgetter("_version")


class FusedNetwork:
    """What ``detector`` computes in evaluation mode, in fewer steps: no norms, no gradients, channels last."""

    def __init__(self, detector: Detector) -> None:
        width = detector.config.image_size[1]
        self.mean, self.std = (values.flatten().repeat(width) for values in (detector.mean, detector.std))
        self.network = fold_batch_norms(detector).to(memory_format=torch.channels_last)
        if detector.compile_options is not None:
            self.run = self._compiled(detector.compile_options)
            return
        if can_pack(self.network):
            pack_convolutions(self.network)
        self.run = self.network.forward_normalised

    def _compiled(self, options: dict[str, Any]) -> Callable[[Tensor], Outputs]:
        """With weights as constants on a CPU and one launch for all kernels on a GPU, unless ``options`` say how."""
        self.network.requires_grad_(False)
        if not options.keys() & {"backend", "mode", "options"}:
            on_gpu = self.mean.device.type == "cuda"
            options = {**options, **({"mode": "reduce-overhead"} if on_gpu else {"options": {"freezing": True}})}
        return cast(Callable[[Tensor], Outputs], torch.compile(self.network.forward_normalised, **options))

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Outputs:
        """images [B, 3, H, W] as ``Detector.forward`` takes them, stored channels last if they are to be quick."""
        return self.run(self._normalise(images))

    def _normalise(self, images: Tensor) -> Tensor:
        """Whole rows at once: three values at a time, one for each channel, take five times as long."""
        pixels = images.permute(0, 2, 3, 1)
        rows = (pixels.flatten(2).to(self.mean.dtype) - self.mean) / self.std
        return rows.view(pixels.shape).permute(0, 3, 1, 2)


class PlainNetwork:
    """The detector itself in evaluation mode, for one that a copy would not do justice to."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Outputs:
        training = [module for module in self.detector.modules() if module.training]
        self.detector.eval()
        try:
            outputs: Outputs = self.detector(images)
            return outputs
        finally:
            for module in training:
                module.training = True


def _hooks(modules: list[nn.Module]) -> list[dict[int, Any]]:
    """Where a user's hooks are, pruning's and old-style weight norms' too."""
    return [hooks for one in modules for hooks in (one._forward_hooks, one._forward_pre_hooks)]


class _Copy:
    """A fused network, and what the detector was like that it was made of.

    A detector is looked through at every prediction, so this goes by way of its modules' own dictionaries: to list
    ``parameters()`` and ``buffers()`` takes ten times as long.
    """

    def __init__(self, detector: Detector) -> None:
        modules = list(detector.modules())
        self.hooks = _hooks(modules)
        self.holders = [kept for one in modules for kept in (one._modules, one._parameters, one._buffers) if kept]
        self.held = self._now_held()
        self.tensors = [one for one in self.held if isinstance(one, Tensor)]
        self.counted = [one for one in self.tensors if not one.is_inference()]
        self.samples = _Samples(self.tensors)
        self.state = self._state()
        self.compile_options = detector.compile_options
        self.network = FusedNetwork(detector)

    def is_of(self, detector: Detector) -> bool:
        """As it now is."""
        held = self._now_held()
        return (
            not any(self.hooks)
            and len(held) == len(self.held)
            and all(map(is_, held, self.held))
            and self._state() == self.state
            and self.compile_options is detector.compile_options
        )

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


_copies: WeakKeyDictionary[Detector, _Copy] = WeakKeyDictionary()


def fused(detector: Detector) -> FusedNetwork | PlainNetwork:
    """What computes as this detector does in evaluation mode; made anew when a weight has changed.

    It is the detector itself, and no faster, where there are hooks or parametrisations: they belong to its own layers.
    """
    known = _copies.get(detector)
    if known is None or not known.is_of(detector):
        modules = list(detector.modules())
        if any(_hooks(modules)) or any(map(is_parametrized, modules)):
            return PlainNetwork(detector)
        known = _copies[detector] = _Copy(detector)
    return known.network
