"""The network that predicts: the detector's with its batch norms folded away, stored as the device likes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

from ssdlite.fold import fold_batch_norms
from ssdlite.loss import Outputs
from ssdlite.packed import can_pack, pack_convolutions
from ssdlite.weight_watch import WeightWatch, hooks_of

if TYPE_CHECKING:
    from ssdlite.detector import Detector


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
