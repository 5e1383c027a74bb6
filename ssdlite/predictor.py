"""Whether a network is still what it was: its layers, and every weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ssdlite.backbones.batch_norm import fold_batch_norms
from ssdlite.backbones.layers import SamePadConv2d
from ssdlite.heads.base import Outputs

if TYPE_CHECKING:
    from ssdlite.detector import Detector


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


# --- Convolutions as oneDNN runs them fastest: weights stored in its own layout, the activation in the same step.

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


# --- The network that predicts: the detector's with its batch norms folded away, stored as the device likes it.


class FusedNetwork:
    """What ``detector`` computes in evaluation mode, in fewer steps: no norms, no gradients, channels last."""

    def __init__(self, detector: Detector, *, for_autocast: bool = False) -> None:
        """``for_autocast``: without packed convolutions, which compute in float32 only."""
        width = detector.config.image_size[1]
        self.mean, self.std = (values.flatten().repeat(width) for values in (detector.mean, detector.std))
        self.network = fold_batch_norms(detector).to(memory_format=torch.channels_last)
        if detector.compile_options is not None:
            self.run = self._compiled(detector.compile_options)
            return
        if not for_autocast and can_pack(self.network):
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


class _Copy(NamedTuple):
    """``network`` was made of a detector whose weights ``watch`` looks after, under these circumstances."""

    watch: WeightWatch
    compile_options: dict[str, Any] | None
    for_autocast: bool
    network: FusedNetwork


_copies: WeakKeyDictionary[Detector, _Copy] = WeakKeyDictionary()


def fused(detector: Detector) -> FusedNetwork | PlainNetwork:
    """What computes as this detector does in evaluation mode; made anew when a weight has changed.

    It is the detector itself, and no faster, where there are hooks or parametrisations: they belong to its own layers.
    """
    known = _copies.get(detector)
    wanted = detector.compile_options, torch.is_autocast_enabled("cpu")
    if known is not None and (known.compile_options, known.for_autocast) == wanted and known.watch.is_unchanged():
        return known.network
    modules = list(detector.modules())
    if any(hooks_of(modules)) or any(map(is_parametrized, modules)):
        return PlainNetwork(detector)
    network = FusedNetwork(detector, for_autocast=wanted[1])
    _copies[detector] = _Copy(WeightWatch(detector), *wanted, network)
    return network
