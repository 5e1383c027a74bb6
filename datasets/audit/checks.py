"""Everything worth knowing about a data set before training on it, gathered in one pass over its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssdlite.anchors import AnchorConfig
from ssdlite.config import DetectorConfig
from ssdlite.datasets.anchor_coverage import AnchorReport, audit_anchors
from ssdlite.datasets.anchor_fitting import InputBoxes, fit_to_boxes, input_boxes
from ssdlite.datasets.audit.duplicates import SamePictures, read_fingerprints, same_objects, same_pictures
from ssdlite.datasets.index import PROBLEM_KINDS, DetectionIndex
from ssdlite.datasets.loading import choose_splits, find_splits, load_data, load_split

PROBLEMS = {kind: row.meaning for kind, row in PROBLEM_KINDS.items()} | {  # each of them is worth mending
    "undecodable": "image has a sound header but cannot be decoded",
    "leak": "the same picture is in two splits",
    "duplicate-image": "the same picture occurs twice in a split",
    "duplicate-box": "an object is boxed twice",
}
WARNINGS = {  # may be as they should
    "probable-leak": "two splits have pictures that look the same",
    "probable-duplicate": "two pictures of a split look the same",
    "two-classes": "an object is annotated as two classes",
    "absent-class": "class without an object to train on",
}
UNIONS = ("trainval", "all")  # splits that hold others by custom


class Finding(NamedTuple):
    """One thing found: ``kind`` is a key of PROBLEMS or WARNINGS, ``file`` empty where it is about no file."""

    kind: str
    split: str
    file: str
    detail: str

    @property
    def is_problem(self) -> bool:
        return self.kind in PROBLEMS


@dataclass(frozen=True)
class AnchorComparison:
    """The preset's anchors and the proposed ones, on the split to train on and (``*_val``) to validate on."""

    budget: int
    preset: AnchorReport
    preset_val: AnchorReport
    proposed: AnchorReport | None = None
    proposed_val: AnchorReport | None = None


@dataclass(frozen=True)
class DataCheck:
    """The result. ``splits`` are all that were found, by name, the one to train on first."""

    root: Path
    config: DetectorConfig
    notes: tuple[str, ...]
    splits: dict[str, DetectionIndex]
    val_name: str
    findings: tuple[Finding, ...]
    train_boxes: InputBoxes
    anchors: AnchorComparison

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.train.class_names

    @property
    def train(self) -> DetectionIndex:
        return next(iter(self.splits.values()))

    @property
    def problems(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.is_problem]

    def finding_counts(self) -> dict[str, int]:
        return dict(Counter(finding.kind for finding in self.findings))


class CheckOptions(NamedTuple):
    """What to check: see ``tools/check_data.py``. ``budget`` None: as many anchors as the configuration has."""

    train_split: str | None = None
    val_split: str | None = None
    classes: Sequence[str] | None = None
    fit: bool = True
    budget: int | None = None
    decode: bool = True
    seed: int = 0  # of the division of data with one split


def check_data(
    root: Path,
    config: DetectorConfig,
    options: CheckOptions,
    progress: Callable[[int], Callable[[], object]] = lambda total: lambda: None,
) -> DataCheck:
    """Check the data set in ``root`` for a detector of ``config``; its class names play no part.

    ``progress`` is told how many pictures there are and gives what is called after each.

    Raises:
        DataError: ``root`` has no data set or no usable image.
        ConfigError: the budget of anchors is too small.
    """
    splits, val_name, notes = load_all_splits(root, options)
    distinct = _without_unions(splits, val_name)
    findings = _reader_findings(splits) + _class_findings(splits) + _object_findings(distinct)
    if options.decode:
        findings += _picture_findings(distinct, progress)
    train = next(iter(splits.values()))
    boxes, val_boxes = (
        input_boxes(index, config.input.size, config.input.resize) for index in (train, splits[val_name])
    )
    anchors = _compare_anchors(config, boxes, val_boxes, train.class_names, options)
    return DataCheck(Path(root), config, notes, splits, val_name, tuple(findings), boxes, anchors)


def load_all_splits(root: Path, options: CheckOptions) -> tuple[dict[str, DetectionIndex], str, tuple[str, ...]]:
    """Every split by name, the one to train on first; the name of that to validate on; the readers' notes."""
    layout = find_splits(root)
    choice = choose_splits(layout.splits, options.train_split, options.val_split)
    data = load_data(
        root,
        train_split=choice.train,
        val_split=choice.val,
        classes=options.classes,
        skip_bad=True,
        seed=options.seed,
    )
    train_name, val_name = choice.train, choice.val
    if val_name is None:
        train_name, val_name = f"{choice.train} (to train)", f"{choice.train} (to validate)"
    splits = {train_name: data.train, val_name: data.val}
    for name in layout.splits:
        if name not in choice:
            splits[name] = load_split(root, name, classes=options.classes, skip_bad=True, allow_absent=True)
    return splits, val_name, data.notes


def _compare_anchors(
    config: DetectorConfig,
    train: InputBoxes,
    val: InputBoxes,
    class_names: Sequence[str],
    options: CheckOptions,
) -> AnchorComparison:
    def audit(anchors: AnchorConfig, boxes: InputBoxes) -> AnchorReport:
        return audit_anchors(
            anchors,
            image_size=config.input.size,
            strides=config.strides,
            boxes=boxes.boxes,
            labels=boxes.labels,
            images=boxes.images,
            class_names=class_names,
        )

    budget = config.num_anchors if options.budget is None else options.budget
    preset, preset_val = audit(config.anchors, train), audit(config.anchors, val)
    if not options.fit or not len(train.labels):
        return AnchorComparison(budget, preset, preset_val)
    proposed = fit_to_boxes(train, config, budget)
    return AnchorComparison(budget, preset, preset_val, audit(proposed, train), audit(proposed, val))


def _reader_findings(splits: dict[str, DetectionIndex]) -> list[Finding]:
    """The readers' problems, each once although several splits may share a file."""
    findings: dict[tuple[str, str, str], Finding] = {}
    for name, index in splits.items():
        for problem in index.problems:
            findings.setdefault(
                (problem.kind, problem.file, problem.detail),
                Finding(problem.kind, name, problem.file, problem.detail),
            )
    return list(findings.values())


def _class_findings(splits: dict[str, DetectionIndex]) -> list[Finding]:
    name, train = next(iter(splits.items()))
    counts = np.bincount(train.labels[~train.ignore], minlength=len(train.class_names))
    return [
        Finding("absent-class", name, "", class_name)
        for class_name, count in zip(train.class_names, counts, strict=True)
        if not count
    ]


def _without_unions(splits: dict[str, DetectionIndex], val_name: str) -> dict[str, DetectionIndex]:
    """Without the splits that repeat others by custom: ``trainval`` beside train and val, or these beside it."""
    chosen = [next(iter(splits)), val_name]
    distinct = {name: splits[name] for name in dict.fromkeys(chosen)}
    rest = sorted((name for name in splits if name not in chosen), key=lambda name: name.startswith(UNIONS))
    for name in rest:
        held = {path for index in distinct.values() for path in index.paths}
        customary = name.startswith(UNIONS) or any(other.startswith(UNIONS) for other in chosen)
        if not (customary and held.issuperset(splits[name].paths)):
            distinct[name] = splits[name]
    return distinct


def _object_findings(splits: dict[str, DetectionIndex]) -> list[Finding]:
    """Objects that are boxed twice."""
    findings = []
    for name, index in splits.items():
        for same in same_objects(index):
            kind = "duplicate-box" if len(set(same.class_names)) == 1 else "two-classes"
            corners = ", ".join(f"{value:g}" for value in same.box)
            detail = f"{' and '.join(dict.fromkeys(same.class_names))} at [{corners}], IoU {same.iou:.2f}"
            findings.append(Finding(kind, name, same.file, detail))
    return findings


def _picture_findings(
    splits: dict[str, DetectionIndex], progress: Callable[[int], Callable[[], object]]
) -> list[Finding]:
    """Pictures that cannot be decoded, are in two splits, or twice in one."""
    homes: dict[str, list[str]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for name, index in splits.items():
        for path, (height, width) in zip(index.paths, index.sizes.tolist(), strict=True):
            homes.setdefault(path, []).append(name)
            sizes[path] = (height, width)
    prints, bad = read_fingerprints(list(sizes.items()), progress(len(sizes)))
    findings = [Finding("undecodable", homes[path][0], path, reason) for path, reason in bad.items()]
    for path, names in homes.items():
        kinds = {(first, other) for i, first in enumerate(names) for other in names[i + 1 :]}
        for first, other in sorted(kinds):
            kind = "duplicate-image" if first == other else "leak"
            findings.append(Finding(kind, _between(first, other), path, "the same file"))
    return findings + [_pair_finding(pair, homes) for pair in same_pictures(prints)]


def _pair_finding(pair: SamePictures, homes: dict[str, list[str]]) -> Finding:
    first, second = homes[pair.first][0], homes[pair.second][0]
    exact, probable = ("duplicate-image", "probable-duplicate") if first == second else ("leak", "probable-leak")
    kind = exact if pair.exact else probable
    return Finding(kind, _between(first, second), pair.second, f"the same as {pair.first}")


def _between(first: str, second: str) -> str:
    return first if first == second else f"{first} / {second}"
