"""What a detector found in one image. Needs numpy only, so that exported models answer in the same form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Detection(NamedTuple):
    """One object: ``box`` is (x0, y0, x1, y1) in the image's own pixels, ``score`` in 0..1."""

    name: str
    score: float
    box: tuple[float, float, float, float]
    label: int


@dataclass(frozen=True)
class Detections:
    """The objects found in one image, best score first.

    boxes [N, 4] float32 xyxy in the image's own pixels, scores [N] float32, labels [N] int64 in 0..K-1;
    ``class_names`` has the K names that ``labels`` index.
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

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        for box, score, label in zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True):
            yield Detection(self.class_names[label], score, tuple(box), label)

    @property
    def names(self) -> list[str]:
        return [self.class_names[label] for label in self.labels.tolist()]

    def above(self, score_threshold: float) -> Detections:
        """Only the detections with ``score >= score_threshold``."""
        keep = self.scores >= score_threshold
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep], self.class_names)

    def to_list(self) -> list[dict[str, Any]]:
        """Plain values for JSON: ``[{"name": ..., "label": ..., "score": ..., "box": [x0, y0, x1, y1]}]``."""
        return [{"name": d.name, "label": d.label, "score": d.score, "box": list(d.box)} for d in self]
