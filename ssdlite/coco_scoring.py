"""COCO's evaluation, in bounded memory: some classes at a time.

By faster-coco-eval where it is installed (``pip install 'ssdlite[fast-eval]'``), else by pycocotools: the same figures.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

MOST_DETECTIONS = 100_000  # looked at together, where they are of more than one class

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class ScoredObjects(NamedTuple):
    """The ground truth, N objects: boxes x, y, width, height in pixels, and whether one is for crowds."""

    image_ids: IntArray  # [N]
    labels: IntArray  # [N]
    boxes_xywh: FloatArray  # [N, 4]
    areas: npt.NDArray[Any]  # [N]
    ignore: npt.NDArray[np.bool_]  # [N]


class ScoredDetections(NamedTuple):
    """What was found, N detections."""

    image_ids: IntArray  # [N]
    labels: IntArray  # [N]
    boxes_xywh: FloatArray  # [N, 4]
    scores: npt.NDArray[np.float32]  # [N]


def score(
    truth: ScoredObjects, found: ScoredDetections, image_ids: IntArray, classes: int
) -> tuple[list[float], FloatArray]:
    """The twelve figures of ``COCOeval.stats``, and precision [10 IoUs, 101 recalls, classes, 4 areas, 3 limits]."""
    images = [{"id": image_id} for image_id in image_ids.tolist()]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress with print
        evaluation = None
        precisions, recalls = [], []
        for first, last in _class_ranges(found.labels, classes):
            evaluation = _evaluate(_within(truth, first, last), _within(found, first, last), images, first, last)
            precisions.append(evaluation.eval["precision"])
            recalls.append(evaluation.eval["recall"])
        assert evaluation is not None  # there is at least one class
        precision = np.concatenate(precisions, axis=2)
        evaluation.eval |= {"precision": precision, "recall": np.concatenate(recalls, axis=1)}
        evaluation.summarize()
    return evaluation.stats.tolist(), precision


def _class_ranges(labels: IntArray, classes: int) -> Iterator[tuple[int, int]]:
    """Ranges of classes, each of one, or of several with at most MOST_DETECTIONS detections."""
    counts = np.bincount(labels, minlength=classes).tolist()
    first = total = 0
    for label, count in enumerate(counts):
        if label > first and total + count > MOST_DETECTIONS:
            yield first, label
            first, total = label, 0
        total += count
    yield first, classes


def _within(rows: Any, first: int, last: int) -> Any:
    chosen = (rows.labels >= first) & (rows.labels < last)
    return type(rows)(*(column[chosen] for column in rows))


def _evaluate(
    truth: ScoredObjects, found: ScoredDetections, images: list[dict[str, int]], first: int, last: int
) -> Any:
    """COCOeval behind its accumulation; labels are its category ids."""
    coco, coco_eval = _library()
    categories = [{"id": label, "name": str(label)} for label in range(first, last)]
    tables = []
    for entries in (
        _annotations(truth, truth.areas, truth.ignore),
        _annotations(found, found.boxes_xywh[:, 2:].prod(axis=1), np.zeros(len(found.labels)), score=found.scores),
    ):
        table = coco()
        table.dataset = {"images": images, "categories": categories, "annotations": entries}
        table.createIndex()
        tables.append(table)
    evaluation = coco_eval(*tables, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def _library() -> tuple[Any, Any]:
    """The classes COCO and COCOeval."""
    if _has_fast_library():
        import faster_coco_eval as fast

        return fast.COCO, partial(fast.COCOeval_faster, print_function=lambda *_: None)
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return COCO, COCOeval


def _has_fast_library() -> bool:
    return importlib.util.find_spec("faster_coco_eval") is not None


def _annotations(
    rows: ScoredObjects | ScoredDetections, areas: npt.NDArray[Any], crowds: npt.NDArray[Any], **more: npt.NDArray[Any]
) -> list[dict[str, Any]]:
    """Ids start at 1, because COCOeval takes a match with id 0 for none."""
    columns = {
        "image_id": rows.image_ids,
        "category_id": rows.labels,
        "bbox": rows.boxes_xywh,
        "area": areas,
        "iscrowd": crowds.astype(int),
        **more,
    }
    lines = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [{"id": identity, **dict(zip(columns, line, strict=True))} for identity, line in enumerate(lines, start=1)]
