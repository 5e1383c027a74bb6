"""The time from a picture file to detections, stage by stage."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssdlite.images.geometry import find_opencv
from ssdlite.images.prediction import DetectionModel, frame, to_pictures
from ssdlite.images.reading import read_image


class StageTimes(NamedTuple):
    """Milliseconds for one picture."""

    decode: float  # from the file's bytes to pixels
    resize: float  # to the network's input
    network: float
    postprocess: float  # to boxes in the picture's pixels, suppressed

    @property
    def total(self) -> float:
        return sum(self)


class Pipeline:
    """Detects in the next ``batch_size`` of ``pictures`` with every call, with ``threads`` that compute.

    ``model`` has to have been loaded for as many threads; torch and OpenCV have theirs in common, set here.
    """

    def __init__(self, model: DetectionModel, pictures: Sequence[Path], *, batch_size: int, threads: int) -> None:
        self._model = model
        self._pictures = itertools.cycle(pictures)
        self._batch_size = batch_size
        self._threads = threads

    def __call__(self) -> StageTimes:
        use_threads(self._threads)
        model = self._model
        paths = list(itertools.islice(self._pictures, self._batch_size))
        marks = [time.perf_counter()]
        pictures = [read_image(path) for path in paths]
        marks.append(time.perf_counter())
        framed = frame(pictures, model.input_transform)
        marks.append(time.perf_counter())
        outputs = model.infer_batch(framed.images)
        _wait_for(outputs)
        marks.append(time.perf_counter())
        to_pictures(model.select_batch(outputs), framed.windows, framed.sizes, model.class_names)
        marks.append(time.perf_counter())
        return StageTimes(*(1000 * (b - a) / self._batch_size for a, b in itertools.pairwise(marks)))


def use_threads(count: int) -> None:
    """Let OpenCV, and torch where it is loaded, compute with ``count`` threads."""
    if (cv2 := find_opencv()) is not None:
        cv2.setNumThreads(count)
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != count:
        torch.set_num_threads(count)


def _wait_for(outputs: Any) -> None:
    """A GPU answers before it is done."""
    if isinstance(outputs, tuple) and outputs[0].is_cuda:
        sys.modules["torch"].cuda.synchronize(outputs[0].device)
