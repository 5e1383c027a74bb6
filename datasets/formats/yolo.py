"""YOLO data sets: which pictures belong to a split, and which label file to each of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from ssdlite.datasets.formats.base import Annotations, AnnotationsBuilder, BadItems
from ssdlite.datasets.formats.files import ImageFiles, read_bounded
from ssdlite.datasets.formats.finding import find_pictures
from ssdlite.datasets.formats.options import ReadOptions
from ssdlite.datasets.formats.splits import WHOLE_FOLDER
from ssdlite.datasets.formats.yolo_data import (
    Source,
    YoloData,
    decode_text,
    find_yolo_data,
    is_label_name,
    looks_like_labels,
    require_different_names,
)
from ssdlite.datasets.formats.yolo_labels import LabelReader
from ssdlite.errors import DataError, quote
from ssdlite.files import counted
from ssdlite.images.reading import is_picture_name

MAX_LIST_BYTES = 1 << 28


class YoloFormat:
    """Boxes; of polygons and oriented boxes the boxes around them; of poses their boxes."""

    name = "YOLO"
    looked_for = "data.yaml, or label files (*.txt) in labels/ or beside the pictures"

    def find_splits(self, root: Path) -> list[str]:
        try:
            data = find_yolo_data(root)
        except DataError:  # said when it is read
            return [WHOLE_FOLDER]
        return list(data.splits) if data else []

    def read_split(self, root: Path, split: str, bad: BadItems, options: ReadOptions) -> Annotations:
        data = find_yolo_data(root)
        if data is None or split not in data.splits:
            raise DataError(f"{root}: expected YOLO's split {split!r}, found none")
        if split in data.missing:
            raise DataError(f"{data.file}: {data.missing[split]}")
        require_different_names(data)
        builder = AnnotationsBuilder(f"{data.file} ({split})", in_fractions=True, box_form="center")
        builder.notes += data.notes
        labelled = _find_split(data, split, bad, options, builder.notes)
        if labelled and not any(label for _, label in labelled):
            _require_labels(data, options)
        labels = LabelReader(data)
        for position, (picture, label) in enumerate(labelled):
            builder.add_image(picture)
            found, unread = labels.read(label) if label else ((), ())
            for detail in unread:
                builder.add_unread(position, bad, label or "", detail)
            for one in found:
                builder.add_object(position, one.name, one.box, label or "", f"line {one.line}")
        labels.require_plausible(builder.source)
        builder.notes += labels.notes()
        return builder.build(list(dict.fromkeys((data.names or _numbered(data, options, labels.used)).values())))

    def order_classes(self, names: set[str]) -> None:
        """Labels name classes by their place in the list, which is kept as it is."""


def _require_labels(data: YoloData, options: ReadOptions) -> None:
    """A DataError where no picture of any split has a label file."""
    pictures: set[str] = set()
    for split in data.splits:
        with contextlib.suppress(DataError):  # of a split that was not asked for
            found = _find_split(data, split, BadItems(skip=True), options, [])
            if any(label for _, label in found):
                return
            pictures |= {picture for picture, _ in found}
    raise DataError(
        f"{data.file}: expected label files (.txt) in labels/ parallel to images/, or beside the pictures, found none "
        f"for any of {counted(len(pictures), 'picture')} ({', '.join(data.splits)}); empty files stand for background"
    )


def _numbered(data: YoloData, options: ReadOptions, used: set[int]) -> dict[int, str]:
    """Where there is no class list: the class numbers of all splits, so that each has the same list."""
    for split in data.splits:
        reader = LabelReader(data)
        for _, label in _find_split(data, split, BadItems(skip=True), options, []):
            if label:
                reader.read(label)
        used |= reader.used
    return {number: str(number) for number in sorted(used)}


# --- Pictures and their label files.


def _find_split(
    data: YoloData, split: str, bad: BadItems, options: ReadOptions, notes: list[str]
) -> list[tuple[str, str | None]]:
    """Pictures and their label files, None for background, in order of the pictures' paths."""
    files = _LabelFiles(data.folder, options.images)
    pictures: dict[str, Source] = {}
    for source in data.splits[split]:
        pictures |= dict.fromkeys(_find_pictures(source, data, bad, options, notes), source)
    found = {path: files.find(path, source) for path, source in sorted(pictures.items())}
    owners: dict[str, list[str]] = {}
    for path, label in found.items():
        if label:
            owners.setdefault(label, []).append(path)
    for label, paths in owners.items():
        if len(paths) > 1:
            shown = ", ".join(os.path.relpath(path, data.folder) for path in paths)
            bad.add("bad-image", label, f"expected one picture of that name, found {len(paths)}: {shown}")
            for path in paths:
                del found[path]
    only = len(data.splits) == 1
    for source in data.splits[split]:
        for label in files.without_picture(source, owners.keys(), only=only) if source.place.is_dir() else ():
            bad.add("bad-image", label, f"no such image file (of that name, in {options.images or source.place})")
    if without := sum(label is None for label in found.values()):
        notes.append(f"{split}: {counted(without, 'picture')} of {len(found)} without a label file: background")
    return list(found.items())


def _find_pictures(
    source: Source, data: YoloData, bad: BadItems, options: ReadOptions, notes: list[str]
) -> Sequence[str]:
    if source.place.is_file():
        return _read_list(source, data, bad, options, notes)
    if options.images is None:
        return ImageFiles(source.place, data.folder if source.inside else None).pictures()
    folder = Path(options.images)
    pictures = ImageFiles(folder).pictures()
    if len(data.splits) == 1:
        return pictures
    labels = _LabelFiles(data.folder, options.images)
    return [path for path in pictures if labels.find(path, source)]


def _read_list(source: Source, data: YoloData, bad: BadItems, options: ReadOptions, notes: list[str]) -> Sequence[str]:
    """The pictures that a list names, a line each: relative to it, or wherever they are today."""
    path = source.place
    lines = decode_text(path, read_bounded(path, MAX_LIST_BYTES)).splitlines()
    names = list(dict.fromkeys(line.strip() for line in lines if line.strip() and not line.startswith("#")))
    base = data.folder if source.inside else path.parent
    elsewhere = {name: there for name in names if (there := _outside(name, path.parent, base))}
    if elsewhere:
        notes.append(f"{path}: {counted(len(elsewhere), 'picture')} outside the data folder are read")
    folders = [Path(options.images)] if options.images else list(dict.fromkeys([path.parent, base]))
    here = [name for name in names if name not in elsewhere]
    found = list(elsewhere.values())
    for name, picture in zip(here, find_pictures(here, folders, base, path) if here else (), strict=True):
        if picture.path is None or not is_picture_name(Path(picture.path).name):
            bad.add("bad-image", path, f"{picture.error or 'no picture'} ({quote(name)})")
        else:
            found.append(picture.path)
    return found


def _outside(name: str, folder: Path, base: Path) -> str | None:
    """The path of a picture that exists outside ``base``."""
    if not is_picture_name(os.path.basename(name)) or name.startswith(("//", "\\\\")) or "\0" in name:  # noqa: PTH119
        return None
    if not (name.startswith("..") or os.path.isabs(name)):  # noqa: PTH117
        return None
    target = Path(os.path.realpath(folder / name))
    return str(target) if os.path.isfile(target) and not target.is_relative_to(base.resolve()) else None  # noqa: PTH113


class _LabelFiles:
    """Finds the label files of pictures; each folder is listed once. ``images``: --images."""

    def __init__(self, root: Path, images: str | None) -> None:
        self._root = root
        self._images = Path(images) if images else None
        self._folders: dict[tuple[str, Source], list[_LabelFolder]] = {}
        self._listed: dict[Path, _LabelFolder] = {}

    def find(self, picture: str, source: Source) -> str | None:
        """In ``labels`` parallel to ``images``, else beside the picture, else in the folder that goes with them."""
        directory, name = os.path.split(picture)
        key = directory, source
        if key not in self._folders:
            self._folders[key] = [self._folder(path, source) for path in self._places(Path(directory), source)]
        stem = os.path.splitext(name)[0]  # noqa: PTH122 (once per picture)
        return next((label for folder in self._folders[key] if (label := folder.find(stem))), None)

    def without_picture(self, source: Source, used: Collection[str], *, only: bool) -> list[str]:
        """The label files of a source's folder that are not ``used``; ``only``: there is one split."""
        places = self._places(source.place, source) if only else self._parallel(source.place)
        paths = dict.fromkeys(
            os.path.join(directory, name)  # noqa: PTH118 (once per file)
            for place in places
            for directory, _, names in os.walk(place)
            for name in names
            if is_label_name(name)
        )
        return sorted(path for path in paths if path not in used and looks_like_labels(Path(path)))

    def _folder(self, path: Path, source: Source) -> _LabelFolder:
        if path not in self._listed:
            self._listed[path] = _LabelFolder(ImageFiles(path, self._root if source.inside else None))
        return self._listed[path]

    def _places(self, directory: Path, source: Source) -> list[Path]:
        places = self._parallel(directory)
        below = Path()  # in the folder of the pictures
        if directory.is_relative_to(source.place):
            below = directory.relative_to(source.place)
        else:
            if self._images is not None and directory.is_relative_to(self._images):
                below = directory.relative_to(self._images)
            places += [place for label in self._parallel(source.place) for place in (label / below, label)]
        if source.labels is not None:
            own = source.labels / below
            places.append(own if own.is_dir() else source.labels)
        return list(dict.fromkeys(places))

    def _parallel(self, directory: Path) -> list[Path]:
        """``labels/train`` of ``images/train``, the last ``images`` first, and the folder itself."""
        parts = directory.parts
        first = len(self._root.parts) if directory.is_relative_to(self._root) else 1
        places = []
        for i in range(len(parts) - 1, first - 1, -1):
            if parts[i].lower() == "images":
                above = Path(*parts[:i])
                places += [above.joinpath(name, *parts[i + 1 :]) for name in _label_folders(above)]
        return [path for path in (*places, directory) if path.is_dir()]


def _label_folders(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.name.lower() == "labels")
    except OSError:
        return []


class _LabelFolder:
    def __init__(self, files: ImageFiles) -> None:
        self._files = files
        self._stems = {stem: stem for stem in files.stems(".txt") if is_label_name(f"{stem}.txt")}
        self._by_case = {stem.casefold(): stem for stem in self._stems}

    def find(self, stem: str) -> str | None:
        own = self._stems.get(stem) or self._by_case.get(stem.casefold())
        return (self._files.find(f"{own}.txt") or self._files.find(f"{own}.TXT")) if own else None
