"""What a run needs of its last checkpoint to go on, checked as a whole before any of it is used.

Anyone may have written or damaged the file, and the optimiser's fused kernels read as much memory as the weights have,
whatever its own tensors hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor

from ssdlite.checkpoint import Checkpoint, check_weights
from ssdlite.errors import CheckpointError, quote


class RunProgress(msgspec.Struct):
    """How far a run has come. ``epoch`` counts the finished ones."""

    epoch: int = 0
    images_seen: int = 0
    seconds: float = 0.0
    best_ap: float = -1.0
    skipped_images: int = 0


class _PlainState(msgspec.Struct):
    progress: RunProgress
    history: list[dict[str, float | int | None]]
    frozen_norms: list[str]
    average_updates: int


@dataclass(frozen=True)
class TrainingState:
    """What ``read_state`` gives.

    Attributes:
        history: the lines of metrics.jsonl so far.
        frozen_norms: names of the layers whose batch norms keep their statistics.
        average_updates: of the EMA.
        model: the weights that train, where the checkpoint's own are their average; else None.
        guide: weights of the assignment guide, where there is one.
        optimizer, scaler: their state dicts; the scaler's is empty where there is none.
    """

    progress: RunProgress
    history: list[dict[str, Any]]
    frozen_norms: tuple[str, ...]
    average_updates: int
    model: dict[str, Tensor] | None
    guide: dict[str, Tensor] | None
    optimizer: dict[str, Any]
    scaler: dict[str, Any]


def read_state(checkpoint: Checkpoint) -> TrainingState:
    """The training state of a checkpoint; ``check_fit`` compares it with the network and the optimiser.

    Raises:
        CheckpointError: there is none (``best.pt`` has none), or values are missing or of other types.
    """
    training = checkpoint.training
    names = _PlainState.__struct_fields__
    try:
        plain = msgspec.convert({name: training[name] for name in names if name in training}, _PlainState)
    except (msgspec.ValidationError, RecursionError, UnicodeEncodeError) as error:
        raise _refusal(checkpoint, str(error)) from None
    if any(not isinstance(row.get("epoch"), int) for row in plain.history):
        raise _refusal(checkpoint, "`history`: expected the number of the epoch in each line")
    described = sum(row["epoch"] != 0 for row in plain.history)  # 0 is the detector as it started
    if min(plain.progress.epoch, plain.average_updates) < 0 or described != plain.progress.epoch:
        raise _refusal(checkpoint, f"{plain.progress.epoch} epochs are finished, {described} are described")
    return TrainingState(
        progress=plain.progress,
        history=plain.history,
        frozen_norms=tuple(plain.frozen_norms),
        average_updates=plain.average_updates,
        model=None if training.get("model") is None else _state_dict(checkpoint, "model"),
        guide=None if training.get("guide") is None else _state_dict(checkpoint, "guide"),
        optimizer=_state_dict(checkpoint, "optimizer"),
        scaler=_state_dict(checkpoint, "scaler"),
    )


def _state_dict(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    part = checkpoint.training.get(name)
    if not isinstance(part, dict):
        raise _refusal(checkpoint, f"`{name}`: expected a state dict, got {type(part).__name__}")
    return part


def check_fit(
    state: TrainingState,
    checkpoint: Checkpoint,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    guide: torch.nn.Module | None = None,
) -> None:
    """Raises CheckpointError where the state is not of this network and this optimiser; names the tensor."""
    for weights in (checkpoint.weights, state.model):
        if weights is not None:
            check_weights(model, weights, checkpoint.path)
    if (guide is None) != (state.guide is None):
        wanted, got = ("no", "its") if guide is None else ("its", "no")
        raise _refusal(checkpoint, f"`guide`: expected {wanted} weights of an assignment guide, got {got} weights")
    if guide is not None and state.guide is not None:
        check_weights(guide, state.guide, checkpoint.path)
    fault = _optimizer_fault(state.optimizer, optimizer)
    if fault is not None:
        raise _refusal(checkpoint, f"`optimizer`: {fault}")


def _refusal(checkpoint: Checkpoint, reason: str) -> CheckpointError:
    return CheckpointError(f"{checkpoint.path}: its training state cannot be resumed: {reason}")


def _optimizer_fault(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> str | None:
    """What of an optimiser's state dict does not fit, compared with the one that it has now."""
    own, groups, entries = optimizer.state_dict()["param_groups"], state.get("param_groups"), state.get("state")
    if not isinstance(groups, list) or not isinstance(entries, dict) or len(groups) != len(own):
        return f"expected {len(own)} groups of parameters and their state"
    for number, (group, expected) in enumerate(zip(groups, own, strict=True)):
        if not isinstance(group, dict) or group.get("params") != expected["params"]:
            return f"param_groups[{number}]: expected {len(expected['params'])} parameters"
        for name, value in expected.items():
            if name != "params" and (fault := _setting_fault(name, group.get(name, value), value)):
                return f"param_groups[{number}]: {fault}"
    parameters = {
        number: parameter
        for group, expected in zip(optimizer.param_groups, own, strict=True)
        for number, parameter in zip(expected["params"], group["params"], strict=True)
    }
    for number, entry in entries.items():
        if number not in parameters or not isinstance(entry, dict):
            return f"state of {quote(number)}: there is no such parameter"
        for name, value in entry.items():
            if fault := _moment_fault(name, value, parameters[number]):
                return f"state of parameter {number}: {fault}"
    return None


def _setting_fault(name: str, value: Any, expected: Any) -> str | None:
    """Numbers stay numbers, switches switches."""
    number = (int, float)
    fits = type(value) is type(expected) or (
        isinstance(value, number) and isinstance(expected, number) and not isinstance(value, bool)
    )
    if isinstance(expected, (tuple, list)) and fits:
        fits = len(value) == len(expected) and all(isinstance(one, number) for one in value)
    return None if fits else f"{name}: expected a value like {expected}, got {quote(value)}"


def _moment_fault(name: Any, value: Any, parameter: Tensor) -> str | None:
    """Moments have the parameter's shape and type; the count of steps is one number."""
    shape: tuple[int, ...] = () if name == "step" else tuple(parameter.shape)
    if name == "step" and isinstance(value, (int, float)):
        return None
    if not isinstance(value, Tensor) or tuple(value.shape) != shape or value.dtype != parameter.dtype:
        got = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else quote(value)
        return f"{quote(name)}: expected {parameter.dtype} {list(shape)}, got {got}"
    return None
