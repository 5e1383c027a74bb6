"""Pascal VOC annotations: a devkit, a year of one, a folder of that form, or XML as annotation tools leave it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ssdlite.datasets.formats.base import Annotations, AnnotationsBuilder, BadItems
from ssdlite.datasets.formats.files import AmbiguousPictureError, ImageFiles, PictureTree, UnsafePathError
from ssdlite.datasets.formats.options import READ_OPTIONS, ReadOptions
from ssdlite.datasets.formats.splits import WHOLE_FOLDER
from ssdlite.datasets.formats.voc_files import VocAnnotation, decide_corners, edges, find_xml, read_voc_file
from ssdlite.datasets.formats.voc_folders import (
    find_devkits,
    find_xml_folders,
    image_sets,
    nested_folders,
    picture_folders,
    read_lines,
)
from ssdlite.errors import DataError
from ssdlite.files import counted
from ssdlite.images.reading import is_picture_name

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "")  # "" is the root itself


class VocFormat:
    """A devkit, whose years are read together, or one folder of its form: the image sets are the splits.

    Without, XML files in folders whose names tell the splits.
    """

    name = "VOC"
    looked_for = (
        "VOC2007/, VOC2012/ ... with or without VOCdevkit/, or Annotations/*.xml, or XML files beside the pictures"
    )

    def find_splits(self, root: Path) -> list[str]:
        if devkits := find_devkits(root):
            return sorted({name for folder in devkits for name in image_sets(folder)})
        return sorted({folder.split for folder in find_xml_folders(root)})

    def read_split(self, root: Path, split: str, bad: BadItems, options: ReadOptions) -> Annotations:
        if devkits := find_devkits(root):
            return read_voc([folder for folder in devkits if split in image_sets(folder)], split, bad, root, options)
        return read_xml_folders(root, split, bad, options)

    def order_classes(self, names: set[str]) -> tuple[str, ...]:
        """VOC's own order when all are VOC classes, otherwise alphabetical."""
        if names <= set(VOC_CLASSES):
            return tuple(name for name in VOC_CLASSES if name in names)
        return tuple(sorted(names))


class VocImage(NamedTuple):
    """One image of a set. ``one_based``: its corners are counted as VOC's own are."""

    image_id: int
    path: str
    annotation: VocAnnotation
    one_based: bool


def read_voc(
    roots: Sequence[Path],
    image_set: str,
    bad: BadItems,
    boundary: Path | None = None,
    options: ReadOptions = READ_OPTIONS,
) -> Annotations:
    """One image set, such as "trainval", of one or several folders with ``Annotations/``.

    Image ids count all annotation files of the roots, sorted by name, from 1: the same whatever the image set.
    Objects marked ``difficult`` are to be ignored.

    Args:
        boundary: links in the image folders may lead anywhere inside it; by default not out of their folder.
        options: how boxes are counted and where the pictures are, where not to be decided by looking.

    Raises:
        DataError: there is no such image set, or a file name leaves the folder.
    """
    sets = {root: _members(root, image_set) for root in roots}
    source = f"{', '.join(map(str, roots))} ({image_set})"
    if all(members is None for members in sets.values()):
        raise DataError(f"{source}: no image set {image_set!r} in ImageSets/Main")
    numbers = _image_numbers(roots)
    found: list[VocImage] = []
    notes: list[str] = []
    for root, members in sets.items():
        if members is None:
            continue
        xml_files = ImageFiles(root / "Annotations", boundary)
        parts = [ImageFiles(folder, boundary or root) for folder in nested_folders(root / "Annotations")]
        rule = decide_corners(parts, root, options.voc_corners)
        notes += [rule.note] if rule.note else []
        folders = [ImageFiles(folder, boundary or root) for folder in _image_folders(root, options)]
        for stem in members:
            annotation = _read_member(stem, xml_files, bad)
            path = _find_image(stem, annotation, folders, bad) if annotation else None
            if annotation and path:
                number = numbers.setdefault((stem, root), len(numbers) + 1)
                found.append(VocImage(number, path, annotation, rule.one_based(annotation)))
        if image_set == WHOLE_FOLDER and image_sets(root) == [WHOLE_FOLDER]:
            notes += _unlabeled_notes(root, found, set(members))
    return _to_annotations(source, found, bad, notes)


def read_xml_folders(root: Path, split: str, bad: BadItems, options: ReadOptions = READ_OPTIONS) -> Annotations:
    """One split of a data set whose XML files lie beside the pictures or in folders parallel to theirs.

    Image ids count all annotation files of the data set, sorted by path, from 1. Pictures without one are not used:
    annotation tools write none for pictures that nobody has looked at.

    Raises:
        DataError: a file name leaves the folder.
    """
    places = find_xml_folders(root)
    for place in places:
        ImageFiles(root).require_inside(place.path)
    xml_folders = [ImageFiles(place.path, root) for place in places]
    rule = decide_corners(xml_folders, root, options.voc_corners)
    tree = PictureTree(root)
    found: list[VocImage] = []
    known: set[str] = set()  # stems of all annotation files
    number = 0
    for place, xml_files in zip(places, xml_folders, strict=True):
        stems = xml_files.stems(".xml")
        known.update(stems)
        if place.split == split:
            folders = _holding_pictures(place.path, root, options)
            for position, stem in enumerate(stems, start=number + 1):
                annotation = _read_member(stem, xml_files, bad)
                path = _find_image(stem, annotation, folders, bad, tree) if annotation else None
                if annotation and path:
                    found.append(VocImage(position, path, annotation, rule.one_based(annotation)))
        number += len(stems)
    notes = [rule.note] if rule.note else []
    return _to_annotations(f"{root} ({split})", found, bad, notes + _unlabeled_notes(root, found, known))


def _holding_pictures(folder: Path, root: Path, options: ReadOptions) -> list[ImageFiles]:
    if options.images:
        elsewhere = Path(options.images)
        return [ImageFiles(place, elsewhere) for place in (elsewhere / folder.relative_to(root), elsewhere)]
    whole = ImageFiles(root)
    places = [ImageFiles(place, root) for place in picture_folders(folder, root)]
    holding = [files for files in places if files.by_stem()]
    for files in holding:
        whole.require_inside(files.folder)
    return holding


def _unlabeled_notes(root: Path, found: Sequence[VocImage], known: set[str]) -> list[str]:
    """How many pictures beside those in use have no annotation file; ``known``: stems of those that there are."""
    used = {os.path.split(image.path) for image in found}
    stems = {os.path.basename(stem) for stem in known}  # noqa: PTH119
    count = sum(
        (folder, name) not in used and stem not in stems
        for folder in {folder for folder, _ in used}
        for stem, names in ImageFiles(Path(folder)).by_stem().items()
        for name in names
    )
    return [f"{root}: {counted(count, 'picture')} without an XML file: not used"] if count else []


def _image_folders(root: Path, options: ReadOptions) -> list[Path]:
    folders = [Path(options.images)] if options.images else [root / folder for folder in IMAGE_FOLDERS]
    return [folder for folder in folders if folder.is_dir()] or folders[:1]


def _to_annotations(source: str, found: Sequence[VocImage], bad: BadItems, notes: Sequence[str]) -> Annotations:
    builder = AnnotationsBuilder(source)
    builder.notes += notes
    for image in found:
        file, size = image.annotation.file, image.annotation.size
        position = builder.add_image(image.path, size, image.image_id)
        for item in image.annotation.objects:
            what = f"object {item.number}"
            if item.error:
                builder.add_unread(position, bad, file, f"{what}: {item.error}")
            else:
                box = edges(item.corners, image.one_based)
                builder.add_object(position, item.name, box, file, what, ignore=item.difficult)
    return builder.build()


def _members(root: Path, image_set: str) -> list[str] | None:
    """The ids of an image set in the file's order, each once; None where this root has no such set."""
    path = root / "ImageSets" / "Main" / f"{image_set}.txt"
    if path.is_file():
        return list(dict.fromkeys(read_lines(path)))
    if image_set == WHOLE_FOLDER and image_sets(root) == [WHOLE_FOLDER]:
        return _all_stems(root / "Annotations")
    return None


def _all_stems(annotations: Path) -> list[str]:
    """Of the XML files in a folder and below it, "sub/a", sorted."""
    return sorted(
        (folder.relative_to(annotations) / stem).as_posix()
        for folder in nested_folders(annotations)
        for stem in ImageFiles(folder, annotations.parent).stems(".xml")
    )


def _image_numbers(roots: Sequence[Path]) -> dict[tuple[str, Path], int]:
    stems = [(stem, root) for root in roots for stem in _all_stems(root / "Annotations")]
    return {key: number for number, key in enumerate(sorted(stems), start=1)}


def _read_member(stem: str, xml_files: ImageFiles, bad: BadItems) -> VocAnnotation | None:
    path = find_xml(stem, xml_files)
    if path is None:
        bad.add("bad-annotation", xml_files.folder / f"{stem}.xml", "no such annotation file")
        return None
    try:
        return read_voc_file(Path(path))
    except DataError as error:
        bad.add("bad-annotation", path, str(error).removeprefix(f"{path}: "))
        return None


def _find_image(
    stem: str,
    annotation: VocAnnotation,
    folders: Sequence[ImageFiles],
    bad: BadItems,
    tree: PictureTree | None = None,
) -> str | None:
    """The picture of the annotation's own name, otherwise the one in its <filename>, which renaming leaves behind.

    Of several of its own name it is the one that is named. Where own and named differ, it is counted. ``tree`` is
    looked through where there are no ``folders``.
    """
    name = annotation.image_name or ""
    try:
        named = _find_named(name, folders)
    except UnsafePathError as error:
        name = name.replace("\\", "/").rpartition("/")[2]
        if Path(name).stem != Path(stem).name:  # otherwise it says where its own picture once was
            raise UnsafePathError(f"{annotation.file}: {error}") from None
        named = _find_named(name, folders)
    if named and Path(named).stem == Path(stem).name:
        return named
    try:
        own = next((path for files in folders if (path := _find_own(stem, files))), None)
        if not own and not named and name:
            plain = os.path.splitext(name)[0] if is_picture_name(name) else name  # noqa: PTH122
            named = next((path for files in folders if (path := files.find_only(plain))), None)
        if tree and not folders:
            own = tree.find_stem(Path(stem).name)
            named = tree.find(name) if name and not own else None
    except AmbiguousPictureError as error:
        bad.add("bad-image", annotation.file, str(error))
        return None
    if own and named:
        detail = f"<filename> names {annotation.image_name}, but {Path(own).name} is there too and was taken"
        bad.mend("other-picture", annotation.file, detail)
    if not own and not named:
        place = folders[0].folder if folders else annotation.file.parent
        bad.add("bad-image", place / (name or f"{stem}.jpg"), "no such image file")
    return own or named


def _find_own(stem: str, files: ImageFiles) -> str | None:
    """The picture "a.jpg" of "a.xml", or of "a.jpg.xml"."""
    return files.find_only(stem) or (files.find(stem) if is_picture_name(Path(stem).name) else None)


def _find_named(name: str, folders: Sequence[ImageFiles]) -> str | None:
    """The file of a <filename>, which some tools make that of the annotation itself."""
    if not name or name.lower().endswith(".xml"):
        return None
    return next((path for files in folders if (path := files.find(name))), None)
