"""Recognizing a data set by looking at its folder, choosing its splits, and loading them under one class list."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssdlite.datasets.formats import DATA_FORMATS
from ssdlite.datasets.formats.base import Annotations, BadItems, DataFormat, build_index
from ssdlite.datasets.formats.files import walk_pictures
from ssdlite.datasets.formats.missing import describe_missing
from ssdlite.datasets.formats.options import LOAD_OPTIONS, READ_OPTIONS, LoadOptions, ReadOptions, parse_renames
from ssdlite.datasets.formats.splits import WHOLE_FOLDER, subfolders
from ssdlite.datasets.formats.unrecognized import describe_folder
from ssdlite.datasets.index import (
    DECIDES_OTHERWISE,
    DetectionIndex,
    Problem,
    describe_causes,
    label_names,
    one_spelling,
    problem_notes,
    select_classes,
    suggest_renames,
    unknown_classes,
)
from ssdlite.datasets.renaming import rename_classes, unknown_names
from ssdlite.errors import DataError
from ssdlite.files import counted, listing
from ssdlite.validation import require_known

MOST_INNER = 20  # folders of one that is no data set, which may be some


@dataclass(frozen=True)
class DataLayout:
    """What was found in a folder: the format, and the names of the splits."""

    root: Path
    format: DataFormat
    splits: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def match(self, name: str, option: str = "--split") -> str:
        """The split that ``name`` means: itself, or the only one that adds a year (train -> train2017)."""
        return match_split(name, self.splits, option)

    def label(self, name: str) -> str:
        """A split's name in messages: "bccd/train"."""
        return f"{self.root.resolve().name}/{name}"


@dataclass(frozen=True)
class DataSplits:
    """What to train and validate on.

    Attributes:
        notes: lines for people: what was found, counted and mended.
        test: the name of the split that is neither, where the data have one to test on.
        details: those of the notes that tell how the data were read, and need not be known to train on them.
    """

    train: DetectionIndex
    val: DetectionIndex
    notes: tuple[str, ...]
    test: str | None = None
    details: frozenset[str] = frozenset()


def find_splits(root: Path, options: ReadOptions = READ_OPTIONS) -> DataLayout:
    """Recognize the data set in a folder or file.

    Raises:
        DataError: it is of none of ``DATA_FORMATS``, the message saying what is in it and what is nearest; or of
            several that differ, and ``options.data_format`` does not say which.
    """
    root = Path(root)
    require_there(root, options)
    known = DATA_FORMATS
    if options.data_format is not None:
        require_known([options.data_format], DATA_FORMATS, "data format")
        known = {options.data_format: DATA_FORMATS[options.data_format]}
    layouts = {}
    for key, data_format in known.items():
        if splits := data_format.find_splits(root):
            layouts[key] = DataLayout(root, data_format, tuple(splits))
    if not layouts:
        raise _not_recognized(root, known.values())
    return next(iter(layouts.values())) if len(layouts) == 1 else _only_one(layouts, options)


def require_there(root: Path, options: ReadOptions = READ_OPTIONS) -> None:
    """Raises DataError where there is nothing called ``root``, or no folder that ``options.images`` names."""
    if options.images is not None and not Path(options.images).is_dir():
        raise DataError(f"--images {options.images}: expected a folder of pictures, found no folder of that name")
    if not root.exists():
        formats = _format_names(DATA_FORMATS.values())
        raise DataError(f"{root}: expected a folder with {formats} annotations, found no folder of that name")


def _not_recognized(root: Path, known: Collection[DataFormat]) -> DataError:
    if not root.is_dir():
        expected = f"expected a folder or file with {_format_names(known)} annotations"
        return DataError(f"{root}: {expected}, this is a file; {_instead_of_file(root)}")
    if len(known) < len(DATA_FORMATS):
        looked_for = "; ".join(f"{known_format.looked_for} ({known_format.name})" for known_format in known)
        return DataError(f"{root}: no annotations found. Looked for {looked_for}. {describe_folder(root)}")
    inner = [folder.name for folder in subfolders(root)[:MOST_INNER] if _is_data_set(folder, known)]
    if inner:
        return DataError(f"{root}: no annotations found, but data sets in its folders; give one of {listing(inner)}")
    return DataError(
        f"{root}: no annotations found. {describe_folder(root)} Formats that are read: {_format_names(known)} "
        "(docs/data.md)"
    )


def _is_data_set(folder: Path, known: Collection[DataFormat]) -> bool:
    """Whether annotations and pictures are there."""
    with contextlib.suppress(DataError):
        return any(one.find_splits(folder) for one in known) and any(walk_pictures(folder))
    return False


def _instead_of_file(path: Path) -> str:
    if not path.stat().st_size:
        return "it is empty"
    if path.suffix.lower() in (".json", ".xml"):
        return f"give the folder that holds it and the pictures: {path.parent if path.parent.name else 'its own'}"
    if path.suffix.lower() in (".yaml", ".yml"):
        return "YOLO's description of a data set has names, train and val"
    return "export the data set as COCO or VOC, for example"


def _format_names(formats: Collection[DataFormat]) -> str:
    *others, last = (one.name for one in formats)
    return f"{', '.join(others)} or {last}" if others else last


def _only_one(layouts: dict[str, DataLayout], options: ReadOptions) -> DataLayout:
    """The first of several layouts of one folder that have the same objects; those with none are passed over."""
    counts = {key: _object_counts(layout, options) for key, layout in layouts.items()}
    used = [key for key, count in counts.items() if count.total()] or list(layouts)[:1]
    if {"imagefolder", "parquet"} <= set(used) and counts["parquet"].total() == counts["imagefolder"].total():
        used.remove("parquet")  # metadata.parquet with the pictures in it, which are beside it too
    first = layouts[used[0]]
    others = ", ".join(layouts[key].format.name for key in layouts if key != used[0])
    if all(counts[key] == counts[used[0]] for key in used):
        note = f"{first.root}: {others} annotations are there too; the {first.format.name} ones are used"
        return replace(first, notes=(note,))
    found = "; ".join(
        f"{layouts[key].format.name}, {counted(counts[key].total(), 'object')} in "
        f"{counted(len(counts[key]), 'picture')} (--data-format {key})"
        for key in used
    )
    raise DataError(f"{first.root}: expected annotations of one format, found several that differ: {found}")


def _object_counts(layout: DataLayout, options: ReadOptions) -> Counter[str]:
    """Of every picture that has some, whatever the split."""
    counts: Counter[str] = Counter()
    for name in layout.splits:
        with contextlib.suppress(DataError):
            found = layout.format.read_split(layout.root, name, BadItems(skip=True), options)
            split = Counter(found.images.tolist())
            counts |= Counter({os.path.realpath(found.paths[image]): count for image, count in split.items()})
    return counts


def load_data(
    root: Path | DataLayout,
    options: LoadOptions = LOAD_OPTIONS,
    *,
    train_split: str | None = None,
    val_split: str | None = None,
    allow_absent: bool = False,
    seed: int = 0,
) -> DataSplits:
    """The training and the validation split of the data set in ``root``, with one class list.

    Without names they are the customary ones; a data set with nothing to validate on is divided by ``seed``. A test
    split is not validated on unless it is named: ``best.pt`` is chosen by the validation split.
    ``allow_absent`` is that of ``load_split``.

    Raises:
        DataError: nothing is recognized, a split or class is unknown, or some data cannot be used.
    """
    layout = _as_layout(root, options)
    choice = choose_splits(layout.splits, train_split, val_split)
    names = list(dict.fromkeys(name for name in choice if name is not None))
    train, *others = _load_splits(layout, names, options, allow_absent=allow_absent)
    notes = [f"{layout.root}: {layout.format.name} annotations{_in_splits(layout.splits, 'with')}"]
    notes += layout.notes
    val = others[0] if others else train
    test = _first_of(TEST_NAMES, [name for name in layout.splits if name not in choice])
    if choice.val is None:
        train, val = divide(train, seed)
        notes.append(
            f"no validation split beside {choice.train!r}: divided into {len(train)} images to train "
            f"and {len(val)} to validate on (seed {seed})"
        )
        if test is not None:
            notes.append(f"{test!r} is left for scoring (--val-split {test} would choose the best epoch on it)")
    described = describe_splits(train, val)
    details = {*notes, *(note for note in described if note.endswith(DECIDES_OTHERWISE))}
    return DataSplits(train, val, (*notes, *described), test, frozenset(details))


def load_split(
    root: Path | DataLayout,
    split: str | None = None,
    options: LoadOptions = LOAD_OPTIONS,
    *,
    allow_absent: bool = False,
) -> DetectionIndex:
    """One split; without a name the one to evaluate on: val, else test, else the only one.

    Where splits come without class lists (VOC), the classes are those of all of them, so that each gets the same list.
    ``allow_absent`` lets ``options.classes``, for example a checkpoint's, hold names that do not occur.
    Pictures and boxes of the index are upright, whatever ``options.exif_boxes`` says of the files.
    """
    layout = _as_layout(root, options)
    name = layout.match(split) if split else split_to_evaluate(layout.splits)
    return _load_splits(layout, [name], options, allow_absent=allow_absent, classes_of=layout.splits)[0]


def load_all(
    root: Path | DataLayout, options: LoadOptions = LOAD_OPTIONS, *, splits: Sequence[str] | None = None
) -> dict[str, DetectionIndex]:
    """Every split, or those named, with one class list: the training split's where each comes with its own.

    Raises:
        DataError: as ``load_split``.
    """
    layout = _as_layout(root, options)
    names = [layout.match(name, "--splits") for name in splits] if splits else list(layout.splits)
    first = _first_of(TRAIN_NAMES, names)
    ordered = sorted(dict.fromkeys(names), key=lambda name: name != first)
    found = dict(zip(ordered, _load_splits(layout, ordered, options, allow_absent=False), strict=True))
    return {name: found[name] for name in dict.fromkeys(names)}


def _as_layout(root: Path | DataLayout, options: ReadOptions) -> DataLayout:
    return root if isinstance(root, DataLayout) else find_splits(root, options)


def _load_splits(
    layout: DataLayout,
    names: Sequence[str],
    options: LoadOptions,
    *,
    allow_absent: bool,
    classes_of: Sequence[str] = (),
) -> list[DetectionIndex]:
    """The splits ``names`` under one class list: the first one's own, or where there is none what occurs in any.

    ``classes_of``: splits whose classes count as well.

    Raises:
        DataError: a later split lists classes that the first lacks, or some data cannot be used.
    """
    bad = [BadItems(options.skip_bad) for _ in names]
    found = [
        layout.format.read_split(layout.root, name, items, options) for name, items in zip(names, bad, strict=True)
    ]
    if options.rename:
        renames = parse_renames(options.rename)
        _require_renamed(layout, renames, found, options, allow_absent=allow_absent)
        found = [rename_classes(split, renames) for split in found]
    others = [name for name in classes_of if name not in names]
    known, source = _known_classes(layout, names, found, options, others)
    if not known:
        unused = _unused([problem for items in bad for problem in items.problems], [p for s in found for p in s.paths])
        causes = "; ".join(filter(None, [unused, *(note for split in found for note in split.notes)]))
        raise DataError(
            f"{layout.root}: expected annotated objects{_in_splits(names)}, found none"
            + (f": {causes}" if causes else "")
        )
    class_names = select_classes(known, options.classes, source, allow_absent=allow_absent)
    indexes: list[DetectionIndex] = []
    for name, split, items in zip(names, found, bad, strict=True):
        first = indexes[0] if indexes else None
        index = build_index(
            split, class_names, items, name=layout.label(name), agree_with=first, exif_boxes=options.exif_boxes
        )
        if not len(index):
            causes = _unused(index.problems)
            raise DataError(
                f"{index.name}: expected at least one usable image, got none" + (f": {causes}" if causes else "")
            )
        if allow_absent and (note := _other_classes(split, index)):
            index = replace(index, notes=(*index.notes, note))
        indexes.append(index)
    return indexes


def _other_classes(found: Annotations, index: DetectionIndex) -> str | None:
    """Of the annotated classes those that the model of ``index.class_names`` does not have."""
    counts = np.bincount(found.classes, minlength=len(found.class_names)).tolist()
    known = label_names(index.class_names, found.class_names)
    others = {name: n for name, n in zip(found.class_names, counts, strict=True) if n and name not in known}
    if not others:
        return None
    absent = index.absent_classes()
    return (
        f"{index.name}: classes of the data that the model does not have are left out: "
        + listing(f"{name} ({counted(count, 'object')})" for name, count in others.items())
        + (
            f"; the model's {listing(absent)} are not in the data; {suggest_renames(absent, list(others))}"
            if absent
            else ""
        )
    )


def _in_splits(names: Sequence[str], how: str = "in") -> str:
    """`` in the splits train, val``; nothing of a folder that tells no splits."""
    if list(names) == [WHOLE_FOLDER]:
        return ""
    return f" {how} the split{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _known_classes(
    layout: DataLayout,
    names: Sequence[str],
    found: Sequence[Annotations],
    options: LoadOptions,
    others: Sequence[str],
) -> tuple[Sequence[str], str]:
    """The class names to choose from, and where they come from."""
    occurring = {name for split in found for name in split.class_names}
    known, source = _ordered(layout, occurring, options), str(layout.root)
    if known is None:
        known, source = found[0].class_names, found[0].source
        if options.classes is None:
            _require_known(found, layout.label(names[0]))
    elif others:
        for split in _read_others(layout, others, options):
            occurring |= set(rename_classes(split, parse_renames(options.rename)).class_names)
        known = _ordered(layout, occurring, options) or ()
    order = {name: place for place, name in enumerate(found[0].class_order)}
    return sorted(known, key=lambda name: order.get(name, len(order))), source


def _read_others(layout: DataLayout, names: Sequence[str], options: LoadOptions) -> Iterator[Annotations]:
    """Splits that were not asked for, as far as they can be read."""
    for name in names:
        with contextlib.suppress(DataError):
            yield layout.format.read_split(layout.root, name, BadItems(skip=True), options)


def _require_renamed(
    layout: DataLayout,
    renames: Mapping[str, str],
    found: Sequence[Annotations],
    options: LoadOptions,
    *,
    allow_absent: bool,
) -> None:
    """A DataError for a class to rename that no split has; with ``allow_absent`` where none of them is there."""
    known = {name for split in found for name in split.class_names}
    if unknown_names(renames, known):
        for split in _read_others(layout, layout.splits, options):
            known |= set(split.class_names)
    unknown = unknown_names(renames, known)
    if unknown and not (allow_absent and len(unknown) < len(renames)):
        raise unknown_classes(unknown, sorted(known), f"{layout.root}: --rename")


def _ordered(layout: DataLayout, occurring: set[str], options: LoadOptions) -> Sequence[str] | None:
    """The format's order; names that are chosen from keep all of their spellings."""
    return layout.format.order_classes(occurring if options.classes else set(one_spelling(sorted(occurring))))


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
        causes = _unused(index.problems, index.paths)
        raise DataError(
            f"{index.name}: expected two or more usable images, got {len(index)}, {purpose}"
            + (f"; what cannot be used: {causes}" if causes else "")
        )


def _unused(problems: Sequence[Problem], present: Sequence[str] = ()) -> str:
    """Why what there is cannot be used, and where pictures may be that are missing; ``present``: those that are not."""
    return "; ".join(filter(None, [describe_causes(problems), describe_missing(problems, present)]))


def _require_known(found: Sequence[Annotations], first: str) -> None:
    known = found[0].class_names
    for split in found[1:]:
        if others := sorted(set(split.class_names) - label_names(known, split.class_names).keys()):
            raise DataError(
                f"{split.source}: expected the classes of {first}, {', '.join(known)}; "
                f"got others too: {', '.join(others)}. Choose those to use with --classes."
            )


# --- Which split is to train on and which to validate on, and what to say about the two.

VAL_SHARE = 0.2  # of a data set that has to be divided
DIVIDED_TO_TRAIN = " (to train)"  # behind the name of the larger part
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
    if found := _first_of(VAL_NAMES + TEST_NAMES, names):
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
        union = _first_of(UNION_NAMES, names)
        if val is not None and train is not None and union is not None and not _contains(union, val):
            train = union  # where the test split is scored on, the validation split is learned from too
    if train is None:
        raise DataError(f"none of the splits {', '.join(names)} is called train; name one with --train-split")
    if val is None:
        others = [name for name in names if not _contains(train, name)]
        val = _same_year(train, others) or _first_of(VAL_NAMES, others)
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


def _first_of(wanted: Sequence[str], names: Sequence[str]) -> str | None:
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
