"""Which class of a data set or of another detector is which of ours: by name."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ssdlite.datasets.image_files import read_sizes
from ssdlite.errors import DataError
from ssdlite.files import listing

NAMED = 20  # classes that an error lists


def match_classes(ours: Sequence[str], theirs: Sequence[str]) -> list[int | None]:
    """For each of our class names the place of theirs: the same name, else one that differs in case or spacing only."""
    exact = {name: label for label, name in reversed(list(enumerate(theirs)))}
    alike = {_plain_name(name): label for label, name in reversed(list(enumerate(theirs)))}
    return [exact.get(name, alike.get(_plain_name(name))) for name in ours]


def label_names(class_names: Sequence[str], known: Iterable[str]) -> dict[str, int]:
    """The label of every name of ``known`` that is one of ``class_names``, as ``match_classes`` sees it."""
    known = sorted(known)
    matches = match_classes(class_names, known)
    return {known[match]: label for label, match in enumerate(matches) if match is not None}


def select_classes(
    known: Sequence[str], classes: Sequence[str] | None, source: str, *, allow_absent: bool = False
) -> tuple[str, ...]:
    """The class names to use: all ``known`` ones, or ``classes`` in the order given.

    Raises:
        DataError: a name is given twice or is not known (with ``allow_absent``: none of them is, case and spacing
            aside).
    """
    if classes is None:
        return tuple(known)
    if len(set(classes)) != len(classes) or not classes:
        raise DataError(f"{source}: expected different class names, got {', '.join(classes) or 'none'}")
    unknown = [name for name in classes if name not in set(known)]
    if unknown and not (allow_absent and label_names(classes, known)):
        near = difflib.get_close_matches(unknown[0], known, n=3, cutoff=0.5)
        nearest_first = listing(near + [name for name in known if name not in near], NAMED)
        asked = listing([repr(name) for name in unknown])
        raise DataError(f"{source}: no class {asked}; known, nearest first: {nearest_first}")
    return tuple(classes)


def _plain_name(name: str) -> str:
    return "".join(character for character in name.casefold() if not character.isspace() and character not in "-_")


# --- The one in-memory form of an annotated data set, whatever file format it came from.


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


# --- What every reader shares: making boxes valid, counting mistakes, building the index.

SHOWN_IN_ERROR = 5
SHOWN_IN_NOTE = 3
CLIP_TOLERANCE = 0.5  # px; boxes that overshoot by less are clipped without a word: rounding, not a mistake
DROPPED = ("not-finite", "zero-size", "outside")
PHRASES = {  # kind: (one, several)
    "clipped": ("box clipped", "boxes clipped"),
    "zero-size": ("box dropped (zero-size)", "boxes dropped (zero-size)"),
    "not-finite": ("box dropped (not finite)", "boxes dropped (not finite)"),
    "outside": ("box dropped (outside the image)", "boxes dropped (outside the image)"),
    "bad-image": ("image skipped", "images skipped"),
    "bad-annotation": ("annotation skipped", "annotations skipped"),
}


class BadItems:
    """Gathers everything that cannot be used, so that a single error names it, or counts it with ``skip``."""

    def __init__(self, source: str, skip: bool) -> None:
        self.source = source
        self.skip = skip
        self.problems: list[Problem] = []

    def add(self, kind: str, file: str, detail: str) -> None:
        self.problems.append(Problem(kind, file, detail))

    def finish(self) -> list[Problem]:
        """The problems, to be counted.

        Raises:
            DataError: there are some and they are not to be skipped.
        """
        if self.problems and not self.skip:
            shown = "".join(f"\n  {p.file}: {p.detail}" for p in self.problems[:SHOWN_IN_ERROR])
            rest = len(self.problems) - SHOWN_IN_ERROR
            raise DataError(
                f"{self.source}: {len(self.problems)} of its images or annotations cannot be used:{shown}"
                + (f"\n  ... and {rest} more" if rest > 0 else "")
                + "\nMend them, or leave them out with --skip-bad (skip_bad=True)."
            )
        return self.problems


@dataclass(frozen=True)
class ImageColumns:
    """The usable images: ``sizes`` are (height, width)."""

    ids: Sequence[int]
    paths: Sequence[str]
    sizes: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class ObjectColumns:
    """Objects as the file has them, T rows: boxes xyxy pixels, NaN areas where the file states none."""

    images: npt.NDArray[np.int64]  # [T] position of the object's image
    boxes: npt.NDArray[np.float64]  # [T, 4]
    labels: npt.NDArray[np.int64]  # [T]
    areas: npt.NDArray[np.float64]  # [T]
    ignore: npt.NDArray[np.bool_]  # [T]
    where: Callable[[int], tuple[str, str]]  # row -> (file, object), for messages

    def take(self, keep: npt.NDArray[np.int64], images: npt.NDArray[np.int64]) -> ObjectColumns:
        """The rows ``keep``, now of the images at the positions ``images``."""
        where = self.where
        return ObjectColumns(
            images, self.boxes[keep], self.labels[keep], self.areas[keep], self.ignore[keep],
            lambda row: where(int(keep[row])),
        )  # fmt: skip


def usable_images(
    ids: Sequence[int], paths: Sequence[str], annotated: Sequence[tuple[int, int] | None], bad: BadItems
) -> tuple[ImageColumns, npt.NDArray[np.int64]]:
    """The images whose header can be read and agrees with the annotated (height, width), and where each went.

    The second value [I] maps the position of an image in the arguments to that in the result, -1 if bad.
    """
    sizes = read_sizes(paths, annotated)
    moved = np.full(len(paths), -1, np.int64)
    kept: list[int] = []
    good: list[tuple[int, int]] = []
    for i, size in enumerate(sizes):
        if isinstance(size, DataError):
            bad.add("bad-image", paths[i], str(size).removeprefix(f"{paths[i]}: "))
            continue
        moved[i] = len(kept)
        kept.append(i)
        good.append(size)
    return ImageColumns([ids[i] for i in kept], [paths[i] for i in kept], good), moved


def build_index(
    images: ImageColumns,
    objects: ObjectColumns,
    *,
    name: str,
    class_names: tuple[str, ...],
    category_ids: tuple[int, ...],
    problems: Sequence[Problem],
) -> DetectionIndex:
    """The index of ``images`` and their valid ``objects``; what had to be mended joins ``problems``."""
    order = np.argsort(objects.images, kind="stable")
    objects = objects.take(order, objects.images[order])
    sizes = np.array(images.sizes, np.int32).reshape(-1, 2)
    boxes, kinds = clean_boxes(objects.boxes, sizes[objects.images])
    mended = [Problem(str(kinds[row]), *objects.where(int(row))) for row in np.flatnonzero(kinds != "")]
    keep = np.flatnonzero(~np.isin(kinds, DROPPED))
    boxes, images_of = boxes[keep], objects.images[keep]
    measured = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    stated = objects.areas[keep]
    counts = np.bincount(images_of, minlength=len(images.paths))
    return DetectionIndex(
        name=name,
        class_names=class_names,
        category_ids=category_ids,
        paths=tuple(images.paths),
        image_ids=np.array(images.ids, np.int64),
        sizes=sizes,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=boxes,
        labels=objects.labels[keep],
        areas=np.where(np.isfinite(stated) & (stated > 0), stated, measured).astype(np.float32),
        ignore=objects.ignore[keep],
        problems=(*problems, *mended),
    )


def clean_boxes(
    boxes: npt.NDArray[np.float64], sizes: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.str_]]:
    """Clip boxes [T, 4] xyxy to images of ``sizes`` [T, 2] (height, width), and say what is wrong with each.

    The second value [T] is "" for a sound box, "clipped", or the reason to drop it, one of ``DROPPED``.
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


def problem_notes(index: DetectionIndex) -> list[str]:
    """One line per kind of problem: "2 boxes dropped (zero-size): a.xml object 3 (RBC); b.xml object 1"."""
    notes = []
    for kind, count in index.problem_counts().items():
        examples = [p for p in index.problems if p.kind == kind][:SHOWN_IN_NOTE]
        shown = "; ".join(f"{Path(p.file).name} {p.detail}" for p in examples)
        more = f"; and {count - len(examples)} more" if count > len(examples) else ""
        notes.append(f"{index.name}: {count} {PHRASES[kind][count > 1]}: {shown}{more}")
    return notes
