"""Pictures without annotations, which the teacher labels once, when a run begins; they are trained on with the others.

What it finds from a score on is an object, what it finds from half of that score on an ignored region: neither object
nor background. The labels lie in the run folder as a COCO file, from which the run is resumed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ssdlite.checkpoint import Checkpoint
from ssdlite.console import print_line
from ssdlite.datasets.audit.checks import Fingerprint, read_fingerprints, same_pictures
from ssdlite.datasets.formats.base import AnnotationsBuilder, BadItems, build_index
from ssdlite.datasets.formats.coco import read_coco
from ssdlite.datasets.formats.files import ImageFiles, UnsafePathError, walk_pictures
from ssdlite.datasets.formats.missing import missing_pictures
from ssdlite.datasets.index import DetectionIndex, match_classes
from ssdlite.datasets.loading import DataSplits, load_split
from ssdlite.datasets.writers.base import LabeledPicture, is_writable
from ssdlite.datasets.writers.coco import CocoWriter
from ssdlite.detections import Detections
from ssdlite.device import Processes, choose_device
from ssdlite.errors import DataError
from ssdlite.evaluation.inference import detect_dataset
from ssdlite.files import counted, listing
from ssdlite.predictor import Predictor
from ssdlite.runtime.operating_points import score_thresholds
from ssdlite.training.options import TrainOptions
from ssdlite.training.setup import data_root

SPLIT = "unlabelled"  # of the labels in the run folder
LABELS_FILE = f"annotations/instances_{SPLIT}.json"
IGNORED_SHARE = 0.5  # of the score of an object, from which what is found is ignored
SHOWN_PICTURES = 3


class UnlabeledPictures(NamedTuple):
    """Names of the pictures below ``root``, and paths of those whose link or name leads out of it."""

    root: Path
    names: tuple[str, ...]
    outside: tuple[str, ...]


def find_unlabelled(options: TrainOptions) -> UnlabeledPictures | None:
    """The pictures in the folder of ``--unlabelled`` and below it; None without the option.

    Raises:
        DataError: there is no such folder, or no picture in it.
    """
    if options.distillation.unlabelled is None:
        return None
    root = Path(options.distillation.unlabelled)
    if not root.is_dir():
        raise DataError(f"--unlabelled {root}: expected a folder of pictures, found no folder of that name")
    files = ImageFiles(root)
    found = [Path(path).relative_to(root).as_posix() for path, _ in walk_pictures(root)]
    names = tuple(name for name in found if is_writable(name) and _lies_inside(files, name))
    outside = tuple(str(root / name) for name in sorted(set(found) - set(names)))
    if not names:
        told = _told({"that lead out of it": outside})
        raise DataError(f"--unlabelled {root}: expected pictures, found none in it or below it{told}")
    return UnlabeledPictures(root, names, outside)


def _lies_inside(files: ImageFiles, name: str) -> bool:
    try:
        return files.find(name) is not None
    except UnsafePathError:
        return False


def label_pictures(
    unlabelled: UnlabeledPictures,
    splits: DataSplits,
    teacher: Checkpoint,
    options: TrainOptions,
    *,
    folder: Path,
    processes: Processes,
) -> None:
    """Write ``LABELS_FILE`` into the run's ``folder``, and say what the teacher has found.

    Raises:
        DataError: none of them can be used, or the teacher finds nothing in any.
    """
    root = unlabelled.root
    index, left_out = _new_pictures([str(root / name) for name in unlabelled.names], splits, options, processes)
    left_out["that lead out of the folder"] = unlabelled.outside
    found = _detect(index, teacher, options, processes)
    if not processes.is_first:
        processes.share(None)  # until the file is there
        return
    labeled = _LabeledPictures(root, index, found, _thresholds(teacher, options), splits.train.class_names)
    pictures = [one for one in labeled if any(not ignored for ignored in one.ignore)]
    left_out["with nothing found"] = [index.paths[i] for i, one in enumerate(labeled) if all(one.ignore)]
    if not pictures:
        raise DataError(f"--unlabelled {root}: {teacher.path} finds nothing in its pictures{_told(left_out)}")
    CocoWriter().write_split(folder, SPLIT, pictures, splits.train.class_names)
    total = len(unlabelled.names) + len(unlabelled.outside)
    for line in _summary(pictures, total, left_out, teacher, splits.train.class_names):
        print_line(line)
    processes.share(None)


def with_labeled_pictures(splits: DataSplits, options: TrainOptions, folder: Path) -> DataSplits:
    """The data with the pictures of the run's ``LABELS_FILE`` in the training split, where it was begun with some.

    Raises:
        DataError: the file or its pictures are not there.
    """
    if options.distillation.unlabelled is None:
        return splits
    root, file = Path(options.distillation.unlabelled), folder / LABELS_FILE
    if not root.is_dir():
        raise DataError(f"--unlabelled {root}: found no folder of that name; --unlabelled NEWPLACE says where it is")
    bad = BadItems(skip=False)
    found = read_coco(file, [root], bad, root)
    if missing := missing_pictures(bad.problems):
        raise DataError(
            f"--unlabelled {root}: {len(missing)} of the pictures that were labelled are not there, such as "
            f"{missing[0]}; --unlabelled NEWPLACE says where they are"
        )
    train = splits.train
    index = build_index(found, train.class_names, bad, name=f"{root}", agree_with=train, exif_boxes="upright")
    return replace(splits, train=train.joined(index))


# --- Which pictures are labelled.


def _new_pictures(
    paths: Sequence[str], splits: DataSplits, options: TrainOptions, processes: Processes
) -> tuple[DetectionIndex, dict[str, Sequence[str]]]:
    """Those that can be read and are not among the data, and the others by the reason.

    Raises DataError where none is left.
    """
    builder = AnnotationsBuilder(str(options.distillation.unlabelled))
    for path in paths:
        builder.add_image(path)
    bad = BadItems(skip=True)
    found, class_names = builder.build(splits.train.class_names), splits.train.class_names
    index = build_index(found, class_names, bad, name=builder.source, exif_boxes="upright")
    known = _pictures_of_data(splits, options)
    new = list(zip(index.paths, _sizes(index), strict=True))
    prints, unreadable = _fingerprints([*known, *new], processes)
    copies, repeats = _same_as_others(prints, {path for path, _ in known}, set(index.paths))
    left_out: dict[str, Sequence[str]] = {
        "that cannot be read": [problem.file for problem in bad.problems] + sorted(unreadable & set(index.paths)),
        "that are pictures of the data": copies,
        "that are there twice": repeats,
    }
    unused = {path for paths in left_out.values() for path in paths}
    keep = [i for i, path in enumerate(index.paths) if path not in unused]
    if not keep:
        raise DataError(f"--unlabelled {builder.source}: expected other pictures than the data's{_told(left_out)}")
    return index.subset(keep), left_out


def _pictures_of_data(splits: DataSplits, options: TrainOptions) -> list[tuple[str, tuple[int, int]]]:
    """Path and size of those to train, validate and, if there is a split for it, test on."""
    indexes = [splits.train, splits.val]
    if (test := splits.find_test()) is not None:
        loading = options.dataset.changed(skip_bad=True)
        indexes.append(load_split(data_root(options.dataset), test, loading, allow_absent=True))
    return [known for index in indexes for known in zip(index.paths, _sizes(index), strict=True)]


def _sizes(index: DetectionIndex) -> list[tuple[int, int]]:
    return [(int(height), int(width)) for height, width in index.sizes]


def _fingerprints(
    files: Sequence[tuple[str, tuple[int, int]]], processes: Processes
) -> tuple[dict[str, Fingerprint], set[str]]:
    """Of the files in their order, each process reading its share, and those that cannot be read."""
    shares = processes.gather(read_fingerprints(files[processes.rank :: processes.count]))
    prints = {path: one for good, _ in shares for path, one in good.items()}
    unreadable = {path for _, wrong in shares for path in wrong}
    return {path: prints[path] for path, _ in files if path in prints}, unreadable


def _same_as_others(prints: dict[str, Fingerprint], known: set[str], new: set[str]) -> tuple[list[str], list[str]]:
    """The new pictures that are, or look like, one of the known, and exact repeats among the new ones."""
    copies, repeats = set(new & known), set()
    for pair in same_pictures(prints):  # the first of a pair comes first in ``prints``, where known ones do
        if pair.second in new - known:
            if pair.first in known:
                copies.add(pair.second)
            elif pair.exact:
                repeats.add(pair.second)
    return sorted(copies), sorted(repeats - copies)


# --- What is found in them.


def _detect(
    index: DetectionIndex, teacher: Checkpoint, options: TrainOptions, processes: Processes
) -> list[Detections]:
    """By the pictures of ``index``: one label an object, as ``ssdlite predict`` writes them."""
    detector = teacher.build_detector().to(choose_device(options.system.device)).eval()
    share = range(processes.rank, len(index), processes.count)
    own = {
        position: found.with_nms(class_agnostic=True)
        for position, found in detect_dataset(
            Predictor(detector), index, workers=options.system.workers, positions=share, skip_bad=True
        )
    }
    found = {position: one for part in processes.gather(own) for position, one in part.items()}
    return [found[position] for position in range(len(index))]


def _thresholds(teacher: Checkpoint, options: TrainOptions) -> npt.NDArray[np.float64]:
    """By the teacher's labels the score from which what it finds is an object."""
    names = teacher.config.class_names
    if options.distillation.unlabelled_score is not None:
        return np.full(len(names), options.distillation.unlabelled_score)
    return score_thresholds(names, teacher.operating_points)


@dataclass(frozen=True)
class _LabeledPictures:
    """What was found, as it is written: labels are those of ``class_names``."""

    root: Path
    index: DetectionIndex
    found: Sequence[Detections]
    thresholds: npt.NDArray[np.float64]
    class_names: Sequence[str]

    def __iter__(self) -> Iterator[LabeledPicture]:
        for path, size, found in zip(self.index.paths, _sizes(self.index), self.found, strict=True):
            kept = found.above(self.thresholds * IGNORED_SHARE)
            sides = kept.boxes[:, 2:] - kept.boxes[:, :2]
            kept = kept[np.flatnonzero((sides > 0).all(axis=1))]
            labels = match_classes(tuple(kept.class_names), tuple(self.class_names))
            yield LabeledPicture(
                Path(path).relative_to(self.root).as_posix(),
                size,
                [(x0, y0, x1, y1) for x0, y0, x1, y1 in kept.boxes.tolist()],
                [int(labels[label] or 0) for label in kept.labels.tolist()],
                ignore=(kept.scores < self.thresholds.astype(np.float32)[kept.labels]).tolist(),
                scores=kept.scores.tolist(),
            )


def _summary(
    pictures: Sequence[LabeledPicture],
    total: int,
    left_out: dict[str, Sequence[str]],
    teacher: Checkpoint,
    class_names: Sequence[str],
) -> Iterator[str]:
    objects: Counter[str] = Counter()
    ignored = 0
    for picture in pictures:
        objects.update(class_names[label] for label, no in zip(picture.labels, picture.ignore, strict=True) if not no)
        ignored += sum(picture.ignore)
    counts = ", ".join(f"{name} {objects[name]}" for name in class_names)
    yield (
        f"unlabelled: {teacher.path} labels {len(pictures)} of {counted(total, 'picture')}: {counts}; "
        f"{counted(ignored, 'ignored region')}"
    )
    if told := _told(left_out):
        yield f"unlabelled: left out{told.removeprefix(': left out')}"


def _told(left_out: dict[str, Sequence[str]]) -> str:
    """``: left out 3 that cannot be read (a.jpg, b.jpg, ...); 2 that are there twice (c.jpg, d.jpg)``."""
    parts = [
        f"{len(paths)} {reason} ({listing((Path(path).name for path in paths), SHOWN_PICTURES)})"
        for reason, paths in left_out.items()
        if paths
    ]
    return f": left out {'; '.join(parts)}" if parts else ""
