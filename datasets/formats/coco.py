"""A COCO annotation file decoded and validated: the five things that detection needs of it, and no more."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np

from ssdlite.datasets.image_files import ImageFiles, UnsafePathError
from ssdlite.datasets.index import (
    BadItems,
    DetectionIndex,
    ImageColumns,
    ObjectColumns,
    build_index,
    label_names,
    match_classes,
    select_classes,
    usable_images,
)
from ssdlite.errors import DataError

Id = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
Side = Annotated[float, msgspec.Meta(gt=0, lt=2**31)]  # some writers give 640.0


class CocoImage(msgspec.Struct, gc=False):
    id: Id
    file_name: str
    width: Side | None = None
    height: Side | None = None


class CocoAnnotation(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]  # x, y, width, height
    id: int | str | None = None
    area: float | None = None
    iscrowd: int | bool | None = 0


class CocoCategory(msgspec.Struct, gc=False):
    id: Id
    name: str


class CocoFile(msgspec.Struct):
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


class CocoParts(msgspec.Struct):
    """The file when some entry of it is not as it should be: the entries are then looked at one by one."""

    images: list[Any]
    annotations: list[Any]
    categories: list[CocoCategory]


Entry = TypeVar("Entry", CocoImage, CocoAnnotation)


def read_coco_file(path: Path, bad: BadItems) -> CocoFile:
    """The file's images, annotations and categories (by ascending id); malformed entries go to ``bad``.

    Raises:
        DataError: the file is missing, not JSON, lacks one of three lists, or repeats an id or class name.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        content = msgspec.json.decode(data, type=CocoFile)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        content = _read_entry_by_entry(path, data, bad)
    content.categories.sort(key=lambda category: category.id)
    _require_unique(path, "image id", [image.id for image in content.images])
    _require_unique(path, "category id", [category.id for category in content.categories])
    _require_unique(path, "category name", [category.name for category in content.categories])
    if not content.categories:
        raise DataError(f"{path}: expected at least one entry in `categories`, got none")
    return content


def _read_entry_by_entry(path: Path, data: bytes, bad: BadItems) -> CocoFile:
    """The same with Python's own parser, which reads NaN tokens and a byte-order mark, and names the line."""
    try:
        raw = json.loads(data)
    except RecursionError:
        raise DataError(f"{path}: not COCO annotations: the JSON is nested too deeply") from None
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error})") from None
    try:
        parts = msgspec.convert(raw, CocoParts)
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: not COCO annotations: {error}") from None
    images = _convert_each(parts.images, CocoImage, "images", bad)
    annotations = _convert_each(parts.annotations, CocoAnnotation, "annotations", bad)
    return CocoFile(images, annotations, parts.categories)


def _convert_each(
    entries: Sequence[Any], kind: type[Entry], key: Literal["images", "annotations"], bad: BadItems
) -> list[Entry]:
    good = []
    for position, entry in enumerate(entries):
        try:
            good.append(msgspec.convert(entry, kind))
        except msgspec.ValidationError as error:
            entry_id = f" (id {entry['id']})" if isinstance(entry, dict) and "id" in entry else ""
            problem = "bad-image" if key == "images" else "bad-annotation"
            bad.add(problem, bad.source, f"{key}[{position}]{entry_id}: {error}")
    return good


def _require_unique(path: Path, what: str, values: Sequence[int | str]) -> None:
    if len(set(values)) == len(values):
        return
    seen: set[int | str] = set()
    for value in values:
        if value in seen:
            raise DataError(f"{path}: expected every {what} once, got {value!r} twice")
        seen.add(value)


# --- COCO detection annotations (``instances_*.json``) as a DetectionIndex.

PROBED_IMAGES = 20  # enough to tell which of several folders holds the pictures
NOT_SELECTED = -1


def load_coco(
    annotation_file: Path,
    image_folder: Path | Sequence[Path],
    *,
    classes: Sequence[str] | None = None,
    skip_bad: bool = False,
    name: str | None = None,
    root: Path | None = None,
    agree_with: DetectionIndex | None = None,
    allow_absent: bool = False,
) -> DetectionIndex:
    """Read one annotation file; images stand in the file's order.

    Labels are 0..K-1 in the order of ascending category id, or of ``classes``; objects of other classes are
    left out. COCO's crowd regions are kept as ``ignore``.

    Args:
        image_folder: where the pictures are; of several, the one that holds them.
        skip_bad: leave out, and count, what would otherwise raise.
        root: links in the image folder may lead anywhere inside it; by default not out of the image folder.
        agree_with: the index of the training split, whose class list this one has to take.
        allow_absent: ``classes`` may hold names that the file does not know, if it knows one of them.

    Raises:
        DataError: what cannot be used, all of it named in one message, or a file name that leaves the folder.
    """
    annotation_file = Path(annotation_file)
    name = annotation_file.stem.removeprefix("instances_") if name is None else name
    bad = BadItems(str(annotation_file), skip_bad)
    content = read_coco_file(annotation_file, bad)
    folders = [image_folder] if isinstance(image_folder, Path) else list(image_folder)
    files = _choose_folder([ImageFiles(folder, root) for folder in folders], content.images)
    class_names = _class_names(annotation_file, content, classes, agree_with, allow_absent)
    images, position_of = _images(content.images, files, bad)
    valid, label_of = _valid_annotations(content, position_of, class_names, bad)

    def where(row: int) -> tuple[str, str]:
        annotation = valid[row]
        class_name = class_names[label_of[annotation.category_id]]
        picture = Path(images.paths[position_of[annotation.image_id]]).name
        return str(annotation_file), f"{_label(annotation)} ({class_name}) of {picture}"

    objects = _objects(valid, position_of, label_of, where)
    problems = bad.finish()
    category_ids = _category_ids(content, class_names, agree_with)
    return build_index(
        images, objects, name=name, class_names=class_names, category_ids=category_ids, problems=problems
    )


def _choose_folder(candidates: Sequence[ImageFiles], images: Sequence[CocoImage]) -> ImageFiles:
    """The folder that holds most of some of the images, so that a missing one is named where it belongs."""
    probes = images[:: max(1, len(images) // PROBED_IMAGES)]
    existing = [files for files in candidates if files.folder.is_dir()]
    if not existing:
        raise DataError(f"no image folder: looked for {', '.join(str(files.folder) for files in candidates)}")
    return max(existing, key=lambda files: sum(_holds(files, image.file_name) for image in probes))


def _holds(files: ImageFiles, file_name: str) -> bool:
    try:
        return files.find(file_name) is not None
    except UnsafePathError:
        return False


def _class_names(
    annotation_file: Path,
    content: CocoFile,
    classes: Sequence[str] | None,
    agree_with: DetectionIndex | None,
    allow_absent: bool,
) -> tuple[str, ...]:
    known = [category.name for category in content.categories]
    if agree_with is None:
        return select_classes(known, classes, str(annotation_file), allow_absent=allow_absent)
    others = [name for name in known if name not in agree_with.class_names]
    if others and classes is None:
        raise DataError(
            f"{annotation_file}: expected the classes of {agree_with.name}, "
            f"{', '.join(agree_with.class_names)}; got others too: {', '.join(others)}. "
            "Choose those to use with --classes."
        )
    return agree_with.class_names


def _category_ids(content: CocoFile, class_names: Sequence[str], agree_with: DetectionIndex | None) -> tuple[int, ...]:
    """The file's ids of the classes; one that it lacks gets that of ``agree_with``, or if taken a new one."""
    taken = {category.name: category.id for category in content.categories}
    matches = match_classes(class_names, [category.name for category in content.categories])
    found = []
    for label, (name, match) in enumerate(zip(class_names, matches, strict=True)):
        if match is None:
            wanted = agree_with.category_ids[label] if agree_with else max(taken.values()) + 1
            taken[name] = wanted if wanted not in taken.values() else max(taken.values()) + 1
        found.append(taken[name] if match is None else content.categories[match].id)
    return tuple(found)


def _images(entries: Sequence[CocoImage], files: ImageFiles, bad: BadItems) -> tuple[ImageColumns, dict[int, int]]:
    """The usable images, and every image id of the file -> position among them, -1 where it is not usable."""
    found: list[CocoImage] = []
    paths: list[str] = []
    for image in entries:
        try:
            path = files.find(image.file_name)
        except UnsafePathError as error:
            raise UnsafePathError(f"{bad.source}: {error}") from None
        if path is None:
            bad.add("bad-image", str(files.folder / image.file_name), "no such image file")
        else:
            found.append(image)
            paths.append(path)
    annotated = [(int(i.height), int(i.width)) if i.height is not None and i.width is not None else None for i in found]
    images, moved = usable_images([image.id for image in found], paths, annotated, bad)
    position_of = {image.id: -1 for image in entries}
    position_of.update(zip((image.id for image in found), moved.tolist(), strict=True))
    return images, position_of


def _valid_annotations(
    content: CocoFile, position_of: dict[int, int], class_names: Sequence[str], bad: BadItems
) -> tuple[list[CocoAnnotation], dict[int, int]]:
    """The annotations of usable images and selected classes, and category id -> label."""
    label_by_name = label_names(class_names, (category.name for category in content.categories))
    label_of = {category.id: label_by_name.get(category.name, NOT_SELECTED) for category in content.categories}
    valid = []
    for annotation in content.annotations:
        position = position_of.get(annotation.image_id)
        label = label_of.get(annotation.category_id)
        _, _, width, height = annotation.bbox
        if position is None:
            reason = f"is for image id {annotation.image_id}, which `images` does not have"
        elif label is None:
            reason = f"is of category id {annotation.category_id}, which `categories` does not have"
        elif width < 0 or height < 0:
            reason = f"expected bbox [x, y, width, height], got a negative size in {list(annotation.bbox)}"
        else:
            if position >= 0 and label != NOT_SELECTED:
                valid.append(annotation)
            continue
        bad.add("bad-annotation", bad.source, f"{_label(annotation)}: {reason}")
    return valid, label_of


def _objects(
    annotations: Sequence[CocoAnnotation],
    position_of: dict[int, int],
    label_of: dict[int, int],
    where: Callable[[int], tuple[str, str]],
) -> ObjectColumns:
    boxes = np.array([a.bbox for a in annotations], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return ObjectColumns(
        images=np.array([position_of[a.image_id] for a in annotations], np.int64),
        boxes=boxes,
        labels=np.array([label_of[a.category_id] for a in annotations], np.int64),
        areas=np.array([np.nan if a.area is None else a.area for a in annotations], np.float64),
        ignore=np.array([bool(a.iscrowd) for a in annotations], np.bool_),
        where=where,
    )


def _label(annotation: CocoAnnotation) -> str:
    return "annotation" if annotation.id is None else f"annotation {annotation.id}"
