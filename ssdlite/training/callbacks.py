"""What a run tells those who follow it: typed events, and the loggers that write them down.

Only the first process of several tells anything. An error that a callback raises ends the run; what is saved stays.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ssdlite.errors import ConfigError
from ssdlite.training.options import TrainOptions

if TYPE_CHECKING:
    from torch import Tensor

    from ssdlite.evaluation.coco import Metrics

LoggerName = Literal["tensorboard", "wandb", "mlflow", "none"]
EpochRow = Mapping[str, Any]  # a line of metrics.jsonl


@dataclass(frozen=True)
class StartEvent:
    """The run begins or is resumed; ``history`` has the epochs that it has already."""

    folder: Path
    options: TrainOptions
    history: Sequence[EpochRow]


@dataclass(frozen=True)
class StepEvent:
    """The optimizer's step ``step`` of ``steps`` in the whole run is taken, both counted from 1.

    ``loss``, ``class_loss`` and ``box_loss`` are scalars on the device: to read one at each step makes a GPU wait.
    """

    epoch: int
    step: int
    steps: int
    lr: float
    loss: Tensor
    class_loss: Tensor
    box_loss: Tensor


@dataclass(frozen=True)
class EpochEvent:
    """Epoch ``epoch`` of ``epochs`` is over; ``metrics`` only where it was evaluated."""

    epoch: int
    epochs: int
    row: EpochRow
    metrics: Metrics | None


@dataclass(frozen=True)
class CheckpointEvent:
    """``path`` (last.pt) is written, and with ``is_best`` best.pt beside it."""

    epoch: int
    path: Path
    is_best: bool


@dataclass(frozen=True)
class EndEvent:
    """The run is complete; ``summary`` is what summary.json holds."""

    folder: Path
    summary: Mapping[str, Any]


class Callback:
    """Follows a run. Override what you want to hear of; the order is that of the methods."""

    def on_start(self, event: StartEvent) -> None: ...

    def on_step(self, event: StepEvent) -> None: ...

    def on_epoch(self, event: EpochEvent) -> None: ...

    def on_checkpoint(self, event: CheckpointEvent) -> None: ...

    def on_end(self, event: EndEvent) -> None: ...


class CallbackList(Callback):
    """Tells several, in their order."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks = tuple(callbacks)

    def on_start(self, event: StartEvent) -> None:
        for one in self.callbacks:
            one.on_start(event)

    def on_step(self, event: StepEvent) -> None:
        for one in self.callbacks:
            one.on_step(event)

    def on_epoch(self, event: EpochEvent) -> None:
        for one in self.callbacks:
            one.on_epoch(event)

    def on_checkpoint(self, event: CheckpointEvent) -> None:
        for one in self.callbacks:
            one.on_checkpoint(event)

    def on_end(self, event: EndEvent) -> None:
        for one in self.callbacks:
            one.on_end(event)


def figures_of(row: EpochRow) -> dict[str, float]:
    """What of an epoch's line is drawn over the epochs."""
    return {name: value for name, value in row.items() if name != "epoch" and value is not None}


class TensorBoardLogger(Callback):
    """Writes ``tensorboard/`` in the run folder. A run that is resumed writes its earlier epochs anew."""

    def __init__(self) -> None:
        require_package("tensorboard")
        self._writer: Any = None

    def on_start(self, event: StartEvent) -> None:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(event.folder / "tensorboard", ignore_errors=True)
        self._writer = SummaryWriter(str(event.folder / "tensorboard"))
        for row in event.history:
            self._log(row)

    def on_epoch(self, event: EpochEvent) -> None:
        self._log(event.row)

    def on_end(self, event: EndEvent) -> None:
        self._writer.close()

    def _log(self, row: EpochRow) -> None:
        for name, value in figures_of(row).items():
            self._writer.add_scalar(name, value, row["epoch"])
        self._writer.flush()


class WandbLogger(Callback):
    """Logs to Weights & Biases: to the run that is open in this process, else to one of its own (WANDB_PROJECT, ...).

    A run that is resumed is a new one there, with all of its epochs.
    """

    def __init__(self) -> None:
        self._wandb = require_package("wandb")
        self._run: Any = None
        self._is_own = False

    def on_start(self, event: StartEvent) -> None:
        self._is_own = self._wandb.run is None
        settings = {"name": event.folder.name, "dir": str(event.folder), "config": event.options.to_dict()}
        self._run = self._wandb.init(**settings) if self._is_own else self._wandb.run
        for row in event.history if self._is_own else ():
            self._run.log(figures_of(row), step=row["epoch"])

    def on_epoch(self, event: EpochEvent) -> None:
        self._run.log(figures_of(event.row), step=event.epoch)

    def on_end(self, event: EndEvent) -> None:
        self._run.summary.update({name: value for name, value in event.summary.items() if name != "per_class"})
        if self._is_own:
            self._run.finish()


class MlflowLogger(Callback):
    """Logs to MLflow: to the run that is open in this process, else to one of its own (MLFLOW_TRACKING_URI, ...)."""

    def __init__(self) -> None:
        self._mlflow = require_package("mlflow")
        self._is_own = False

    def on_start(self, event: StartEvent) -> None:
        self._is_own = self._mlflow.active_run() is None
        if self._is_own:
            self._mlflow.start_run(run_name=event.folder.name)
        parts = event.options.to_dict()
        parameters = {
            f"{part}.{name}": value
            for part, values in parts.items()
            if isinstance(values, dict)
            for name, value in values.items()
        }
        self._mlflow.log_params({"recipe": event.options.recipe_name, **parameters})
        for row in event.history:
            self._mlflow.log_metrics(figures_of(row), step=row["epoch"])

    def on_epoch(self, event: EpochEvent) -> None:
        self._mlflow.log_metrics(figures_of(event.row), step=event.epoch)

    def on_end(self, event: EndEvent) -> None:
        if self._is_own:
            self._mlflow.end_run()


LOGGERS: dict[str, type[Callback]] = {"tensorboard": TensorBoardLogger, "wandb": WandbLogger, "mlflow": MlflowLogger}


def build_loggers(name: LoggerName | None) -> list[Callback]:
    """That of ``--logger``; None is TensorBoard's where it is installed, and ``none`` is none.

    Raises:
        ConfigError: its package is not installed.
    """
    if name is None:
        name = "none" if importlib.util.find_spec("tensorboard") is None else "tensorboard"
    return [] if name == "none" else [LOGGERS[name]()]


def require_package(name: str) -> Any:
    """The logger's package. Raises ConfigError that says how to install it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigError(
            f"--logger {name} needs a package that is not installed: pip install 'ssdlite[{name}]'"
        ) from None
