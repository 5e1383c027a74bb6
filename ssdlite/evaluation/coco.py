"""COCO's evaluation, in bounded memory: some classes at a time.

By faster-coco-eval where it is installed (``pip install 'ssdlite[fast-eval]'``), else by pycocotools: the same figures.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ssdlite.datasets.index import DetectionIndex
from ssdlite.detections import Detections
from ssdlite.evaluation.analysis.curves import operating_points
from ssdlite.evaluation.analysis.matching import match
from ssdlite.runtime.operating_points import OperatingPoint

REPORTING = ("evaluate", "accumulate")  # methods of COCOeval that print
MOST_DETECTIONS = 100_000  # looked at together, where they are of more than one class
MOST_CLASSES_TOGETHER = 250  # 50 MB of precisions
MOST_CLASS_IMAGES = 200_000  # classes times images

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


class ClassScores(NamedTuple):
    """Of K classes, by IoU threshold, class, area and, for recalls, number of detections allowed; -1: no object."""

    precisions: FloatArray  # [10, K, 4], the mean over 101 recalls, with 100 detections
    recalls: FloatArray  # [10, K, 4, 3]


def score(truth: ScoredObjects, found: ScoredDetections, image_ids: IntArray, classes: int) -> ClassScores:
    """What COCOeval accumulates, some classes and the images that have to do with them at a time."""
    truth, found = (_by_class(rows, image_ids) for rows in (truth, found))
    parts = []
    for first, last in _class_ranges(found.labels, classes, len(image_ids)):
        evaluation = _evaluate(_within(truth, first, last), _within(found, first, last), first, last).eval
        parts.append(ClassScores(evaluation["precision"][..., -1].mean(axis=1), evaluation["recall"]))
    return ClassScores(*(np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True)))


def summarize(scores: ClassScores) -> list[float]:
    """The twelve figures of ``COCOeval.stats``; -1: no object."""
    precisions, recalls = scores
    tables = [precisions[..., 0], precisions[0, :, 0], precisions[5, :, 0]]
    tables += [precisions[..., area] for area in (1, 2, 3)]
    tables += [recalls[..., 0, limit] for limit in (0, 1, 2)]
    tables += [recalls[..., area, 2] for area in (1, 2, 3)]
    return [float(known.mean()) if (known := table[table > -1]).size else -1.0 for table in tables]


def _by_class(rows: Any, image_ids: IntArray) -> Any:
    """In the order of their classes, images by their rank: the fast library does not take every id."""
    rows = rows._replace(image_ids=np.searchsorted(np.sort(image_ids), rows.image_ids))
    order = np.argsort(rows.labels, kind="stable")
    return type(rows)(*(column[order] for column in rows))


def _class_ranges(labels: IntArray, classes: int, images: int) -> Iterator[tuple[int, int]]:
    """Ranges of classes, each of one, or of several within the bounds that stand above."""
    together = max(1, min(MOST_CLASSES_TOGETHER, MOST_CLASS_IMAGES // max(1, images)))
    counts = np.bincount(labels, minlength=classes).tolist()
    first = total = 0
    for label, count in enumerate(counts):
        if label > first and (total + count > MOST_DETECTIONS or label - first == together):
            yield first, label
            first, total = label, 0
        total += count
    yield first, classes


def _within(rows: Any, first: int, last: int) -> Any:
    """Of rows in the order of their classes."""
    start, stop = np.searchsorted(rows.labels, (first, last))
    return type(rows)(*(column[start:stop] for column in rows))


def _evaluate(truth: ScoredObjects, found: ScoredDetections, first: int, last: int) -> Any:
    """COCOeval behind its accumulation; labels are its category ids."""
    coco, coco_eval = _library()
    images = [{"id": image} for image in np.union1d(truth.image_ids, found.image_ids).tolist()]
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
    """The classes COCO and COCOeval, which print nothing."""
    if _has_fast_library():
        import faster_coco_eval as fast

        return fast.COCO, partial(fast.COCOeval_faster, print_function=lambda *_: None)
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return (
        type("QuietCOCO", (COCO,), {"createIndex": _without_print(COCO.createIndex)}),
        type("QuietCOCOeval", (COCOeval,), {name: _without_print(getattr(COCOeval, name)) for name in REPORTING}),
    )


def _without_print(function: Any) -> FunctionType:
    """The same function, to which ``print`` means nothing: standard output is not ours to redirect."""
    own_globals = {**function.__globals__, "print": lambda *_: None}
    return FunctionType(function.__code__, own_globals, function.__name__, function.__defaults__, function.__closure__)


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


# --- COCO's twelve figures for one split, from what a detector found.

FIGURES = {  # in the order of COCOeval.stats
    "AP": "average precision over IoU 0.50 to 0.95",
    "AP50": "where boxes count that overlap by half",
    "AP75": "and by three quarters",
    "AP_small": "of objects below 32 x 32 pixels",
    "AP_medium": "up to 96 x 96",
    "AP_large": "from there on",
    "AR1": "recall by the best detection of an image",
    "AR10": "by its ten best",
    "AR100": "by its hundred best",
    "AR_small": "of the small objects",
    "AR_medium": "of the medium ones",
    "AR_large": "of the large ones",
}


@dataclass(frozen=True)
class ClassMetrics:
    """Average precision of one class, in 0..1; None where the split has no object of it."""

    AP: float | None
    AP50: float | None
    AP75: float | None


@dataclass(frozen=True)
class Metrics:
    """COCO's figures, in 0..1: average precision (AP) and recall (AR) over IoU 0.50:0.95.

    AP50 and AP75 are at that one IoU; AR1, AR10 and AR100 allow that many detections an image. Small,
    medium and large are areas below 32^2, below 96^2 and above. None stands where there is no object to
    find (pycocotools' -1).

    ``operating_points``: for each class that is there and found, the score threshold with the best F1 at IoU 0.5.
    """

    AP: float | None
    AP50: float | None
    AP75: float | None
    AP_small: float | None
    AP_medium: float | None
    AP_large: float | None
    AR1: float | None
    AR10: float | None
    AR100: float | None
    AR_small: float | None
    AR_medium: float | None
    AR_large: float | None
    per_class: dict[str, ClassMetrics]
    operating_points: dict[str, OperatingPoint] = field(default_factory=dict)

    def figures(self) -> dict[str, float | None]:
        """The twelve figures alone, in COCO's order."""
        return {name: getattr(self, name) for name in FIGURES}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the figures, ``per_class: {name: {"AP": ..., ...}}`` and ``operating_points``."""
        return asdict(self)


class Evaluator:
    """Collects detections image by image and scores them against an index.

    Crowd regions and ``difficult`` objects follow COCO's crowd rule: they are not asked for, and detections
    inside them are not held against the detector. Images that were never updated count as images without
    detections.
    """

    def __init__(self, index: DetectionIndex) -> None:
        if len(np.unique(index.image_ids)) != len(index):
            raise ValueError(f"{index.name}: image ids must differ from each other to be scored")
        self.index = index
        self._results: dict[int, Detections] = {}  # by position in the index

    def reset(self) -> None:
        self._results = {}

    def update(self, position: int, detections: Detections) -> None:
        """Take the detections of the image at ``position`` in the index; a second call replaces the first."""
        if not 0 <= position < len(self.index):
            raise ValueError(f"{self.index.name}: expected a position in 0..{len(self.index) - 1}, got {position}")
        if tuple(detections.class_names) != self.index.class_names:
            raise ValueError(
                f"{self.index.name}: the detections' classes {list(detections.class_names)} "
                f"are not the index's {list(self.index.class_names)}"
            )
        self._results[int(position)] = detections

    def state(self) -> dict[int, Detections]:
        """What this process collected, for ``torch.distributed.all_gather_object``."""
        return dict(self._results)

    def merge(self, states: Iterable[Mapping[int, Detections]]) -> None:
        """Take over what other processes collected; an image that several of them saw counts once."""
        for state in states:
            for position, result in state.items():
                self._results.setdefault(position, result)

    def compute(self) -> Metrics:
        index, found = self.index, self._columns()
        truth = ScoredObjects(
            image_ids=np.repeat(index.image_ids, np.diff(index.offsets)),
            labels=index.labels,
            boxes_xywh=_to_xywh(index.boxes),
            areas=index.areas,
            ignore=index.ignore,
        )
        scores = score(truth, found, index.image_ids, len(index.class_names))
        figures = {name: _known(value) for name, value in zip(FIGURES, summarize(scores), strict=True)}
        return Metrics(
            **figures,
            per_class=_per_class(index.class_names, scores.precisions),
            operating_points=operating_points(index, match(index, self._results)),
        )

    def coco_results(self) -> list[dict[str, Any]]:
        """The detections as COCO's result format has them, with the data set's own image and category ids."""
        found = self._columns()
        columns = (
            found.image_ids.tolist(),
            np.asarray(self.index.category_ids)[found.labels].tolist(),
            found.boxes_xywh.tolist(),
            found.scores.tolist(),
        )
        return [
            {"image_id": image_id, "category_id": category_id, "bbox": box_xywh, "score": value}
            for image_id, category_id, box_xywh, value in zip(*columns, strict=True)
        ]

    def _columns(self) -> ScoredDetections:
        """Every detection, in the order of the index."""
        positions = sorted(self._results)
        results = [self._results[position] for position in positions]
        counts = [len(result.labels) for result in results]
        return ScoredDetections(
            image_ids=np.repeat(self.index.image_ids[positions], counts),
            labels=_join([result.labels for result in results], (0,), np.int64),
            boxes_xywh=_to_xywh(_join([result.boxes for result in results], (0, 4), np.float32)),
            scores=_join([result.scores for result in results], (0,), np.float32),
        )


def _join(arrays: list[npt.NDArray[Any]], empty: tuple[int, ...], kind: type) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(empty, kind), *arrays])


def _to_xywh(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """boxes [N, 4] xyxy -> x, y, width, height, in double precision as COCO's files are."""
    wide = boxes.astype(np.float64)
    return np.concatenate([wide[:, :2], wide[:, 2:] - wide[:, :2]], axis=1)


def _per_class(class_names: tuple[str, ...], precisions: FloatArray) -> dict[str, ClassMetrics]:
    """precisions [10 IoUs, K, 4 areas]."""
    everywhere = precisions[..., 0].T.tolist()  # thresholds are 0.50, 0.55, ...
    return {
        name: ClassMetrics(*(_known(value) for value in (float(np.mean(by_iou)), by_iou[0], by_iou[5])))
        for name, by_iou in zip(class_names, everywhere, strict=True)
    }


def _known(value: float) -> float | None:
    return None if value < 0 else float(value)
