"""What an exported model is measured on, and how: its distance from PyTorch, its accuracy, its latency."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ssdlite.benchmark.timing import processor_name, take_turns, timed
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.loading import DataLayout, find_splits, load_data
from ssdlite.datasets.shapes import draw_scene
from ssdlite.detections import Detections
from ssdlite.detector import Detector
from ssdlite.errors import DataError, ExportError
from ssdlite.evaluation.coco import Evaluator
from ssdlite.evaluation.inference import detect_dataset
from ssdlite.export.graphs import build_graph
from ssdlite.export.options import ExportOptions, GraphOptions
from ssdlite.images.geometry import ImageArray
from ssdlite.images.prediction import DetectionModel
from ssdlite.images.reading import is_picture_name, read_image
from ssdlite.nms import pairwise_iou
from ssdlite.runtime.contract import OUTPUTS, LatencyFigure
from ssdlite.runtime.files import installed_runtimes
from ssdlite.runtime.model import RuntimeDetector, load_model

MAX_GOLDEN_SIDE = 1280  # larger pictures are passed over: a bundle is downloaded
MATCHED_IOU = 0.5  # as COCO's evaluation matches
RUNS = 50  # of each file, for its latency


@dataclass(frozen=True)
class ExportPictures:
    """Files to calibrate on, the split to score on, and where the reference pictures come from."""

    calibration: tuple[str, ...]
    calibration_name: str
    gate: DetectionIndex | None

    def calibration_arrays(self, limit: int | None = None) -> Iterator[ImageArray]:
        for path in self.calibration[:limit]:
            yield read_image(path)

    def golden(self, count: int) -> list[ImageArray]:
        """``count`` pictures of different shapes: of the data that are scored, else synthetic scenes."""
        pictures = list(_from_index(self.gate, count)) if self.gate is not None else []
        rng = np.random.default_rng(0)
        while len(pictures) < count:
            pictures.append(draw_scene(rng, with_objects=True).image)
        return pictures


def find_pictures(options: ExportOptions, detector: Detector, run_split: str | None = None) -> ExportPictures:
    """The pictures that ``options`` names; scored is the split that the detector's run validated on, ``run_split``,
    where ``options`` names none and the data have it.

    Raises:
        DataError: a folder is missing or empty, or its annotations do not fit the detector's classes.
    """
    calibration: Sequence[str] = ()
    name, gate = "", None
    if options.data is not None:
        layout = find_splits(options.data, options.reading)
        splits = load_data(
            layout,
            options.reading.loading(detector.class_names),
            train_split=options.calibration_split and layout.match(options.calibration_split, "--calibration-split"),
            val_split=_split_to_score(layout, options.split, run_split),
            allow_absent=True,
        )
        gate = splits.val
        calibration, name = splits.train.paths, splits.train.name
    if options.calibration_folder is not None:
        calibration, name = _files_in(options.calibration_folder), options.calibration_folder.resolve().name
    return ExportPictures(_spread(calibration, options.calibration_images), name, gate)


def _split_to_score(layout: DataLayout, asked: str | None, run_split: str | None) -> str | None:
    """None: the customary one. Raises DataError where the data have not what is asked for."""
    if asked is not None or run_split is None:
        return asked and layout.match(asked)
    try:
        return layout.match(run_split)
    except DataError:  # other data than those of the run
        return None


def _spread(paths: Sequence[str], count: int) -> tuple[str, ...]:
    """``count`` of ``paths``, evenly taken from all of them: files are often sorted by scene."""
    if len(paths) <= count:
        return tuple(paths)
    return tuple(paths[position] for position in np.linspace(0, len(paths) - 1, count).round().astype(int))


def _files_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of pictures to calibrate on, found no folder of that name")
    files = sorted(str(path) for path in folder.rglob("*") if is_picture_name(path.name))
    if not files:
        raise DataError(f"{folder}: expected pictures to calibrate on, found none")
    return files


def _from_index(index: DetectionIndex, count: int) -> Iterator[ImageArray]:
    """Pictures with objects, those of a shape not seen before first, and none that is very large."""
    usable = [i for i in range(len(index)) if len(index.record(i).boxes) and max(index.sizes[i]) <= MAX_GOLDEN_SIDE]
    shapes = [tuple(index.sizes[i].tolist()) for i in usable]
    usable = [i for _, i in sorted(enumerate(usable), key=lambda item: shapes.index(shapes[item[0]]) != item[0])]
    for i in usable[:count]:
        yield read_image(index.paths[i])


# --- On the file itself, by the runtime that apps use.


def difference_from_pytorch(
    exported: RuntimeDetector, detector: Detector, options: GraphOptions, pictures: Sequence[ImageArray]
) -> float:
    """The largest absolute difference of any output on ``pictures``, from the same graph in float32 PyTorch.

    Of the nms variant it is that of the scores of detections, matched: see ``compare_scores``.
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
        if options.variant == "nms":
            right = _unpadded(expected, exported)
            threshold = exported.contract.postprocess.operating_threshold
            largest = max(largest, compare_scores(right, exported.postprocess(found)[0], threshold))
        else:
            apart = [np.abs(found[meaning] - expected[meaning].numpy()).max() for meaning in meanings]
            largest = max(largest, *map(float, apart))
    return largest


def _unpadded(outputs: Mapping[str, torch.Tensor], exported: RuntimeDetector) -> Detections:
    """What the nms graph answers for one image, whose boxes are fractions, in input pixels."""
    height, width = exported.input_size
    boxes, scores, labels = (
        outputs[name][0][: int(outputs["count"])].numpy() for name in ("boxes", "scores", "labels")
    )
    sides = np.array([width, height, width, height], np.float32)
    return Detections(boxes * sides, scores, labels.astype(np.int64), exported.class_names)


def compare_scores(expected: Detections, found: Detections, threshold: float) -> float:
    """The largest difference in score of one object in two results, which are best first.

    Detections are one object where their label is the same and they overlap by ``MATCHED_IOU``, the best
    first. One that only one of them has counts with its score from ``threshold`` on: below it, which of many
    overlapping boxes is left over, or is the last that fits in, is a matter of rounding.
    """
    overlaps = pairwise_iou(expected.boxes, found.boxes) * (expected.labels[:, None] == found.labels)
    alone, largest = np.ones(len(found), bool), 0.0
    for score, row in zip(expected.scores.tolist(), overlaps, strict=True):
        left = np.where(alone, row, 0)
        partner = int(left.argmax()) if len(left) else -1
        if partner >= 0 and left[partner] >= MATCHED_IOU:
            alone[partner] = False
            largest = max(largest, abs(score - float(found.scores[partner])))
        elif score >= threshold:
            largest = max(largest, score)
    extra = found.scores[alone & (found.scores >= threshold)]
    return max(largest, float(extra.max(initial=0)))


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
    versions = installed_runtimes()
    for path in files:
        detector = load_model(path, threads=threads)
        batch = detector.model.input.batch or 1
        inputs = detector.preprocess(image)[0].repeat(batch, axis=0)
        calls[path] = timed(partial(detector.backend.run, inputs))
        runtimes[path] = f"{detector.model.runtime} {versions[detector.model.runtime]}"
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
