"""Which split is to train on and which to validate on, by their names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import NamedTuple

from ssdlite.errors import DataError

UNION_NAMES = ("trainval",)  # of train and val
TRAIN_NAMES = ("train", "training", "trainval")  # whatever their case
VAL_NAMES = ("val", "valid", "validation", "validate", "minival")
TEST_NAMES = ("test", "testing")  # scored when nothing else is there, and never chosen on unless asked for
ONE_SPLIT = (
    ("train", "training"),
    ("val", "valid", "validation", "validate"),
    ("test", "testing"),
)  # each may be called by the others


class SplitChoice(NamedTuple):
    """Names of splits; ``val`` None: the training split is to be divided."""

    train: str
    val: str | None


def split_to_evaluate(names: Sequence[str]) -> str:
    """The split to score on when none is named: val, else test, else the only one."""
    if len(names) == 1:
        return names[0]
    if found := first_of(VAL_NAMES + TEST_NAMES, names):
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
        train = first_of(TRAIN_NAMES, names) or (others[0] if len(others) == 1 else None)
        union = first_of(UNION_NAMES, names)
        if val is not None and train is not None and union is not None and not _contains(union, val):
            train = union  # where the test split is scored on, the validation split is learned from too
    if train is None:
        raise DataError(f"none of the splits {', '.join(names)} is called train; name one with --train-split")
    if val is None:
        others = [name for name in names if not _contains(train, name)]
        val = _same_year(train, others) or first_of(VAL_NAMES, others)
    return SplitChoice(train, val)


def match_split(name: str, names: Sequence[str], option: str) -> str:
    """``name`` itself, or the only one of ``names`` of that meaning: "train" means "Train", or "train2017"."""
    if name in names:
        return name
    meanings = next((group for group in ONE_SPLIT if name.lower() in group), (name,))
    alike = [other for other in names if any(_is_called(other, meaning) for meaning in meanings)]
    found = alike or [other for other in names if any(_is_called(other, meaning, year=True) for meaning in meanings)]
    if len(found) == 1:
        return found[0]
    near = found or difflib.get_close_matches(name, names)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise DataError(f"{option}: expected one of the splits {', '.join(names)}, got {name!r}{hint}")


def first_of(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    """The first of ``wanted`` among ``names``, with any year; of several years the last."""
    for name in wanted:
        for year in (False, True):
            if found := [other for other in names if _is_called(other, name, year=year)]:
                return max(found)
    return None


def _is_called(split: str, name: str, *, year: bool = False) -> bool:
    """Whatever the case of the letters; ``year``: with digits behind it."""
    return re.fullmatch(re.escape(name) + (r"[-_]?\d+" if year else ""), split, re.IGNORECASE) is not None


def _same_year(train: str, names: Sequence[str]) -> str | None:
    """ "val2014" for "train2014"."""
    year = re.fullmatch(r"\D*?([-_]?\d+)", train)
    candidates = [name + year[1] for name in VAL_NAMES] if year else []
    return next((name for candidate in candidates for name in names if _is_called(name, candidate)), None)


def _contains(train: str, name: str) -> bool:
    """Whether a split of this name is customarily a part of the training split: "val" of "trainval"."""
    part = re.fullmatch(r"(train|val)[-_]?\d*", name, re.IGNORECASE)
    return name == train or (train.lower().startswith("trainval") and part is not None)
