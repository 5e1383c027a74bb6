"""What a data check comes to: whether the data can be trained on, and what that needs."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from ssdlite.datasets.audit.checks import DataCheck, DataFinding
from ssdlite.datasets.formats.missing import describe_missing, missing_pictures, where_missing
from ssdlite.datasets.index import DetectionIndex, Problem
from ssdlite.datasets.split_checks import few_to_validate, require_objects, require_two_images
from ssdlite.errors import DataError
from ssdlite.files import counted

SOUND: Literal["sound"] = "sound"
USABLE: Literal["usable with notes"] = "usable with notes"
NOT_USABLE: Literal["not usable"] = "not usable"
MOSTLY_MISSING = 0.5  # of the pictures: then they lie elsewhere, and what is left is not the data set
STOPS_TRAINING = ("bad-image", "bad-annotation", "undecodable")  # unless they are left out


class DataVerdict(NamedTuple):
    """``reason`` has the counts; ``skip_bad``: training needs that option; ``remedy``: of data that are not usable."""

    level: Literal["sound", "usable with notes", "not usable"]
    reason: str
    skip_bad: bool = False
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level}: {self.reason}"


def judge(check: DataCheck, *, skip_bad: bool = False) -> DataVerdict:
    """Whether a detector can be trained on the data as they are, and on what conditions.

    ``skip_bad``: data of which most pictures are missing are to be trained on without them.
    """
    try:
        require_two_images(check.train)
        require_objects(check.train)
    except DataError as error:
        return DataVerdict(NOT_USABLE, str(error), remedy=_remedy(check))
    problems, paths = _read_by_training(check)
    missing, absent = describe_missing(problems, paths), missing_pictures(problems)
    if len(absent) >= MOSTLY_MISSING * (len(absent) + len(paths)) > 0 and not skip_bad:
        return DataVerdict(NOT_USABLE, missing, remedy=_bring_back(absent, paths))
    few = few_to_validate(check.splits[check.val_name])
    if not check.findings and not few:
        return DataVerdict(SOUND, f"{counted(sum(map(len, check.splits.values())), 'image')}, 0 problems, 0 warnings")
    warnings = [finding for finding in check.findings if not finding.is_problem]
    counts = f"{_counts(check.problems, 'problem')}, {_counts(warnings, 'warning')}"
    return DataVerdict(USABLE, "; ".join(filter(None, [counts, missing, few])), skip_bad=_stops_training(check))


def _read_by_training(check: DataCheck) -> tuple[list[Problem], list[str]]:
    """The problems and the pictures of the two splits that training reads, each once."""
    used = (check.train, check.splits[check.val_name])
    return (
        list(dict.fromkeys(problem for index in used for problem in index.problems)),
        list(dict.fromkeys(path for index in used for path in index.paths)),
    )


def _bring_back(missing: Sequence[str], present: Sequence[str]) -> str:
    return f"bring back the pictures (report.json names all of them); {where_missing(missing, present)}"


def _remedy(check: DataCheck) -> str:
    """What would make data usable that are not: whatever it is that they lack."""
    train = check.train
    others = [name for name, index in check.splits.items() if index is not train and (~index.ignore).any()]
    if len(train) < 2:
        return _of_too_few(train)
    if others:
        return f"train on a split that has objects, with --train-split {shlex.quote(others[0])}"
    if len(train.labels):
        return "annotate objects that count: crowd regions and difficult ones are not learned from"
    if train.problems:
        return "mend the annotations that cannot be used (report.json names all of them)"
    return "draw boxes around the objects in these pictures, or name the file that holds them with --annotations"


def _of_too_few(train: DetectionIndex) -> str:
    if missing := missing_pictures(train.problems):
        return _bring_back(missing, train.paths)
    if any(problem.kind == "bad-image" for problem in train.problems):
        return "mend or replace the pictures that cannot be used (report.json names all of them)"
    return "add annotated pictures: training needs two, and learns something from fifty on"


def _stops_training(check: DataCheck) -> bool:
    """Whether one of the two splits that training reads has something that it does not leave out unasked."""
    problems, paths = _read_by_training(check)
    pictures = set(paths)
    return any(problem.kind in STOPS_TRAINING for problem in problems) or any(
        finding.kind in STOPS_TRAINING and finding.file in pictures for finding in check.findings
    )


def _counts(findings: Sequence[DataFinding], what: str) -> str:
    """ "3 problems (2 zero-size, 1 clipped)"."""
    kinds = Counter(finding.kind for finding in findings).most_common()
    told = ", ".join(f"{count} {kind}" for kind, count in kinds)
    return counted(len(findings), what) + (f" ({told})" if told else "")
