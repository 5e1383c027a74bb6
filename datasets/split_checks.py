"""What a split must have to be trained or validated on, dividing one in two, and what to say about the two."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssdlite.datasets.formats.missing import describe_missing
from ssdlite.datasets.index import DetectionIndex, Problem, describe_causes, problem_notes
from ssdlite.errors import DataError
from ssdlite.files import counted

VAL_SHARE = 0.2  # of a data set that has to be divided
DIVIDED_TO_TRAIN = " (to train)"  # behind the name of the larger part
# With 50 objects a recall of 0.7 has a standard error of 0.065, and one object is worth 0.02; the objects of a picture
# are found or missed together, so that 50 in a few pictures say no more than a few.
LEAST_VAL_OBJECTS, LEAST_VAL_IMAGES = 50, 20


def require_objects(train: DetectionIndex) -> None:
    """A DataError with the causes where there is nothing to train on."""
    if not (~train.ignore).any():
        reasons = (
            [f"{len(train.labels)} crowd regions or difficult ones, which are ignored"] if len(train.labels) else []
        )
        reasons += [describe_causes(train.problems)] if train.problems else []
        raise DataError(
            f"{train.name}: expected objects of {', '.join(train.class_names)} to train on, found none in "
            f"{counted(len(train), 'image')}" + (f": {'; '.join(reasons)}" if reasons else "")
        )


def require_two_images(index: DetectionIndex, purpose: str = "to train on, so add pictures") -> None:
    """A DataError with the causes where there are less."""
    if len(index) < 2:
        causes = describe_unused(index.problems, index.paths)
        raise DataError(
            f"{index.name}: expected two or more usable images, got {len(index)}, {purpose}"
            + (f"; what cannot be used: {causes}" if causes else "")
        )


def describe_unused(problems: Sequence[Problem], present: Sequence[str] = ()) -> str:
    """Why what there is cannot be used, and where pictures may be that are missing; ``present``: those that are not."""
    return "; ".join(filter(None, [describe_causes(problems), describe_missing(problems, present)]))


def divide(index: DetectionIndex, seed: int) -> tuple[DetectionIndex, DetectionIndex]:
    """Divide an index by chance into 80 % to train and 20 % to validate on, at least one image each.

    Raises:
        DataError: it has fewer than two images.
    """
    require_two_images(index, "to divide into training and validation; training itself needs two, so add pictures")
    order = np.random.default_rng(seed).permutation(len(index))
    count = max(1, round(VAL_SHARE * len(index)))
    train = index.subset(sorted(order[count:].tolist()), index.name + DIVIDED_TO_TRAIN)
    return train, index.subset(sorted(order[:count].tolist()), f"{index.name} (to validate)")


def describe_splits(train: DetectionIndex, val: DetectionIndex) -> list[str]:
    """Counts, classes without objects, what was mended, and images that are in both splits."""
    notes = [_counts(index) for index in (train, val)]
    if absent := train.absent_classes():
        notes.append(f"{train.name}: no objects of {', '.join(absent)}")
    if not (~val.ignore).any():
        notes.append(f"warning: {val.name}: no objects to validate on; best.pt cannot be chosen by AP")
    if few := few_to_validate(val):
        notes.append(f"{val.name}: {few}")
    divided = train.problems is val.problems
    for index in (train,) if divided else (train, val):
        notes.extend(note for note in problem_notes(index) if note not in notes)
    if shared := set(train.paths) & set(val.paths):
        what = "all" if len(shared) == len(set(val.paths)) else f"{len(shared)}"
        notes.append(f"warning: {what} of the images to validate on are trained on too; the score will be too high")
    return notes


def _counts(index: DetectionIndex) -> str:
    ignored = int(index.ignore.sum())
    return (
        f"{index.name}: {counted(len(index), 'image')}, {counted(len(index.labels), 'object')} of "
        f"{counted(len(index.class_names), 'class')}"
        + (f", {ignored} of them crowd regions or difficult" if ignored else "")
    )


def few_to_validate(val: DetectionIndex) -> str:
    """What the figures of a small validation split are worth, and what to do; nothing where it is large enough."""
    objects, images = sum(val.object_counts().values()), len(val)
    if not objects or (objects >= LEAST_VAL_OBJECTS and images >= LEAST_VAL_IMAGES):
        return ""
    return (
        f"{counted(objects, 'object')} in {counted(images, 'picture')} to validate on: AP will differ by chance, one "
        f"object being {1 / objects:.2f} of the recall; annotate more, {LEAST_VAL_OBJECTS} objects in "
        f"{LEAST_VAL_IMAGES} pictures at least, before small differences are believed"
    )
