"""The books of an import: every tensor of the source and every tensor of ours, accounted for or refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdlite.checkpoint import Checkpoint
from ssdlite.config import DetectorConfig
from ssdlite.detector import detector_from_config
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.wording import listing


@dataclass(frozen=True)
class Imported:
    """A detector of ours with another project's weights.

    Attributes:
        checkpoint: the detector; complete, checked against its own description.
        source: what was read, e.g. ``TensorFlow Object Detection API (TFLite)``.
        matched: (ours, theirs) for every tensor that was taken.
        made: (ours, why) for tensors that the source does not hold but implies.
        left: (theirs, why) for tensors of the source that ours has no use for.
    """

    checkpoint: Checkpoint
    source: str
    matched: tuple[tuple[str, str], ...]
    made: tuple[tuple[str, str], ...]
    left: tuple[tuple[str, str], ...]


class Ledger:
    """Moves tensors of a source, by name, into a state dict of ours.

    ``path`` is what errors name. Nothing is lost silently: ``close`` refuses a source tensor that was neither moved nor
    left with a reason, and a tensor of ours that nothing filled.
    """

    def __init__(self, tensors: Mapping[str, Tensor], path: str, source: str) -> None:
        self.tensors = dict(tensors)
        self.path = path
        self.source = source
        self.weights: dict[str, Tensor] = {}
        self.matched: list[tuple[str, str]] = []
        self.made: list[tuple[str, str]] = []
        self.left: list[tuple[str, str]] = []
        self._missing: list[str] = []
        self._odd: set[str] = set()
        self._open = dict.fromkeys(self.tensors)

    def move(self, theirs: str, ours: str, convert: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
        """Take the source's ``theirs`` as our ``ours``; one that is not there is reported by ``close``."""
        if theirs not in self.tensors:
            self._missing.append(f"{theirs} -> {ours}")
            return
        self._open.pop(theirs, None)
        self.matched.append((ours, theirs))
        try:
            self.weights[ours] = convert(self.tensors[theirs])
        except (RuntimeError, IndexError):  # an axis or a row that is not there
            self.weights[ours] = self.tensors[theirs]
            self._odd.add(ours)

    def make(self, ours: str, value: Tensor, why: str) -> None:
        """Fill ``ours`` with what follows from the rest."""
        self.weights[ours] = value
        self.made.append((ours, why))

    def leave(self, names: Iterable[str], why: str) -> None:
        """Tensors of the source that are not needed."""
        for name in names:
            if name in self._open:
                del self._open[name]
                self.left.append((name, why))

    def close(self, config: DetectorConfig) -> Imported:
        """The detector that ``config`` describes, with what was moved.

        Raises:
            CheckpointError: tensors are missing on either side, left over, of another shape or not finite; names them.
        """
        faults = []
        if self._missing:
            faults.append(f"not in the file: {listing(self._missing)}")
        if self._open:
            faults.append(f"in the file, but with no place here: {listing(self._open)}")
        try:
            own = empty_tensors(config)
        except ConfigError as error:
            raise CheckpointError(f"{self.path}: {error}") from None
        unfilled = [name for name in own if name not in self.weights]
        if unfilled and not self._missing:
            faults.append(f"of ours, not filled: {listing(unfilled)}")
        wrong = [
            self._shape_fault(name, tensor)
            for name, tensor in own.items()
            if name in self.weights and (name in self._odd or self.weights[name].shape != tensor.shape)
        ]
        if wrong:
            faults.append(f"of another shape: {listing(wrong, separator='; ')}")
        if faults:
            raise CheckpointError(f"{self.path}: read as {self.source}, but {'; '.join(faults)}")
        weights = {name: self.weights[name].to(own[name].dtype).contiguous() for name in own}
        check_finite(weights, self.path, self.matched)
        checkpoint = Checkpoint(config, weights, path=self.path)
        return Imported(checkpoint, self.source, tuple(self.matched), tuple(self.made), tuple(self.left))

    def _shape_fault(self, ours: str, expected: Tensor) -> str:
        theirs = dict(self.matched).get(ours)
        got = list(self.weights[ours].shape)
        fault = f"{ours}: expected {list(expected.shape)}, got {got}"
        if theirs is None:
            return fault
        held = list(self.tensors[theirs].shape)
        return f"{theirs} -> {fault}" + ("" if held == got else f" ({held} in the file)")


def check_finite(weights: Mapping[str, Tensor], path: str, matched: Iterable[tuple[str, str]]) -> None:
    """Raises CheckpointError naming the tensors that have values which are not finite, and the source's of them."""
    theirs = dict(matched)
    odd = [
        f"{theirs[name]} -> {name}" if name in theirs else name
        for name, tensor in weights.items()
        if not bool(torch.isfinite(tensor).all())
    ]
    if odd:
        raise CheckpointError(f"{path}: values that are not finite in {listing(odd)}")


def empty_tensors(config: DetectorConfig) -> dict[str, Tensor]:
    """The state dict that a detector of ``config`` has: names, shapes and types without memory behind them."""
    with torch.device("meta"):
        return detector_from_config(config).state_dict()
