"""What a detector found in one image. Needs numpy only, so that exported models answer in the same form."""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from ssdlite.errors import ConfigError, SsdliteError, quote
from ssdlite.files import counted, listing, write_atomically
from ssdlite.nms import Groups, grouped_nms

if TYPE_CHECKING:
    import pandas
    import PIL.Image
    import supervision

    from ssdlite.images.geometry import CropWindow
    from ssdlite.images.prediction import Picture

ONE_LABEL_IOU = 0.7  # above it, boxes of two classes are mostly one object: docs/results.md
SHOWN_SIDE = 1024  # pixels at most of a picture in a notebook, which stores it as text


class Detection(NamedTuple):
    """One object: ``box`` is (x0, y0, x1, y1) in pixels of the image, ``score`` in 0..1."""

    name: str
    score: float
    box: tuple[float, float, float, float]
    label: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"name": self.name, "label": self.label, "score": self.score, "box": list(self.box)}


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The objects found in one image, best score first.

    boxes [N, 4] float32 xyxy in pixels, scores [N] float32, labels [N] int64 in 0..K-1; ``class_names`` has the K
    names that ``labels`` index. Post-processing answers in pixels of the network's input, ``to_picture`` in the
    picture's own.

    ``found[0]`` is a ``Detection``; a slice, a mask or an array of places gives ``Detections``. Two are equal where
    boxes, scores, labels and names are; as they hold arrays, they have no hash.

    ``path`` is the file that the picture came from, None where ``predict`` was given pixels: results never keep a
    picture in memory. With it ``plot``, ``save`` and a notebook read the picture once it is to be shown.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    class_names: Sequence[str]
    path: str | None = None

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
        return Detections(self.boxes[place], self.scores[place], self.labels[place], self.class_names, self.path)

    def __repr__(self) -> str:
        return f"<Detections: {self.summary}>"

    @property
    def summary(self) -> str:
        """``3 objects: 2 cat (best 0.75), 1 dog (best 0.50)``."""
        best: dict[str, list[float]] = {}
        for one in self:
            best.setdefault(one.name, []).append(one.score)
        classes = listing(f"{len(scores)} {name} (best {max(scores):.2f})" for name, scores in best.items())
        return f"{counted(len(self), 'object')}{': ' if best else ''}{classes}"

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

    @property
    def areas(self) -> npt.NDArray[np.float32]:
        """[N] of the boxes, in square pixels."""
        areas: npt.NDArray[np.float32] = np.prod(self.boxes[:, 2:] - self.boxes[:, :2], axis=1)
        return areas

    def where(
        self,
        *,
        score_threshold: float = 0.0,
        classes: str | int | Iterable[str | int] | None = None,
        min_area: float = 0.0,
        max_area: float = math.inf,
    ) -> Detections:
        """Only those of ``classes`` (names or labels) with at least this score and an area of min to max square pixels.

        Raises:
            ConfigError: a class that the detector does not know, with those that it does.
        """
        keep = (self.scores >= score_threshold) & (self.areas >= min_area) & (self.areas <= max_area)
        if classes is not None:
            wanted = [classes] if isinstance(classes, (str, int, np.integer)) else classes
            keep &= np.isin(self.labels, [self._label(one) for one in wanted])
        return self[keep]

    def with_nms(self, iou_threshold: float = ONE_LABEL_IOU, *, class_agnostic: bool = False) -> Detections:
        """Without those that a better one of their class overlaps by more than ``iou_threshold``.

        With ``class_agnostic`` by more with a better one of any class: one label for an object. Of the same score the
        earlier is the better. Boxes without area overlap nothing.

        Raises:
            ValueError: a threshold out of 0..1.
        """
        if not 0 <= iou_threshold <= 1:
            raise ValueError(f"iou_threshold: expected 0 to 1, got {iou_threshold}")
        order = np.argsort(-self.scores, kind="stable")
        groups = Groups(np.zeros_like(self.labels) if class_agnostic else self.labels[order], len(order))
        order = order[groups.order]
        keep = order[grouped_nms(self.boxes[order].astype(np.float64), groups, iou_threshold)]
        return self[np.sort(keep)]

    def _label(self, name: str | int) -> int:
        names = tuple(self.class_names)
        if isinstance(name, str) and name in names:
            return names.index(name)
        if isinstance(name, (int, np.integer)) and 0 <= name < len(names):
            return int(name)
        raise ConfigError(
            f"classes: expected of {listing(names, 30)}, or labels 0..{len(names) - 1}, got {quote(name)}"
        )

    def to_picture(self, window: CropWindow, size: tuple[int, int]) -> Detections:
        """From pixels of the input, which shows ``window`` of a picture, to the picture's own.

        Boxes are clipped to its (height, width) ``size``; those without area there are left out.
        """
        height, width = size
        limits = np.array([width, height, width, height], np.float32)
        boxes = window.boxes_to_source(self.boxes).astype(np.float32).clip(0, limits)
        visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        return replace(self, boxes=boxes[visible], scores=self.scores[visible], labels=self.labels[visible])

    def plot(self, picture: Picture | None = None) -> PIL.Image.Image:
        """The picture with a box, a name and a score for each object; ``picture`` where ``path`` is not known.

        Raises:
            ValueError: neither is there.
            DataError: the file is gone, or cannot be decoded.
        """
        from PIL import Image

        from ssdlite.images.drawing import draw_detections_on
        from ssdlite.images.prediction import to_array

        picture = self.path if picture is None else picture
        if picture is None:
            raise ValueError("expected the picture, plot(picture): only detections in a file know theirs, got none")
        drawn = Image.fromarray(to_array(picture, 0))
        draw_detections_on(drawn, self)
        return drawn

    def save(self, path: Path | str, picture: Picture | None = None) -> None:
        """Write what ``plot`` draws, as the ending of ``path`` says: .png, .jpg, .webp, ...

        Raises:
            ConfigError: an ending that is of no picture. Besides what ``plot`` raises.
            OSError: ``path`` cannot be written.
        """
        from PIL import Image

        kind = Image.registered_extensions().get(Path(path).suffix.lower())
        if kind not in Image.SAVE:
            raise ConfigError(f"{path}: expected a name that ends as pictures do, .png or .jpg")
        drawn = self.plot(picture)
        write_atomically(path, lambda file: drawn.save(file, kind, quality=95))

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows: the picture, where it is known and still there, at most ``SHOWN_SIDE`` pixels wide."""
        try:
            drawn = self.plot()
        except (SsdliteError, ValueError):
            return None
        drawn.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        file = io.BytesIO()
        drawn.save(file, "PNG")
        return file.getvalue()

    def to_list(self) -> list[dict[str, Any]]:
        """Plain values for JSON: ``[{"name": ..., "label": ..., "score": ..., "box": [x0, y0, x1, y1]}]``."""
        return [one.to_dict() for one in self]

    def to_dict(self) -> dict[str, list[Any]]:
        """Plain values for JSON by column: boxes xyxy, scores, labels, names."""
        return {
            "boxes": self.boxes.tolist(),
            "scores": self.scores.tolist(),
            "labels": self.labels.tolist(),
            "names": self.names,
        }

    def to_coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Entries of COCO's result format: ``bbox`` is x, y, width, height.

        Args:
            category_ids: [K] by label, ``detector.config.category_ids`` for those of the training data; 1..K if not
                given.
        """
        ids = range(1, len(self.class_names) + 1) if category_ids is None else category_ids
        return [
            {"image_id": image_id, "category_id": ids[label], "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
            for _, score, (x0, y0, x1, y1), label in self
        ]

    def to_pandas(self) -> pandas.DataFrame:
        """A table with a row an object: name, label, score, x0, y0, x1, y1.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        pandas = _optional("pandas")
        columns = {"name": self.names, "label": self.labels, "score": self.scores}
        corners = dict(zip(("x0", "y0", "x1", "y1"), self.boxes.T, strict=True))
        return pandas.DataFrame(columns | corners)

    def to_supervision(self) -> supervision.Detections:
        """For the trackers and annotators of ``supervision``, which find the names under ``data["class_name"]``.

        Raises:
            ModuleNotFoundError: supervision is not installed.
        """
        detections: supervision.Detections = _optional("supervision").Detections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.labels,
            data={"class_name": np.array(self.names, dtype=np.str_)},
        )
        return detections

    @staticmethod
    def from_supervision(found: supervision.Detections, class_names: Sequence[str] | None = None) -> Detections:
        """What ``to_supervision`` gave, best score first, but for ``path``, which it does not have.

        Ids of tracks and masks have no place here and are left out.

        Args:
            class_names: [K] by label, which alone restores the whole list. If not given, it ends with the highest label
                that occurs: names are those of ``data["class_name"]``, and of a class that does not occur its label.

        Raises:
            ValueError: no scores or labels, or a label that has no name.
        """
        if found.confidence is None or found.class_id is None:
            raise ValueError("expected supervision's Detections with confidence and class_id, got None for one")
        labels = np.asarray(found.class_id, np.int64)
        if class_names is None:
            known = dict(zip(labels.tolist(), map(str, found.data.get("class_name", ())), strict=False))
            class_names = tuple(known.get(label, str(label)) for label in range(max(labels.tolist(), default=-1) + 1))
        if len(labels) and not (labels.min() >= 0 and labels.max() < len(class_names)):
            raise ValueError(f"expected class_id in 0..{len(class_names) - 1}, got {labels.min()} to {labels.max()}")
        scores = np.asarray(found.confidence, np.float32)
        order = np.argsort(-scores, kind="stable")
        boxes = np.asarray(found.xyxy, np.float32).reshape(-1, 4)
        return Detections(boxes[order], scores[order], labels[order], class_names)


def _optional(name: str) -> Any:
    """A package that only some need. Raises ModuleNotFoundError that says how to install it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        advice = f"pip install 'ssdlite[{name}]'"
        raise ModuleNotFoundError(f"this needs {name}, which is not installed: {advice}", name=name) from None
