"""The network that predicts: a copy of the detector's with its batch norms folded away, stored as the CPU likes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ssdlite.fold import fold_batch_norms

if TYPE_CHECKING:
    from ssdlite.detector import Detector

State = tuple[tuple[int, int], ...]


class _Copy(NamedTuple):
    """``network`` was made when the detector's tensors were in ``state`` and the ``corners`` had ``values``."""

    state: State
    corners: list[Tensor]
    values: Tensor
    network: Detector


_copies: WeakKeyDictionary[Detector, _Copy] = WeakKeyDictionary()


def fused(detector: Detector) -> Detector:
    """A detector that computes what this one does in evaluation mode, in fewer steps: channels last, without norms.

    The copy is kept, and made anew when a weight has changed.
    """
    known = _copies.get(detector)
    if known is None or known.state != _state(detector) or not torch.equal(torch.stack(known.corners), known.values):
        known = _copies[detector] = _make(detector)
    return known.network


def _make(detector: Detector) -> _Copy:
    corners = [tensor.detach()[(0,) * tensor.dim()] for tensor in _tensors(detector) if tensor.is_floating_point()]
    network = fold_batch_norms(detector).to(memory_format=torch.channels_last)
    return _Copy(_state(detector), corners, torch.stack(corners), network)


def _state(detector: Detector) -> State:
    """Differs as soon as a weight is another tensor, or was written to by an operation that is counted.

    Some are not: fused optimisers, and batch norms. They change all of a tensor, or of most, which its corner shows.
    """
    return tuple((one.data_ptr(), 0 if one.is_inference() else one._version) for one in _tensors(detector))


def _tensors(detector: Detector) -> list[Tensor]:
    return [*detector.parameters(), *detector.buffers()]
