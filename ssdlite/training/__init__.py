"""Training: ``train`` begins a run, ``resume`` goes on with one, as ``TrainOptions`` say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdlite.lazy import attach

if TYPE_CHECKING:
    from ssdlite.training.callbacks import Callback as Callback
    from ssdlite.training.callbacks import CheckpointEvent as CheckpointEvent
    from ssdlite.training.callbacks import EndEvent as EndEvent
    from ssdlite.training.callbacks import EpochEvent as EpochEvent
    from ssdlite.training.callbacks import StartEvent as StartEvent
    from ssdlite.training.callbacks import StepEvent as StepEvent
    from ssdlite.training.options import AugmentationOptions as AugmentationOptions
    from ssdlite.training.options import DatasetOptions as DatasetOptions
    from ssdlite.training.options import DetectorOptions as DetectorOptions
    from ssdlite.training.options import DistillationOptions as DistillationOptions
    from ssdlite.training.options import LossOptions as LossOptions
    from ssdlite.training.options import OptimizationOptions as OptimizationOptions
    from ssdlite.training.options import RunOptions as RunOptions
    from ssdlite.training.options import StartOptions as StartOptions
    from ssdlite.training.options import SystemOptions as SystemOptions
    from ssdlite.training.options import TrainOptions as TrainOptions
    from ssdlite.training.recipes import RECIPES as RECIPES
    from ssdlite.training.recipes import Recipe as Recipe
    from ssdlite.training.run_config import stored_options as stored_options
    from ssdlite.training.runs import resume as resume
    from ssdlite.training.runs import train as train
else:
    _EVENTS = ("Callback", "CheckpointEvent", "EndEvent", "EpochEvent", "StartEvent", "StepEvent")
    _OPTIONS = (
        "AugmentationOptions",
        "DatasetOptions",
        "DetectorOptions",
        "DistillationOptions",
        "LossOptions",
        "OptimizationOptions",
        "RunOptions",
        "StartOptions",
        "SystemOptions",
        "TrainOptions",
    )
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            **dict.fromkeys(_EVENTS, "ssdlite.training.callbacks"),
            **dict.fromkeys(_OPTIONS, "ssdlite.training.options"),
            "RECIPES": "ssdlite.training.recipes",
            "Recipe": "ssdlite.training.recipes",
            "stored_options": "ssdlite.training.run_config",
            "resume": "ssdlite.training.runs",
            "train": "ssdlite.training.runs",
        },
    )
