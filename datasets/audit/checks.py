"""Everything worth knowing about a data set before training on it, gathered in one pass over its files."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ssdlite.anchors import AnchorConfig
from ssdlite.config import DetectorConfig
from ssdlite.datasets.anchor_coverage import AnchorCoverage, InputBoxes, input_boxes, measure_coverage
from ssdlite.datasets.anchor_fitting import fit_to_boxes
from ssdlite.datasets.formats.options import LoadOptions
from ssdlite.datasets.index import PROBLEM_KINDS, DetectionIndex, Problem, Record
from ssdlite.datasets.loading import find_splits, load_data, load_split
from ssdlite.datasets.split_choice import choose_splits
from ssdlite.errors import DataError
from ssdlite.images.geometry import ImageArray
from ssdlite.images.reading import picture_remarks, read_image
from ssdlite.nms import pairwise_iou


class FindingKind(NamedTuple):
    """A problem is worth mending; what is none may be as it should."""

    meaning: str
    is_problem: bool = True


FINDING_KINDS = {kind: FindingKind(row.meaning) for kind, row in PROBLEM_KINDS.items()} | {
    "undecodable": FindingKind("image has a sound header but cannot be decoded"),
    "leak": FindingKind("the same picture is in two splits"),
    "duplicate-image": FindingKind("the same picture occurs twice in a split"),
    "duplicate-box": FindingKind("an object is boxed twice"),
    "probable-leak": FindingKind("two splits have pictures that look the same", is_problem=False),
    "probable-duplicate": FindingKind("two pictures of a split look the same", is_problem=False),
    "two-classes": FindingKind("an object is annotated as two classes", is_problem=False),
    "remark": FindingKind("picture is converted when it is read", is_problem=False),
    "absent-class": FindingKind("class without an object to train on", is_problem=False),
    "crowded": FindingKind("picture with too many objects to look for those that are boxed twice", is_problem=False),
}
SAME_PICTURE_KINDS = {  # (the same pixels?, in one split?)
    (True, True): "duplicate-image",
    (True, False): "leak",
    (False, True): "probable-duplicate",
    (False, False): "probable-leak",
}
SAME_OBJECT_IOU = 0.9  # two boxes of one class that overlap like this are one object, boxed twice
TWO_CLASSES_IOU = 0.85  # boxes of different classes: an object annotated under two names
MOST_OBJECTS_COMPARED = 5000  # objects of a picture: as many squared are compared
COMPARED_AT_ONCE = 1_000_000
UNIONS = ("trainval", "all")  # splits that hold others by custom
DECODE_THREADS = 4


class DataFinding(NamedTuple):
    """One thing found: ``kind`` is a key of FINDING_KINDS, ``file`` empty where it is about no file."""

    kind: str
    split: str
    file: str
    detail: str

    @property
    def is_problem(self) -> bool:
        return FINDING_KINDS[self.kind].is_problem


class AnchorAudit(NamedTuple):
    """One set of anchors on the split to train on, and on that to validate on."""

    train: AnchorCoverage
    val: AnchorCoverage


@dataclass(frozen=True)
class DataCheck:
    """The result. ``splits`` are all that were found, by name, the one to train on first.

    ``anchors``: of the "preset", and the "proposed" ones, of which there are ``budget`` at most.
    """

    root: Path
    config: DetectorConfig
    notes: tuple[str, ...]
    splits: dict[str, DetectionIndex]
    val_name: str
    findings: tuple[DataFinding, ...]
    train_boxes: InputBoxes
    budget: int
    anchors: dict[str, AnchorAudit]

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.train.class_names

    @property
    def train(self) -> DetectionIndex:
        return next(iter(self.splits.values()))

    @property
    def problems(self) -> list[DataFinding]:
        return [finding for finding in self.findings if finding.is_problem]

    def finding_counts(self) -> dict[str, int]:
        return dict(Counter(finding.kind for finding in self.findings))


class CheckOptions(NamedTuple):
    """What to check: see ``tools/check_data.py``. ``budget`` None: as many anchors as the configuration has."""

    train_split: str | None = None
    val_split: str | None = None
    loading: LoadOptions = LoadOptions(skip_bad=True)
    fit: bool = True
    budget: int | None = None
    decode: bool = True
    seed: int = 0  # of the division of data with one split


def check_data(
    root: Path,
    detector: Callable[[DetectionIndex], DetectorConfig],
    options: CheckOptions,
    progress: Callable[[int], Callable[[], object]] = lambda total: lambda: None,
) -> DataCheck:
    """Check the data set in ``root`` for the detector that ``detector`` gives for its training pictures.

    ``progress`` is told how many pictures there are and gives what is called after each.

    Raises:
        DataError: ``root`` has no data set or no usable image.
        ConfigError: the budget of anchors is too small.
    """
    splits, val_name, notes = load_all_splits(root, options)
    distinct = _without_unions(splits, val_name)
    train_name, train = next(iter(splits.items()))
    absent = [DataFinding("absent-class", train_name, "", class_name) for class_name in train.absent_classes()]
    findings = [*_reader_findings(splits), *absent, *_same_objects(distinct)]
    if options.decode:
        findings += _picture_findings(distinct, progress)
    config = detector(train)
    boxes, val_boxes = (
        input_boxes(index, config.input.size, config.input.resize) for index in (train, splits[val_name])
    )

    def audit(anchors: AnchorConfig) -> AnchorAudit:
        return AnchorAudit(
            *(
                measure_coverage(
                    anchors, own, image_size=config.input.size, strides=config.strides, class_names=train.class_names
                )
                for own in (boxes, val_boxes)
            )
        )

    budget = config.num_anchors if options.budget is None else options.budget
    anchors = {"preset": audit(config.anchors)}
    if options.fit and len(boxes.labels) and not config.head.bins:
        anchors["proposed"] = audit(fit_to_boxes(boxes, config, budget))
    return DataCheck(Path(root), config, notes, splits, val_name, tuple(findings), boxes, budget, anchors)


def load_all_splits(root: Path, options: CheckOptions) -> tuple[dict[str, DetectionIndex], str, tuple[str, ...]]:
    """Every split by name, the one to train on first; the name of that to validate on; the readers' notes."""
    layout = find_splits(root, options.loading)
    choice = choose_splits(layout.splits, options.train_split, options.val_split)
    data = load_data(layout, options.loading, train_split=choice.train, val_split=choice.val, seed=options.seed)
    train_name, val_name = choice.train, choice.val
    if val_name is None:
        train_name, val_name = f"{choice.train} (to train)", f"{choice.train} (to validate)"
    splits = {train_name: data.train, val_name: data.val}
    for name in layout.splits:
        if name not in choice:
            splits[name] = load_split(layout, name, options.loading, allow_absent=True)
    told = (*layout.notes, *(note for index in splits.values() for note in index.notes))
    divided = [note for note in data.notes if note.startswith(("no validation split", "warning: "))]
    return splits, val_name, tuple(dict.fromkeys((*told, *divided)))


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


def _reader_findings(splits: dict[str, DetectionIndex]) -> list[DataFinding]:
    """The readers' problems, each once although several splits may share a file."""
    findings: dict[Problem, DataFinding] = {}
    for name, index in splits.items():
        for problem in index.problems:
            findings.setdefault(problem, DataFinding(problem.kind, name, problem.file, problem.detail))
    return list(findings.values())


def _same_objects(splits: dict[str, DetectionIndex]) -> Iterator[DataFinding]:
    """Pairs of boxes that are probably one object; crowds and ``difficult`` ones apart."""
    for name, index in splits.items():
        for record in map(index.record, range(len(index))):
            for kind, detail in _same_objects_of(record, index.class_names):
                yield DataFinding(kind, name, record.path, detail)


def _same_objects_of(record: Record, class_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    count = len(record.labels)
    if count > MOST_OBJECTS_COMPARED:
        yield "crowded", f"{count} objects, more than {MOST_OBJECTS_COMPARED}"
        return
    step = max(COMPARED_AT_ONCE // max(count, 1), 1)
    for start in range(0, count - 1, step):  # a picture's first boxes with all that come later, a part at a time
        rows = np.arange(start, min(start + step, count))
        same_class = record.labels[rows, None] == record.labels[None]
        iou = pairwise_iou(record.boxes[rows], record.boxes)
        usable = ~(record.ignore[rows, None] | record.ignore[None]) & (rows[:, None] < np.arange(count))
        twice = usable & (iou > np.where(same_class, SAME_OBJECT_IOU, TWO_CLASSES_IOU))
        for row, second in np.argwhere(twice).tolist():
            first = start + row
            names = dict.fromkeys(class_names[record.labels[i]] for i in (first, second))
            corners = ", ".join(f"{value:g}" for value in record.boxes[first].tolist())
            kind = "duplicate-box" if len(names) == 1 else "two-classes"
            yield kind, f"{' and '.join(names)} at [{corners}], IoU {iou[row, second]:.2f}"


def _picture_findings(
    splits: dict[str, DetectionIndex], progress: Callable[[int], Callable[[], object]]
) -> Iterator[DataFinding]:
    """Pictures that cannot be decoded, are in two splits, or twice in one."""
    homes: dict[str, list[str]] = defaultdict(list)
    sizes: dict[str, tuple[int, int]] = {}
    for name, index in splits.items():
        for path, (height, width) in zip(index.paths, index.sizes.tolist(), strict=True):
            homes[path].append(name)
            sizes[path] = (height, width)
    prints, bad = read_fingerprints(list(sizes.items()), progress(len(sizes)))
    for path, reason in bad.items():
        yield DataFinding("undecodable", homes[path][0], path, reason)
    for path in prints:
        yield from (DataFinding("remark", homes[path][0], path, remark) for remark in picture_remarks(path))
    for path, names in homes.items():
        for first, second in sorted({(one, other) for i, one in enumerate(names) for other in names[i + 1 :]}):
            yield _same_picture(True, first, second, path, "the same file")
    for pair in same_pictures(prints):
        first, second = homes[pair.first][0], homes[pair.second][0]
        yield _same_picture(pair.exact, first, second, pair.second, f"the same as {pair.first}")


def _same_picture(exact: bool, first: str, second: str, path: str, detail: str) -> DataFinding:
    """Of the splits ``first`` and ``second``."""
    place = first if first == second else f"{first} / {second}"
    return DataFinding(SAME_PICTURE_KINDS[exact, first == second], place, path, detail)


# --- Pictures that occur twice, and pictures that look the same.

HASH_SIDE = 8
BAND_BITS = 16  # of the 64-bit hash: two hashes that differ in fewer bits than there are bands share a band
MAX_DIFFERENT_BITS = 3
THUMBNAIL_SIDE = 16
MAX_THUMBNAIL_DIFFERENCE = 6.0  # mean, of 255 grey levels; JPEG and resizing change about one
MAX_BAND_MEMBERS = 500  # larger groups, such as blank pictures, are compared with their neighbours in the list only


class Fingerprint(NamedTuple):
    """Of one decoded picture: digest of its pixels, difference hash, and thumbnail [256] uint8."""

    digest: bytes
    dhash: int
    thumbnail: npt.NDArray[np.uint8]


class SamePictures(NamedTuple):
    """Two files with the same, or probably the same, picture."""

    first: str
    second: str
    exact: bool


def fingerprint(image: ImageArray) -> Fingerprint:
    """image [H, W, 3] -> its fingerprint; the hash compares neighbours in the rows of 8 x 9 grey fields."""
    digest = hashlib.blake2b(str(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    fields = cv2.resize(gray, (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA)
    bits = np.packbits(fields[:, 1:] > fields[:, :-1])
    thumbnail = cv2.resize(gray, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
    return Fingerprint(
        digest.digest(), int.from_bytes(bits.tobytes(), "big"), np.asarray(thumbnail, np.uint8).reshape(-1)
    )


def read_fingerprints(
    files: Sequence[tuple[str, tuple[int, int]]], progress: Callable[[], object] = lambda: None
) -> tuple[dict[str, Fingerprint], dict[str, str]]:
    """Decode every (path, annotated size) -> fingerprints by path, and what is wrong with the other files."""

    def read(file: tuple[str, tuple[int, int]]) -> Fingerprint | str:
        path, size = file
        try:
            image = read_image(path)
        except DataError as error:
            return str(error).removeprefix(f"{path}: ")
        if image.shape[:2] != size:
            return f"expected {size[1]} x {size[0]} pixels, got {image.shape[1]} x {image.shape[0]}"
        return fingerprint(image)

    good: dict[str, Fingerprint] = {}
    bad: dict[str, str] = {}
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        for (path, _), result in zip(files, pool.map(read, files), strict=True):
            if isinstance(result, str):
                bad[path] = result
            else:
                good[path] = result
            progress()
    return good, bad


def same_pictures(prints: dict[str, Fingerprint]) -> list[SamePictures]:
    """Pairs of files with one picture: every file of a group with the group's first."""
    groups: dict[bytes, list[str]] = defaultdict(list)
    for path, found in prints.items():
        groups[found.digest].append(path)
    exact = [SamePictures(group[0], other, True) for group in groups.values() for other in group[1:]]
    firsts = [group[0] for group in groups.values()]
    return exact + [SamePictures(firsts[i], firsts[j], False) for i, j in _look_alikes([prints[p] for p in firsts])]


def _look_alikes(prints: Sequence[Fingerprint]) -> list[tuple[int, int]]:
    """Pairs whose hashes and thumbnails nearly agree, in order."""
    found = set()
    for i, j in set(_candidates([p.dhash for p in prints])):
        if (prints[i].dhash ^ prints[j].dhash).bit_count() > MAX_DIFFERENT_BITS:
            continue
        difference = np.abs(prints[i].thumbnail.astype(np.int16) - prints[j].thumbnail).mean()
        if difference <= MAX_THUMBNAIL_DIFFERENCE:
            found.add((i, j))
    return sorted(found)


def _candidates(hashes: Sequence[int]) -> Iterator[tuple[int, int]]:
    for shift in range(0, HASH_SIDE * HASH_SIDE, BAND_BITS):
        bands: dict[int, list[int]] = defaultdict(list)
        for i, value in enumerate(hashes):
            bands[value >> shift & (1 << BAND_BITS) - 1].append(i)
        for members in bands.values():
            span = len(members) if len(members) <= MAX_BAND_MEMBERS else 2
            for position, i in enumerate(members):
                yield from ((i, j) for j in members[position + 1 : position + span])
