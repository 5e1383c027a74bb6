"""How many epochs fit into a time, by running a few steps and predictions of the run that is to be."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from ssdlite.datasets.dataset import Batch
from ssdlite.evaluation.inference import detect_dataset
from ssdlite.predictor import Predictor
from ssdlite.training.decide import EVALUATIONS

if TYPE_CHECKING:
    from ssdlite.training.trainer import Trainer

WARM_UP, LEAST_STEPS, MOST_STEPS = 3, 6, 40
LEAST_SECONDS = 8.0  # of steps, before they are trusted
TRIED_PICTURES = 24  # of the validation split
RESERVE = 0.03  # of the time, for saving and for drawing samples


def fit_epochs(seconds: float, trainer: Trainer) -> int:
    """The epochs that go into so many seconds with their evaluations, at least 1.

    ``trainer`` trains meanwhile: it is a copy of the one that is going to.
    """
    started = time.perf_counter()
    epoch = _seconds_of_epoch(trainer)
    evaluation = _seconds_of_evaluation(trainer)
    left = seconds * (1 - RESERVE) - (time.perf_counter() - started)
    with_every_evaluation = left / (epoch + evaluation)
    if with_every_evaluation > EVALUATIONS:
        return max(1, math.floor((left - EVALUATIONS * evaluation) / epoch))
    return max(1, math.floor(with_every_evaluation))


def _seconds_of_epoch(trainer: Trainer) -> float:
    batches = _endless(trainer)
    for batch in islice(batches, WARM_UP):
        trainer.step(batch.images, batch.boxes, batch.labels)
    steps, started, passed = 0, time.perf_counter(), 0.0
    while steps < MOST_STEPS and (steps < LEAST_STEPS or passed < LEAST_SECONDS):
        batch = next(batches)
        trainer.step(batch.images, batch.boxes, batch.labels).total.item()  # waits for a GPU
        steps, passed = steps + 1, time.perf_counter() - started
    return passed / steps * len(trainer.batches)


def _endless(trainer: Trainer) -> Iterator[Batch]:
    loader = trainer.build_loader()
    while True:
        yield from (batch for batch in loader if len(batch) > 1)


def _seconds_of_evaluation(trainer: Trainer) -> float:
    index, options = trainer.splits.val, trainer.options
    positions = range(min(TRIED_PICTURES, len(index)))
    predictor = Predictor(trainer.step.evaluated)
    started = time.perf_counter()
    for _ in detect_dataset(
        predictor, index, batch_size=options.settings.batch_size, positions=positions, skip_bad=options.dataset.skip_bad
    ):
        pass
    return (time.perf_counter() - started) / len(positions) * len(index) / trainer.processes.count
