"""What a detector found in one image. Needs numpy only, so that exported models answer in the same form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ssdlite.images.geometry import CropWindow


class Detection(NamedTuple):
    """One object: ``box`` is (x0, y0, x1, y1) in pixels of the image, ``score`` in 0..1."""

    name: str
    score: float
    box: tuple[float, float, float, float]
    label: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"name": self.name, "label": self.label, "score": self.score, "box": list(self.box)}


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects found in one image, best score first.

    boxes [N, 4] float32 xyxy in pixels, scores [N] float32, labels [N] int64 in 0..K-1; ``class_names`` has the K
    names that ``labels`` index. Post-processing answers in pixels of the network's input, ``to_picture`` in the
    picture's own.

    ``found[0]`` is a ``Detection``; a slice, a mask or an array of places gives ``Detections``. Two are equal where
    boxes, scores, labels and names are; as they hold arrays, they have no hash.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    class_names: Sequence[str]

    def __post_init__(self) -> None:
        count = len(self.scores)
        if self.boxes.shape != (count, 4) or self.labels.shape != (count,):
            raise ValueError(
                f"expected boxes [N, 4], scores [N], labels [N]; "
                f"got {self.boxes.shape}, {self.scores.shape}, {self.labels.shape}"
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        arrays = zip((self.boxes, self.scores, self.labels), (other.boxes, other.scores, other.labels), strict=True)
        return tuple(self.class_names) == tuple(other.class_names) and all(starmap(np.array_equal, arrays))

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        for box, score, label in zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True):
            yield Detection(self.class_names[label], score, tuple(box), label)

    @overload
    def __getitem__(self, place: int) -> Detection: ...

    @overload
    def __getitem__(self, place: slice | npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Detections: ...

    def __getitem__(self, place: int | slice | npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Detection | Detections:
        if isinstance(place, (int, np.integer)):
            label = int(self.labels[place])
            return Detection(
                self.class_names[label], self.scores[place].item(), tuple(self.boxes[place].tolist()), label
            )
        return Detections(self.boxes[place], self.scores[place], self.labels[place], self.class_names)

    @property
    def names(self) -> list[str]:
        return [self.class_names[label] for label in self.labels.tolist()]

    def above(self, score_threshold: float | npt.NDArray[np.float64]) -> Detections:
        """Only the detections with ``score >= score_threshold``: one for all, or an array [K], one for each class."""
        if isinstance(score_threshold, np.ndarray) and score_threshold.ndim:
            if score_threshold.shape != (len(self.class_names),):
                raise ValueError(
                    f"expected a threshold for each of {len(self.class_names)} classes, got {score_threshold.shape}"
                )
            return self[self.scores >= score_threshold.astype(np.float32)[self.labels]]
        return self[self.scores >= score_threshold]

    def to_picture(self, window: CropWindow, size: tuple[int, int]) -> Detections:
        """From pixels of the input, which shows ``window`` of a picture, to the picture's own.

        Boxes are clipped to its (height, width) ``size``; those without area there are left out.
        """
        height, width = size
        limits = np.array([width, height, width, height], np.float32)
        boxes = window.boxes_to_source(self.boxes).astype(np.float32).clip(0, limits)
        visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        return Detections(boxes[visible], self.scores[visible], self.labels[visible], self.class_names)

    def to_list(self) -> list[dict[str, Any]]:
        """Plain values for JSON: ``[{"name": ..., "label": ..., "score": ..., "box": [x0, y0, x1, y1]}]``."""
        return [one.to_dict() for one in self]
