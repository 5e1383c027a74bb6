"""The one in-memory form of an annotated data set, whatever file format it came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Problem(NamedTuple):
    """Something wrong in a data set that was mended or skipped: which kind, in which file, at which object."""

    kind: str  # one of the keys of PROBLEM_KINDS
    file: str
    detail: str


PROBLEM_KINDS = {
    "clipped": "box reached outside the image and was clipped",
    "zero-size": "box without area was dropped",
    "not-finite": "box with NaN or infinite corners was dropped",
    "outside": "box wholly outside the image was dropped",
    "bad-image": "image missing, unreadable or of another size; skipped",
    "bad-annotation": "annotation malformed, or for an unknown image or class; skipped",
}


class Record(NamedTuple):
    """One image of an index and its objects. ``size`` is (height, width), as annotated."""

    image_id: int
    path: str
    size: tuple[int, int]
    boxes: npt.NDArray[np.float32]  # [N, 4] xyxy pixels
    labels: npt.NDArray[np.int64]  # [N] in 0..K-1
    areas: npt.NDArray[np.float32]  # [N] pixels; COCO's own ``area`` (of the mask) where there is one
    ignore: npt.NDArray[np.bool_]  # [N] COCO crowd regions and VOC ``difficult``


@dataclass(frozen=True)
class DetectionIndex:
    """All images and boxes of one split, in columns: compact, and shared as it is with loader processes.

    The objects of image ``i`` stand at ``offsets[i]:offsets[i + 1]`` of the object columns.
    """

    name: str  # for messages, e.g. "bccd/train"
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # the ids of the source file, by label; results are written with them
    paths: tuple[str, ...]
    image_ids: npt.NDArray[np.int64]  # [I]
    sizes: npt.NDArray[np.int32]  # [I, 2] height, width
    offsets: npt.NDArray[np.int64]  # [I + 1]
    boxes: npt.NDArray[np.float32]  # [T, 4] xyxy pixels
    labels: npt.NDArray[np.int64]  # [T]
    areas: npt.NDArray[np.float32]  # [T]
    ignore: npt.NDArray[np.bool_]  # [T]
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def record(self, i: int) -> Record:
        objects = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
        return Record(
            image_id=int(self.image_ids[i]),
            path=self.paths[i],
            size=(int(self.sizes[i, 0]), int(self.sizes[i, 1])),
            boxes=self.boxes[objects],
            labels=self.labels[objects],
            areas=self.areas[objects],
            ignore=self.ignore[objects],
        )

    def subset(self, keep: Sequence[int], name: str | None = None) -> DetectionIndex:
        """The images at the positions ``keep``, in that order."""
        counts = [int(self.offsets[i + 1] - self.offsets[i]) for i in keep]
        spans = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in keep]
        objects = np.concatenate([*spans, np.empty(0, np.int64)]).astype(np.int64)
        return replace(
            self,
            name=self.name if name is None else name,
            paths=tuple(self.paths[i] for i in keep),
            image_ids=self.image_ids[list(keep)],
            sizes=self.sizes[list(keep)],
            offsets=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64),
            boxes=self.boxes[objects],
            labels=self.labels[objects],
            areas=self.areas[objects],
            ignore=self.ignore[objects],
        )

    def problem_counts(self) -> dict[str, int]:
        return dict(Counter(problem.kind for problem in self.problems))
