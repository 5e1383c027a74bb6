"""MediaPipe Tasks' ObjectDetector on our LiteRT files: what it finds, and how much of the AP its rounding costs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import BenchmarksOptions
from ssdlite.benchmark.comparison import Comparison, Contestant
from ssdlite.console import print_line
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.loading import load_data
from ssdlite.detections import Detections
from ssdlite.evaluation.coco import Evaluator
from ssdlite.export.options import ExportOptions
from ssdlite.export.pipeline import export_bundle
from ssdlite.images.geometry import ImageArray
from ssdlite.images.reading import read_image
from ssdlite.runtime.model import RuntimeDetector, load_model

Finder = Callable[[ImageArray], Detections]
FILES = ("nms_fp32.tflite", "nms_int8.tflite")


def mediapipe(options: BenchmarksOptions) -> Iterator[Comparison]:
    """Whole predictions from a picture's pixels, with the AP of each on the validation split in the notes."""
    if options.checkpoint is None or not options.data:
        print_line("mediapipe: left out, it needs --checkpoint FILE --data FOLDER, and the package mediapipe")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "bundle")
        export = ExportOptions(
            checkpoint=options.checkpoint,
            output=folder,
            target=("litert",),
            precision=("fp32", "int8"),
            calibration_folder=None,
            data=options.data[0],
        )
        export_bundle(export, print_line)
        names = load_model(folder, FILES[0]).class_names
        index = load_data(options.data[0], export.reading.loading(names), allow_absent=True).val
        picture = read_image(index.paths[0])
        contestants, notes = [], []
        for file in FILES:
            ours, theirs = load_model(folder, file, threads=1), _object_detector(folder / file)
            ways = {
                "ours": partial(_ours, ours),
                "ours, boxes truncated to whole pixels": partial(_truncated, ours),
                "MediaPipe": partial(_theirs, ours, theirs),
                "MediaPipe, from pixels of the input's size": partial(_theirs_from_input, ours, theirs),
            }
            notes += [f"{file}, {name}: AP {_average_precision(find, index):.4f}" for name, find in ways.items()]
            contestants += [
                Contestant(f"{name}, {file}", partial(ways[name], picture)) for name in ("ours", "MediaPipe")
            ]
        yield Comparison(
            f"prediction of a picture, {index.name}", contestants, reference=contestants[0].name, notes=notes
        )


def _object_detector(path: Path) -> Any:
    from mediapipe.tasks.python import BaseOptions, vision

    least = load_model(path).contract.postprocess.score_threshold
    options = vision.ObjectDetectorOptions(
        base_options=BaseOptions(model_asset_path=str(path)), score_threshold=least, max_results=300
    )
    return vision.ObjectDetector.create_from_options(options)


def _average_precision(find: Finder, index: DetectionIndex) -> float:
    evaluator = Evaluator(index)
    for position, path in enumerate(index.paths):
        evaluator.update(position, find(read_image(path)))
    return evaluator.compute().AP or 0.0


def _ours(model: RuntimeDetector, image: ImageArray) -> Detections:
    return model.predict(image, score_threshold=0.0)[0]


def _truncated(model: RuntimeDetector, image: ImageArray) -> Detections:
    found = _ours(model, image)
    start, size = np.floor(found.boxes[:, :2]), np.floor(found.boxes[:, 2:] - found.boxes[:, :2])
    return Detections(np.hstack([start, start + size]), found.scores, found.labels, found.class_names)


def _theirs(model: RuntimeDetector, detector: Any, image: ImageArray) -> Detections:
    import mediapipe as mp

    picture = mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(image))
    found = detector.detect(picture).detections
    boxes = [(one.bounding_box.origin_x, one.bounding_box.origin_y) for one in found]
    sizes = [(one.bounding_box.width, one.bounding_box.height) for one in found]
    start = np.array(boxes, np.float32).reshape(-1, 2)
    corners = np.hstack([start, start + np.array(sizes, np.float32).reshape(-1, 2)])
    scores = np.array([one.categories[0].score for one in found], np.float32)
    labels = np.array([model.class_names.index(one.categories[0].category_name) for one in found], np.int64)
    return Detections(corners, scores, labels, model.class_names)


def _theirs_from_input(model: RuntimeDetector, detector: Any, image: ImageArray) -> Detections:
    """From the very pixels that our network sees; boxes are scaled to the picture."""
    window = model.input_transform.window(image.shape[:2])
    found = _theirs(model, detector, window.render(image, model.input_transform.fill))
    return found.to_picture(window, image.shape[:2])
