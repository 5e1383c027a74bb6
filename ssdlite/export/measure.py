"""How good and how fast an exported file is: measured on the file itself, by the runtime that apps use."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from ssdlite.contract import LatencyFigure
from ssdlite.datasets.index import DetectionIndex
from ssdlite.errors import ExportError
from ssdlite.evaluator import Evaluator
from ssdlite.image import ImageArray
from ssdlite.inference import detect_dataset
from ssdlite.prediction import DetectionModel
from ssdlite.runtime import load_model
from ssdlite.timing import processor_name, take_turns, timed

RUNS = 50


class Accuracy(NamedTuple):
    """COCO's average precision over IoU 0.50:0.95, and at 0.50."""

    AP: float
    AP50: float


def measure_accuracy(
    model: DetectionModel, index: DetectionIndex, *, on_image: Callable[[], object] = lambda: None
) -> Accuracy:
    """Detect in all images of ``index`` and score the result, as ``ssdlite eval`` does; ``on_image`` after each.

    Raises:
        DataError: an image cannot be read.
        ExportError: the index has nothing to be found in it.
    """
    evaluator = Evaluator(index)
    for position, detections in detect_dataset(model, index):
        evaluator.update(position, detections)
        on_image()
    metrics = evaluator.compute()
    if metrics.AP is None or metrics.AP50 is None:
        raise ExportError(f"{index.name}: accuracy cannot be measured, since there are no objects in it")
    return Accuracy(metrics.AP, metrics.AP50)


def measure_latencies(
    files: Sequence[Path], image: ImageArray, *, threads: int = 1, runs: int = RUNS
) -> dict[Path, LatencyFigure]:
    """The median time of one image's network in each of ``files``, which have or are beside their contract.

    The files take turns, so that what disturbs the machine disturbs all of them: their ratios hold where the
    single figures do not. ``image`` [H, W, 3] is a picture of the kind to come; what the nms variant takes depends
    on what is in it.

    Raises:
        ContractError: a file cannot be loaded or run.
        ConfigError: fewer than 1 run.
    """
    calls: dict[Path, Callable[[], float]] = {}
    runtimes: dict[Path, str] = {}
    for path in files:
        detector = load_model(path, threads=threads)
        batch = detector.model.input.batch or 1
        inputs = detector.preprocess(image)[0].repeat(batch, axis=0)
        calls[path] = timed(partial(detector.backend.run, inputs))
        runtimes[path] = f"{detector.model.runtime} {version(detector.model.runtime)}"
    processor = processor_name()
    return {
        path: LatencyFigure(
            median_ms=round(statistics.median(times), 3),
            threads=threads,
            runs=runs,
            runtime=runtimes[path],
            processor=processor,
        )
        for path, times in take_turns(calls, runs).items()
    }
