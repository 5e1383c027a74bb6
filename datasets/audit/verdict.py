"""What a data check comes to: whether the data can be trained on, and what that needs."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from ssdlite.datasets.audit.checks import DataCheck, DataFinding
from ssdlite.datasets.loading import require_objects, require_two_images
from ssdlite.errors import DataError
from ssdlite.files import counted

SOUND: Literal["sound"] = "sound"
USABLE: Literal["usable with notes"] = "usable with notes"
NOT_USABLE: Literal["not usable"] = "not usable"
STOPS_TRAINING = ("bad-image", "bad-annotation", "undecodable")  # unless they are left out


class DataVerdict(NamedTuple):
    """``reason`` has the counts; ``skip_bad``: training needs that option; ``remedy``: of data that are not usable."""

    level: Literal["sound", "usable with notes", "not usable"]
    reason: str
    skip_bad: bool = False
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level}: {self.reason}"


def judge(check: DataCheck) -> DataVerdict:
    """Whether a detector can be trained on the data as they are, and on what conditions."""
    try:
        require_two_images(check.train)
        require_objects(check.train)
    except DataError as error:
        return DataVerdict(NOT_USABLE, str(error), remedy=_remedy(check))
    if not check.findings:
        return DataVerdict(SOUND, f"{counted(sum(map(len, check.splits.values())), 'image')}, 0 problems, 0 warnings")
    problems, warnings = check.problems, [finding for finding in check.findings if not finding.is_problem]
    reason = f"{_counts(problems, 'problem')}, {_counts(warnings, 'warning')}"
    return DataVerdict(USABLE, reason, skip_bad=_stops_training(check))


def _remedy(check: DataCheck) -> str:
    """What would make data usable that are not: whatever it is that they lack."""
    train = check.train
    others = [name for name, index in check.splits.items() if index is not train and (~index.ignore).any()]
    if len(train) < 2 and any(problem.kind == "bad-image" for problem in train.problems):
        return (
            "bring back the pictures that cannot be used (report.json names all of them); where they lie in another "
            "folder, name it with --images"
        )
    if len(train) < 2:
        return "add annotated pictures: training needs two, and learns something from fifty on"
    if others:
        return f"train on a split that has objects, with --train-split {shlex.quote(others[0])}"
    if len(train.labels):
        return "annotate objects that count: crowd regions and difficult ones are not learned from"
    if train.problems:
        return "mend the annotations that cannot be used (report.json names all of them)"
    return "draw boxes around the objects in these pictures, or name the file that holds them with --annotations"


def _stops_training(check: DataCheck) -> bool:
    """Whether one of the two splits that training reads has something that it does not leave out unasked."""
    used = (check.train, check.splits[check.val_name])
    pictures = {path for index in used for path in index.paths}
    return any(problem.kind in STOPS_TRAINING for index in used for problem in index.problems) or any(
        finding.kind in STOPS_TRAINING and finding.file in pictures for finding in check.findings
    )


def _counts(findings: Sequence[DataFinding], what: str) -> str:
    """ "3 problems (2 zero-size, 1 clipped)"."""
    kinds = Counter(finding.kind for finding in findings).most_common()
    told = ", ".join(f"{count} {kind}" for kind, count in kinds)
    return counted(len(findings), what) + (f" ({told})" if told else "")
