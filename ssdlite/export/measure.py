"""How far an exported model is from PyTorch, on pictures that it was not traced with."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ssdlite.benchmark.timing import processor_name, take_turns, timed
from ssdlite.datasets.index import DetectionIndex
from ssdlite.detector import Detector
from ssdlite.errors import ExportError
from ssdlite.evaluation.coco import Evaluator
from ssdlite.evaluation.inference import detect_dataset
from ssdlite.export.graphs import build_graph
from ssdlite.export.options import GraphOptions
from ssdlite.images.geometry import ImageArray
from ssdlite.images.prediction import DetectionModel
from ssdlite.runtime.contract import OUTPUTS, LatencyFigure
from ssdlite.runtime.model import RuntimeDetector, load_model


def difference_from_pytorch(
    exported: RuntimeDetector, detector: Detector, options: GraphOptions, pictures: Sequence[ImageArray]
) -> float:
    """The largest absolute difference of any output on ``pictures``, from the same graph in float32 PyTorch.

    Of the nms variant only the scores are compared: neighbours of equal score may change places.
    """
    plain = GraphOptions(variant=options.variant, max_candidates=options.max_candidates)
    reference = build_graph(detector, plain)
    meanings = OUTPUTS[options.variant]
    largest = 0.0
    for picture in pictures:
        tensor, window = exported.preprocess(picture)
        pixels = torch.from_numpy(window.render(picture, exported.input_transform.fill)).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = dict(zip(meanings, reference(pixels), strict=True))
        found = exported.infer(tensor)
        for meaning in ("scores",) if options.variant == "nms" else meanings:
            largest = max(largest, float(np.abs(found[meaning] - expected[meaning].numpy()).max()))
    return largest


# --- How good and how fast an exported file is: measured on the file itself, by the runtime that apps use.

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
