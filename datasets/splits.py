"""Which split is to train on and which to validate on, and what to say about the two."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ssdlite.datasets.index import DetectionIndex, problem_notes
from ssdlite.errors import DataError

VAL_SHARE = 0.2  # of a data set that has to be divided
TRAIN_NAMES = ("train", "trainval")
VAL_NAMES = ("val", "valid", "validation", "test", "minival")


@dataclass(frozen=True)
class DataSplits:
    """What to train and validate on; ``notes`` are lines for people: what was found, counted and mended."""

    train: DetectionIndex
    val: DetectionIndex
    notes: tuple[str, ...]


class SplitChoice(NamedTuple):
    """Names of splits; ``val`` None: the training split is to be divided."""

    train: str
    val: str | None


def split_to_evaluate(names: Sequence[str]) -> str:
    """The split to score on when none is named: val, else test, else the only one."""
    if len(names) == 1:
        return names[0]
    if found := _first_of(VAL_NAMES, names):
        return found
    raise DataError(f"none of the splits {', '.join(names)} is called val or test; name one with --split")


def choose_splits(names: Sequence[str], train: str | None, val: str | None) -> SplitChoice:
    """The splits asked for, or the customary ones.

    Raises:
        DataError: a name is not known, or none is given and none of the names is customary.
    """
    if train is not None:
        train = match_split(train, names, "--train-split")
    if val is not None:
        val = match_split(val, names, "--val-split")
    if train is None:
        others = [name for name in names if name != val] or list(names)
        train = _first_of(TRAIN_NAMES, names) or (others[0] if len(others) == 1 else None)
    if train is None:
        raise DataError(f"none of the splits {', '.join(names)} is called train; name one with --train-split")
    if val is None:
        others = [name for name in names if not _contains(train, name)]
        val = _same_year(train, others) or _first_of(VAL_NAMES, others)
    return SplitChoice(train, val)


def match_split(name: str, names: Sequence[str], option: str) -> str:
    """``name`` itself, or the only one of ``names`` that adds digits to it: "train" means "train2017"."""
    if name in names:
        return name
    with_year = [other for other in names if re.fullmatch(re.escape(name) + r"[-_]?\d+", other)]
    if len(with_year) == 1:
        return with_year[0]
    near = with_year or difflib.get_close_matches(name, names)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise DataError(f"{option}: expected one of the splits {', '.join(names)}, got {name!r}{hint}")


def divide(index: DetectionIndex, seed: int) -> tuple[DetectionIndex, DetectionIndex]:
    """Divide an index by chance into 80 % to train and 20 % to validate on, at least one image each.

    Raises:
        DataError: it has fewer than two images.
    """
    if len(index) < 2:
        raise DataError(f"{index.name}: expected two or more images to divide into training and validation, got 1")
    order = np.random.default_rng(seed).permutation(len(index))
    count = max(1, round(VAL_SHARE * len(index)))
    train = index.subset(sorted(order[count:].tolist()), f"{index.name} (to train)")
    return train, index.subset(sorted(order[:count].tolist()), f"{index.name} (to validate)")


def describe_splits(train: DetectionIndex, val: DetectionIndex) -> list[str]:
    """Counts, classes without objects, what was mended, and images that are in both splits."""
    notes = [_counts(index) for index in (train, val)]
    present = set(train.labels[~train.ignore].tolist())
    if absent := [name for label, name in enumerate(train.class_names) if label not in present]:
        notes.append(f"{train.name}: no objects of {', '.join(absent)}")
    divided = train.problems is val.problems
    for index in (train,) if divided else (train, val):
        notes.extend(problem_notes(index))
    if shared := set(train.paths) & set(val.paths):
        what = "all" if len(shared) == len(set(val.paths)) else f"{len(shared)}"
        notes.append(f"warning: {what} of the images to validate on are trained on too; the score will flatter")
    return notes


def _counts(index: DetectionIndex) -> str:
    ignored = int(index.ignore.sum())
    return (
        f"{index.name}: {_number(len(index), 'image', 'images')}, "
        f"{_number(len(index.labels), 'object', 'objects')} of "
        f"{_number(len(index.class_names), 'class', 'classes')}"
        + (f", {ignored} of them crowd regions or difficult" if ignored else "")
    )


def _number(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _first_of(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    """The first of ``wanted`` among ``names``, with any year; of several years the last."""
    for name in wanted:
        if name in names:
            return name
        if with_year := [other for other in names if re.fullmatch(name + r"[-_]?\d+", other)]:
            return max(with_year)
    return None


def _same_year(train: str, names: Sequence[str]) -> str | None:
    """ "val2014" for "train2014"."""
    year = re.fullmatch(r"\D*?([-_]?\d+)", train)
    candidates = [name + year[1] for name in VAL_NAMES] if year else []
    return next((name for name in candidates if name in names), None)


def _contains(train: str, name: str) -> bool:
    """Whether a split of this name is customarily a part of the training split: "val" of "trainval"."""
    return name == train or (train.startswith("trainval") and re.fullmatch(r"(train|val)[-_]?\d*", name) is not None)
