"""What a format of annotations is, and what all formats share: finding pictures, mending boxes, building the index."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ssdlite.datasets.formats.missing import describe_missing
from ssdlite.datasets.formats.options import ExifBoxes, ReadOptions
from ssdlite.datasets.formats.pictures import read_pictures, stored_sizes, turn_boxes
from ssdlite.datasets.formats.plausibility import BoxForm, require_pixels, require_plausible
from ssdlite.datasets.index import PROBLEM_KINDS, DetectionIndex, Problem, label_names, match_classes
from ssdlite.errors import DataError
from ssdlite.files import counted
from ssdlite.images.geometry import Size


class DataFormat(Protocol):
    """An annotation format. A new one is a module of this folder, and such an object in ``DATA_FORMATS``.

    It only reads its files. Class choice, box checks and the index are common to all formats, see ``build_index`` and
    ``ssdlite.datasets.loading``.

    Most collect images and objects with an ``AnnotationsBuilder``.

    Attributes:
        name: as in "COCO annotations".
        looked_for: the files by which it is recognized, for the message where no format is.
    """

    name: str
    looked_for: str

    def find_splits(self, root: Path) -> list[str]:
        """The splits of the data set in ``root``, an existing folder or file; none where it is not of this format."""

    def read_split(self, root: Path, split: str, bad: BadItems, options: ReadOptions) -> Annotations:
        """The images and objects of a split of ``find_splits``. What cannot be used goes to ``bad``.

        Of ``options`` a format takes what is its own, and ``images``; classes are chosen later, for all formats alike.

        Raises:
            DataError: nothing of it can be read, or a file name leads out of ``root`` (see ``ImageFiles``).
        """

    def order_classes(self, names: set[str]) -> Sequence[str] | None:
        """The class list of data in which ``names`` occur; None if each split comes with a list, as COCO's do.

        ``Annotations.class_order`` goes before it.
        """


Box = tuple[float, float, float, float]


class BadItems:
    """Gathers everything that cannot be used, so that a single error names it, or counts it with ``skip``."""

    SHOWN = 5

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.problems: list[Problem] = []
        self.mended: list[Problem] = []

    def add(self, kind: str, file: str | Path, detail: str) -> None:
        """``kind``: "bad-image" or "bad-annotation"."""
        self.problems.append(Problem(kind, str(file), detail))

    def mend(self, kind: str, file: str | Path, detail: str) -> None:
        """To be counted only: what was wrong is used, another way than it stands there."""
        self.mended.append(Problem(kind, str(file), detail))

    def finish(self, source: str, present: Sequence[str] = ()) -> list[Problem]:
        """The problems of ``source``, to be counted; ``present``: its pictures that are there.

        Raises:
            DataError: there are some and they are not to be skipped.
        """
        if self.problems and not self.skip:
            shown = "".join(f"\n  {p.file}: {p.detail}" for p in self.problems[: self.SHOWN])
            rest = len(self.problems) - self.SHOWN
            missing = describe_missing(self.problems, present)
            raise DataError(
                f"{source}: {len(self.problems)} of its images or annotations cannot be used:{shown}"
                + (f"\n  ... and {rest} more" if rest > 0 else "")
                + (f"\n{missing}." if missing else "")
                + "\nCorrect them, or leave them out with --skip-bad (skip_bad=True)."
            )
        return self.problems


@dataclass(frozen=True)
class Annotations:
    """One split as its files have it: I images, T objects of C classes, boxes xyxy, not yet clipped."""

    source: str  # for messages: the file or the folders
    image_ids: Sequence[int]  # [I]
    paths: Sequence[str]  # [I] picture files that exist
    stated_sizes: Sequence[Size | None]  # [I] as annotated, None where nothing is stated
    class_names: Sequence[str]  # [C]
    images: npt.NDArray[np.int64]  # [T] positions in ``paths``
    boxes: npt.NDArray[np.float64]  # [T, 4] in pixels, or with ``in_fractions`` of the picture's width and height
    classes: npt.NDArray[np.int64]  # [T] positions in ``class_names``
    where: Callable[[int], tuple[str, str]]  # row of an object -> (file, object), for messages
    areas: npt.NDArray[np.float64] | None = (
        None  # [T] pixels, of the mask; the box's own for None, NaN, more than the picture has
    )
    ignore: npt.NDArray[np.bool_] | None = None  # [T] crowd regions and difficult objects
    category_ids: Sequence[int] = ()  # [C]; where a format has none, results are written with 1, 2, ...
    notes: Sequence[str] = ()  # what was decided by looking, for people
    in_fractions: bool = False
    box_form: BoxForm = "corners"  # that the boxes are written in
    class_order: Sequence[str] = ()  # as a list beside the data has it, of the classes that occur and others
    unread: Collection[int] = ()  # positions in ``paths`` of pictures with an object that could not be read


class AnnotationsBuilder:
    """Gathers the pictures and objects of a split one by one, and makes ``Annotations`` of them."""

    def __init__(self, source: str, *, in_fractions: bool = False, box_form: BoxForm = "corners") -> None:
        self.source = source
        self.in_fractions = in_fractions
        self.box_form = box_form
        self.notes: list[str] = []
        self.class_order: Sequence[str] = ()
        self._paths: list[str] = []
        self._sizes: list[Size | None] = []
        self._ids: list[int] = []
        self._objects: list[tuple[int, str, Box, bool, str, str]] = []
        self._unread: set[int] = set()  # positions of pictures

    def add_image(self, path: str, size: Size | None = None, image_id: int | None = None) -> int:
        """Its position, for ``add_object``. ``size``: (height, width) as stated; ids are 1, 2, ... if not given."""
        self._paths.append(path)
        self._sizes.append(size)
        self._ids.append(len(self._paths) if image_id is None else image_id)
        return len(self._paths) - 1

    def add_object(
        self, image: int, class_name: str, box: Box, file: str | Path, detail: str, *, ignore: bool = False
    ) -> None:
        """``box``: xyxy, in pixels or fractions; ``file`` and ``detail`` ("line 3") tell people where it stands."""
        self._objects.append((image, class_name, box, ignore, str(file), detail))

    def add_unread(self, image: int, bad: BadItems, file: str | Path, detail: str) -> None:
        """What cannot be read of a picture goes to ``bad``: an object or all of them.

        A picture with nothing else is left out of the index: it has objects, and is no background.
        """
        bad.add("bad-annotation", file, detail)
        self._unread.add(image)

    def build(self, class_names: Sequence[str] | None = None) -> Annotations:
        """``class_names``: the format's own list; by default the names that occur, sorted."""
        objects = self._objects
        names = sorted({row[1] for row in objects}) if class_names is None else class_names
        class_of = {name: position for position, name in enumerate(names)}
        return Annotations(
            source=self.source,
            image_ids=self._ids,
            paths=self._paths,
            stated_sizes=self._sizes,
            class_names=names,
            images=np.array([row[0] for row in objects], np.int64),
            boxes=np.array([row[2] for row in objects], np.float64).reshape(-1, 4),
            classes=np.array([class_of[row[1]] for row in objects], np.int64),
            where=lambda row: (objects[row][4], f"{objects[row][5]} ({objects[row][1]})"),
            ignore=np.array([row[3] for row in objects], np.bool_),
            notes=self.notes,
            in_fractions=self.in_fractions,
            box_form=self.box_form,
            class_order=self.class_order,
            unread=self._unread,
        )


def natural_order(names: Iterable[str]) -> list[str]:
    """Numbers by their value, then other names alphabetically."""
    return sorted(names, key=lambda name: (not name.isdecimal(), len(name) if name.isdecimal() else 0, name))


def build_index(
    found: Annotations,
    class_names: tuple[str, ...],
    bad: BadItems,
    *,
    name: str,
    agree_with: DetectionIndex | None = None,
    exif_boxes: ExifBoxes = "auto",
) -> DetectionIndex:
    """The index of the usable images of ``found`` and their objects of ``class_names``, boxes clipped and valid.

    Pictures and boxes are upright: boxes that were drawn on pixels stored turned are turned with them, see
    ``read_pictures`` for ``exif_boxes``. A class of ``found`` that differs from one of ``class_names`` in case or
    spacing only is that one.

    ``agree_with``: of the training split, whose category ids are taken for classes that ``found`` has none for.

    Raises:
        DataError: some image or annotation cannot be used and bad ones are not to be skipped, or the boxes are plainly
            in another unit or order than their format's.
    """
    pictures = read_pictures(found.paths, found.stated_sizes, name, exif_boxes)
    for position, error in pictures.errors.items():
        bad.add("bad-image", found.paths[position], error)
    problems = bad.finish(found.source, found.paths)
    left_out = set(found.unread).difference(found.images.tolist())  # these have objects, and are no background
    kept = ~np.isin(pictures.positions, list(left_out))
    usable, sizes, turned = pictures.positions[kept].tolist(), pictures.sizes[kept], pictures.turns[kept]
    position_of = np.full(len(found.paths), -1, np.int64)
    position_of[usable] = np.arange(len(usable))
    label_by_name = label_names(class_names, found.class_names)
    label_of = np.array([label_by_name.get(class_name, -1) for class_name in found.class_names], np.int64)
    images, labels = position_of[found.images], label_of[found.classes]
    rows = np.flatnonzero((images >= 0) & (labels >= 0))
    rows = rows[np.argsort(images[rows], kind="stable")]
    other_spellings = _other_spellings(found, class_names, label_of, found.classes[rows])
    turns, row_sizes = turned[images[rows]], sizes[images[rows]]
    drawn_on = stored_sizes(sizes, turned)[:, ::-1].astype(np.float64)
    _require_plausible(found, images, drawn_on)
    given = in_pixels(found.boxes[rows], drawn_on[images[rows]]) if found.in_fractions else found.boxes[rows]
    boxes, kinds = clean_boxes(turn_boxes(given, turns, row_sizes), row_sizes)
    mended = [Problem(str(kinds[i]), *found.where(int(rows[i]))) for i in np.flatnonzero(kinds != "")]
    keep = ~np.isin(kinds, [kind for kind, row in PROBLEM_KINDS.items() if row.drops_box])
    rows, boxes = rows[keep], boxes[keep]
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    if found.areas is not None:
        stated = found.areas[rows]
        possible = (stated > 0) & (stated <= sizes[images[rows]].astype(np.float64).prod(axis=1))
        areas = np.where(possible, stated, areas)
    return DetectionIndex(
        name=name,
        class_names=class_names,
        category_ids=_category_ids(class_names, found, agree_with),
        paths=tuple(found.paths[i] for i in usable),
        image_ids=np.array([found.image_ids[i] for i in usable], np.int64),
        sizes=sizes,
        offsets=np.concatenate([[0], np.cumsum(np.bincount(images[rows], minlength=len(usable)))]).astype(np.int64),
        boxes=boxes,
        labels=labels[rows],
        areas=areas.astype(np.float32),
        ignore=np.zeros(len(rows), np.bool_) if found.ignore is None else found.ignore[rows],
        problems=(*problems, *bad.mended, *other_spellings, *mended),
        notes=(*found.notes, *pictures.notes),
    )


def in_pixels(boxes: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Boxes [T, 4] xyxy of fractions, of pictures of ``sizes`` [T, 2] or [2] (width, height)."""
    return np.asarray(boxes * np.tile(sizes, 2))


def _other_spellings(
    found: Annotations,
    class_names: Sequence[str],
    label_of: npt.NDArray[np.int64],
    classes: npt.NDArray[np.int64],
) -> list[Problem]:
    """Of the classes that are taken for one written otherwise, a line each; ``classes`` [N] of the objects in use."""
    counts = np.bincount(classes, minlength=len(found.class_names)).tolist()
    return [
        Problem(
            "other-spelling", found.source, f"{name!r} is taken for {class_names[label]!r} ({counted(count, 'object')})"
        )
        for name, label, count in zip(found.class_names, label_of.tolist(), counts, strict=True)
        if count and name != class_names[label]
    ]


def _require_plausible(found: Annotations, images: npt.NDArray[np.int64], sizes: npt.NDArray[np.float64]) -> None:
    """A DataError where the boxes, of all classes, are plainly in another unit or order than their format's.

    Args:
        images: [T] positions in ``sizes``, -1 where the picture cannot be used.
        sizes: [P, 2] width and height of the pictures as their boxes were drawn.
    """
    rows = np.flatnonzero(images >= 0)
    boxes = found.boxes[rows]

    def describe(row: int) -> str:
        file, what = found.where(int(rows[row]))
        return what if file == found.source else f"{Path(file).name}, {what}"

    if not found.in_fractions:
        require_pixels(boxes, found.source, describe)
    limits = np.ones((len(rows), 2)) if found.in_fractions else sizes[images[rows]]
    require_plausible(boxes, limits, found.box_form, found.source, describe)


def _category_ids(class_names: Sequence[str], found: Annotations, agree_with: DetectionIndex | None) -> tuple[int, ...]:
    """The file's ids of the classes; one that it lacks gets that of ``agree_with``, or if taken a new one."""
    if not found.category_ids:
        return tuple(range(1, len(class_names) + 1))
    taken, ids = set(found.category_ids), []
    for label, match in enumerate(match_classes(class_names, found.class_names)):
        if match is not None:
            ids.append(found.category_ids[match])
            continue
        new = agree_with.category_ids[label] if agree_with else max(taken) + 1
        ids.append(new if new not in taken else max(taken) + 1)
        taken.add(ids[-1])
    return tuple(ids)


CLIP_TOLERANCE = 0.5  # px; boxes that overshoot by less are clipped without a word: rounding, not a mistake


def clean_boxes(
    boxes: npt.NDArray[np.float64], sizes: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.str_]]:
    """Clip boxes [T, 4] xyxy to images of ``sizes`` [T, 2] (height, width), and say what is wrong with each.

    The second value [T] is "" for a sound box, otherwise one of ``PROBLEM_KINDS``.
    """
    kinds = np.full(len(boxes), "", dtype="<U12")
    finite = np.asarray(np.isfinite(boxes).all(axis=1))
    raw = np.where(finite[:, None], boxes, 0.0)
    limits = np.tile(sizes[:, ::-1].astype(np.float64), 2)
    inside = np.clip(raw, 0.0, limits)
    clipped = inside.astype(np.float32)
    overshoots = (np.abs(raw - inside) > CLIP_TOLERANCE).any(axis=1)
    has_area = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    had_area = (raw[:, 2:] > raw[:, :2]).all(axis=1)
    overlaps = (raw[:, :2] < limits[:, :2]).all(axis=1) & (raw[:, 2:] > 0).all(axis=1)
    kinds[overshoots] = "clipped"
    kinds[~has_area] = "zero-size"
    kinds[had_area & ~overlaps] = "outside"
    kinds[~finite] = "not-finite"
    return clipped, kinds
