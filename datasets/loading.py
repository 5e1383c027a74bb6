"""Recognizing a data set by looking at its folder, and loading its splits under one class list."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ssdlite.datasets.formats import DATA_FORMATS
from ssdlite.datasets.formats.base import Annotations, BadItems, DataFormat, build_index
from ssdlite.datasets.formats.files import walk_pictures
from ssdlite.datasets.formats.options import LOAD_OPTIONS, READ_OPTIONS, LoadOptions, ReadOptions, parse_renames
from ssdlite.datasets.formats.splits import WHOLE_FOLDER, subfolders
from ssdlite.datasets.formats.unrecognized import describe_folder
from ssdlite.datasets.index import (
    DECIDES_OTHERWISE,
    DetectionIndex,
    label_names,
    one_spelling,
    select_classes,
    suggest_renames,
    unknown_classes,
)
from ssdlite.datasets.renaming import rename_classes, unknown_names
from ssdlite.datasets.split_checks import describe_splits, describe_unused, divide
from ssdlite.datasets.split_choice import (
    TEST_NAMES,
    TRAIN_NAMES,
    choose_splits,
    first_of,
    match_split,
    split_to_evaluate,
)
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
        details: those of the notes that tell how the data were read, and need not be known to train on them.
        find_test: gives the name of the split that is neither, where the data have one with objects to test on; it
            reads that one's annotations.
    """

    train: DetectionIndex
    val: DetectionIndex
    notes: tuple[str, ...]
    details: frozenset[str] = frozenset()
    find_test: Callable[[], str | None] = lambda: None


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
    test = first_of(TEST_NAMES, [name for name in layout.splits if name not in choice])
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

    def find_test() -> str | None:
        names = [] if test is None else [test]
        return test if any(len(split.images) for split in _read_others(layout, names, options)) else None

    return DataSplits(train, val, (*notes, *described), frozenset(details), find_test)


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
    first = first_of(TRAIN_NAMES, names)
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
        unused = describe_unused(
            [problem for items in bad for problem in items.problems], [p for s in found for p in s.paths]
        )
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
            causes = describe_unused(index.problems)
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


def _require_known(found: Sequence[Annotations], first: str) -> None:
    known = found[0].class_names
    for split in found[1:]:
        if others := sorted(set(split.class_names) - label_names(known, split.class_names).keys()):
            raise DataError(
                f"{split.source}: expected the classes of {first}, {', '.join(known)}; "
                f"got others too: {', '.join(others)}. Choose those to use with --classes."
            )
