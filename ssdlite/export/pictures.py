"""The pictures that an export works with: to calibrate on, to score on, and to keep as golden ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.loading import find_splits, load_data
from ssdlite.datasets.shapes import draw_scene
from ssdlite.detector import Detector
from ssdlite.errors import DataError
from ssdlite.export.options import ExportOptions
from ssdlite.images.geometry import ImageArray
from ssdlite.images.reading import IMAGE_SUFFIXES, read_image

MAX_GOLDEN_SIDE = 1280  # larger pictures are passed over: a bundle is downloaded


@dataclass(frozen=True)
class ExportPictures:
    """Files to calibrate on, the split to score on, and where the golden pictures come from."""

    calibration: tuple[str, ...]
    calibration_name: str
    gate: DetectionIndex | None

    def calibration_arrays(self, limit: int | None = None) -> Iterator[ImageArray]:
        for path in self.calibration[:limit]:
            yield read_image(path)

    def golden(self, count: int) -> list[ImageArray]:
        """``count`` pictures of different shapes: of the data that are scored, else made-up scenes."""
        pictures = list(_from_index(self.gate, count)) if self.gate is not None else []
        rng = np.random.default_rng(0)
        while len(pictures) < count:
            pictures.append(draw_scene(rng, with_objects=True).image)
        return pictures


def find_pictures(options: ExportOptions, detector: Detector) -> ExportPictures:
    """The pictures that ``options`` names.

    Raises:
        DataError: a folder is missing or empty, or its annotations do not fit the detector's classes.
    """
    calibration: Sequence[str] = ()
    name, gate = "", None
    if options.data is not None:
        layout = find_splits(options.data)
        splits = load_data(
            options.data,
            train_split=options.calibration_split and layout.match(options.calibration_split, "--calibration-split"),
            val_split=options.split and layout.match(options.split),
            classes=detector.class_names,
            allow_absent=True,
        )
        gate = splits.val
        calibration, name = splits.train.paths, splits.train.name
    if options.calibration_folder is not None:
        calibration, name = _files_in(options.calibration_folder), options.calibration_folder.resolve().name
    return ExportPictures(_spread(calibration, options.calibration_images), name, gate)


def _spread(paths: Sequence[str], count: int) -> tuple[str, ...]:
    """``count`` of ``paths``, evenly taken from all of them: files are often sorted by scene."""
    if len(paths) <= count:
        return tuple(paths)
    return tuple(paths[position] for position in np.linspace(0, len(paths) - 1, count).round().astype(int))


def _files_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of pictures to calibrate on, found no folder of that name")
    files = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
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
