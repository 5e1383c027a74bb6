"""Recognising a data set by looking at its folder, and loading its splits under one class list."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ssdlite.datasets.formats.coco import load_coco
from ssdlite.datasets.formats.voc import image_sets, index_voc_split, order_classes, read_voc_split, scan_class_names
from ssdlite.datasets.index import DetectionIndex, select_classes
from ssdlite.datasets.splits import DataSplits, choose_splits, describe_splits, divide, match_split, split_to_evaluate
from ssdlite.errors import DataError

OTHER_COCO_FILES = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_")
ROBOFLOW_FILE = "_annotations.coco.json"
ROBOFLOW_NAMES = {"valid": "val"}
VOC_YEAR = re.compile(r"VOC\d{4}", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """Where a split comes from: a COCO file and the folders where its pictures may be, or VOC folders."""

    annotations: tuple[Path, ...]  # the COCO file, or the Annotations folders
    folders: tuple[Path, ...]


@dataclass(frozen=True)
class DataLayout:
    """What was found in a folder: the splits by name, and where each comes from."""

    root: Path
    kind: Literal["coco", "voc"]
    splits: Mapping[str, Source]

    def match(self, name: str, option: str = "--split") -> str:
        """The split that ``name`` means: itself, or the only one that adds a year (train -> train2017)."""
        return match_split(name, list(self.splits), option)

    def label(self, name: str) -> str:
        """A split's name in messages: "bccd/train"."""
        return f"{self.root.resolve().name}/{name}"


@dataclass(frozen=True)
class LoadOptions:
    """How to load splits; see ``load_split`` for ``allow_absent``."""

    classes: Sequence[str] | None = None
    skip_bad: bool = False
    allow_absent: bool = False
    classes_of_all_splits: bool = False  # VOC: every class of the folder, not only of the splits loaded


def find_splits(root: Path) -> DataLayout:
    """Recognise COCO annotations, a VOC devkit or a bare VOC folder.

    Raises:
        DataError: there is none of them; the message says what was looked for.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder with COCO or VOC annotations, found no folder of that name")
    if coco := _coco_sources(root) or _roboflow_sources(root):
        return DataLayout(root, "coco", coco)
    if voc := _voc_sources(root):
        return DataLayout(root, "voc", voc)
    raise DataError(
        f"{root}: no annotations found. Looked for annotations/instances_*.json (COCO), */{ROBOFLOW_FILE} "
        "(COCO beside the images), VOC2007/, VOC2012/ ... with or without VOCdevkit/ (Pascal VOC), and "
        "Annotations/*.xml (one VOC folder)"
    )


def load_data(
    root: Path,
    *,
    train_split: str | None = None,
    val_split: str | None = None,
    classes: Sequence[str] | None = None,
    skip_bad: bool = False,
    allow_absent: bool = False,
    seed: int = 0,
) -> DataSplits:
    """The training and the validation split of the data set in ``root``, with one class list.

    Without names they are the customary ones; a data set with nothing to validate on is divided by ``seed``.
    ``allow_absent`` is that of ``load_split``.

    Raises:
        DataError: nothing is recognised, a split or class is unknown, or some data cannot be used.
    """
    layout = find_splits(root)
    choice = choose_splits(list(layout.splits), train_split, val_split)
    options = LoadOptions(classes, skip_bad, allow_absent)
    notes = [f"{layout.root}: {layout.kind.upper()} annotations with the splits {', '.join(layout.splits)}"]
    if choice.val is None:
        (whole,) = load_splits(layout, [choice.train], options)
        train, val = divide(whole, seed)
        notes.append(
            f"no validation split beside {choice.train!r}: divided into {len(train)} images to train "
            f"and {len(val)} to validate on (seed {seed})"
        )
    elif choice.val == choice.train:
        (train,) = load_splits(layout, [choice.train], options)
        val = train
    else:
        train, val = load_splits(layout, [choice.train, choice.val], options)
    return DataSplits(train, val, (*notes, *describe_splits(train, val)))


def load_split(
    root: Path,
    split: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    skip_bad: bool = False,
    allow_absent: bool = False,
) -> DetectionIndex:
    """One split; without a name the one to evaluate on: val, else test, else the only one.

    A VOC folder's classes are those of all its splits, so that every split gets the same list.
    ``allow_absent`` lets ``classes``, for example a checkpoint's, hold names that do not occur.
    """
    layout = find_splits(root)
    name = layout.match(split) if split else split_to_evaluate(list(layout.splits))
    options = LoadOptions(classes, skip_bad, allow_absent, classes_of_all_splits=True)
    return load_splits(layout, [name], options)[0]


def load_splits(layout: DataLayout, names: Sequence[str], options: LoadOptions) -> list[DetectionIndex]:
    """The splits ``names`` under one class list: COCO's from the first, VOC's from all of them together.

    Raises:
        DataError: a later COCO file has classes that the first lacks, or some data cannot be used.
    """
    load = _load_coco_splits if layout.kind == "coco" else _load_voc_splits
    indexes = load(layout, names, options)
    for index in indexes:
        if not len(index):
            raise DataError(f"{index.name}: expected at least one usable image, got none")
    return indexes


def _load_coco_splits(layout: DataLayout, names: Sequence[str], options: LoadOptions) -> list[DetectionIndex]:
    indexes: list[DetectionIndex] = []
    for name in names:
        source = layout.splits[name]
        index = load_coco(
            source.annotations[0],
            source.folders,
            classes=options.classes,
            skip_bad=options.skip_bad,
            name=layout.label(name),
            root=layout.root,
            agree_with=indexes[0] if indexes else None,
            allow_absent=options.allow_absent,
        )
        indexes.append(index)
    return indexes


def _load_voc_splits(layout: DataLayout, names: Sequence[str], options: LoadOptions) -> list[DetectionIndex]:
    splits = [
        read_voc_split(
            layout.splits[name].folders,
            name,
            skip_bad=options.skip_bad,
            name=layout.label(name),
            boundary=layout.root,
        )
        for name in names
    ]
    found = {name for split in splits for name in split.class_names()}
    if options.classes_of_all_splits:
        found |= scan_class_names({folder for source in layout.splits.values() for folder in source.folders})
    if not found:
        raise DataError(f"{layout.root}: expected annotated objects in the splits {', '.join(names)}, found none")
    class_names = select_classes(
        order_classes(found), options.classes, str(layout.root), allow_absent=options.allow_absent
    )
    return [index_voc_split(split, class_names) for split in splits]


def _coco_sources(root: Path) -> dict[str, Source]:
    folder = root / "annotations"
    files = sorted(folder.glob("instances_*.json"))
    if not files:
        files = [path for path in sorted(folder.glob("*.json")) if not path.name.startswith(OTHER_COCO_FILES)]
    sources = {}
    for path in files:
        split = path.stem.removeprefix("instances_")
        names = (split, f"images/{split}", "images", "JPEGImages", "", split.rstrip("0123456789"))
        sources[split] = Source((path,), tuple(root / name for name in names))
    return sources


def _roboflow_sources(root: Path) -> dict[str, Source]:
    files = sorted(root.glob(f"*/{ROBOFLOW_FILE}"))
    return {ROBOFLOW_NAMES.get(path.parent.name, path.parent.name): Source((path,), (path.parent,)) for path in files}


def _voc_sources(root: Path) -> dict[str, Source]:
    sets = {folder: image_sets(folder) for folder in _voc_roots(root)}
    sources = {}
    for name in sorted({name for found in sets.values() for name in found}):
        folders = tuple(folder for folder in sets if name in sets[folder])
        sources[name] = Source(tuple(folder / "Annotations" for folder in folders), folders)
    return sources


def _voc_roots(root: Path) -> list[Path]:
    for base in (root, root / "VOCdevkit"):
        if base.is_dir():
            years = [path for path in sorted(base.iterdir()) if VOC_YEAR.fullmatch(path.name)]
            if devkit := [path for path in years if (path / "Annotations").is_dir()]:
                return devkit
    return [root] if any((root / "Annotations").glob("*.xml")) else []
