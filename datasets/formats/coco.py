"""COCO detection annotations, whatever their file is called and wherever it lies."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np

from ssdlite.datasets.formats.base import Annotations, BadItems
from ssdlite.datasets.formats.finding import find_pictures
from ssdlite.datasets.formats.json_files import has_keys, is_cut_off
from ssdlite.datasets.formats.options import ReadOptions
from ssdlite.datasets.formats.splits import find_split_files
from ssdlite.errors import DataError, quote
from ssdlite.images.geometry import Size

OTHER_FILES = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_")
ROBOFLOW_FILE = "_annotations.coco.json"
ANNOTATION_FOLDERS = ("annotations", "annotation", "annots")  # whatever their case
IMAGE_PLACES = ("images", "JPEGImages", "data", "")  # below a folder; "" is itself


class CocoFormat:
    """One file a split; the splits take the class list of the first, in the order of ascending category id."""

    name = "COCO"
    looked_for = (
        f"annotations/instances_*.json, or */{ROBOFLOW_FILE} beside the images, or any JSON file with images, "
        "annotations and categories"
    )

    def find_splits(self, root: Path) -> list[str]:
        return list(_find_files(root))

    def read_split(self, root: Path, split: str, bad: BadItems, options: ReadOptions) -> Annotations:
        files = _find_files(root)
        file = files[split]
        others = [other for other in files.values() if other != file]
        if root.is_file() or root.name.lower() in ANNOTATION_FOLDERS:
            root = _own_folder(file)
        folders = [Path(options.images)] if options.images else _image_folders(root, file, split)
        return read_coco(file, folders, bad, root, others)

    def order_classes(self, names: set[str]) -> None:
        """Each file lists its categories."""


def _image_folders(root: Path, file: Path, split: str) -> list[Path]:
    """Where the pictures of a split may be."""
    bare = split.rstrip("0123456789")
    below = list(dict.fromkeys((split, f"images/{split}", *IMAGE_PLACES, bare, f"images/{bare}")))
    base = _own_folder(file)
    if file.name == ROBOFLOW_FILE:
        return [file.parent]
    own = [base / place for place in ("", *below)] if base != root and base.is_relative_to(root) else []
    return list(dict.fromkeys([*own, *(root / place for place in below), file.parent]))


LISTS = ("images", "annotations", "categories")


def _find_files(root: Path) -> dict[str, Path]:
    """The annotation file of every split."""
    return find_split_files(root, ".json", _annotation_files, ANNOTATION_FOLDERS)


def _annotation_files(files: Sequence[Path]) -> list[Path]:
    """Of JSON files those with objects to detect: by their names where there are such, else by what is in them."""
    files = [path for path in files if not path.name.startswith(OTHER_FILES)]
    named = [path for path in files if path.name.startswith("instances_") or path.name == ROBOFLOW_FILE]
    found = named or [path for path in files if _holds_lists(path)]
    return [path for path in found if "keypoint" not in path.name.lower()] or found  # which have boxes too, of persons


def _holds_lists(path: Path) -> bool:
    """Whether it has the lists of detection annotations; those of panoptic ones hold no boxes."""
    return has_keys(path, LISTS, without="segments_info") or (is_cut_off(path) and has_keys(path, LISTS[:1]))


def _own_folder(file: Path) -> Path:
    """The folder that holds the file and the pictures."""
    return file.parent.parent if file.parent.name.lower() in ANNOTATION_FOLDERS else file.parent


def read_coco(
    file: Path, folders: Sequence[Path], bad: BadItems, root: Path | None = None, others: Sequence[Path] = ()
) -> Annotations:
    """One annotation file; images stand in its order, COCO's crowd regions are to be ignored.

    Args:
        folders: where the pictures may be; that which holds them is used.
        root: links in the image folder may lead anywhere inside it; by default not out of the image folder.
        others: files of the other splits, which are looked at for objects of a category that may be no class.

    Raises:
        DataError: the file cannot be read as COCO annotations, or a file name leaves the folder.
    """
    content = decode_file(file, bad)
    groups = _grouping_categories(content, others)
    content.categories = [category for category in content.categories if category.id not in groups]
    paths = _find_images(file, content.images, folders, root, bad)
    class_of = {category.id: position for position, category in enumerate(content.categories)}
    valid, unread = _valid_annotations(file, content, class_of, paths.keys(), bad)
    images = [image for image in content.images if image.id in paths]
    position_of = {image.id: position for position, image in enumerate(images)}

    def where(row: int) -> tuple[str, str]:
        annotation = valid[row]
        class_name = content.categories[class_of[annotation.category_id]].name
        return str(file), f"{_label(annotation)} ({class_name}) of {Path(paths[annotation.image_id]).name}"

    boxes = np.array([a.bbox for a in valid], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Annotations(
        source=str(file),
        image_ids=[image.id for image in images],
        paths=[paths[image.id] for image in images],
        stated_sizes=[image.size for image in images],
        class_names=[category.name for category in content.categories],
        images=np.array([position_of[a.image_id] for a in valid], np.int64),
        boxes=boxes,
        classes=np.array([class_of[a.category_id] for a in valid], np.int64),
        where=where,
        areas=np.array([np.nan if a.area is None else a.area for a in valid], np.float64),
        ignore=np.array([bool(a.iscrowd) for a in valid], np.bool_),
        category_ids=[category.id for category in content.categories],
        box_form="size",
        unread={position_of[image_id] for image_id in unread.union(content.unread) if image_id in position_of},
        notes=[
            f"{root or file.parent}: category {name!r} has no objects and others belong to it: a group, not a class"
            for name in groups.values()
        ],
    )


def _grouping_categories(content: CocoFile, others: Sequence[Path]) -> dict[int, str]:
    """Id and name of categories that others belong to and no split has objects of, as Roboflow's with the id 0."""
    owners = [category.supercategory for category in content.categories if category.supercategory != category.name]
    belong = {name for name in owners if isinstance(name, str)}
    groups = {c.id: c.name for c in content.categories if c.name in belong and c.supercategory in (None, "", "none")}
    files = iter(others)
    annotations = content.annotations
    while groups:
        with_objects = {annotation.category_id for annotation in annotations}
        groups = {category_id: name for category_id, name in groups.items() if category_id not in with_objects}
        if (other := next(files, None)) is None:
            break
        with contextlib.suppress(DataError):  # of a split that was not asked for
            annotations = decode_file(other, BadItems(skip=True)).annotations
    return groups


def _find_images(
    file: Path, images: Sequence[CocoImage], folders: Sequence[Path], root: Path | None, bad: BadItems
) -> dict[int, str]:
    """The path of every image, by its id, whose file exists."""
    paths = {}
    for image, found in zip(images, find_pictures([i.file_name for i in images], folders, root, file), strict=True):
        if found.path is None:
            bad.add("bad-image", found.place, found.error)
        else:
            paths[image.id] = found.path
    return paths


def _valid_annotations(
    file: Path, content: CocoFile, class_of: Mapping[int, int], images: Collection[int], bad: BadItems
) -> tuple[list[CocoAnnotation], set[int]]:
    """The annotations of ``images``, and the ids of images of which one cannot be used."""
    valid, unread = [], set()
    known_images = {image.id for image in content.images}
    for annotation in content.annotations:
        _, _, width, height = annotation.bbox
        if annotation.image_id not in known_images:
            reason = f"is for image id {annotation.image_id}, which `images` does not have"
        elif annotation.category_id not in class_of:
            reason = f"is of category id {annotation.category_id}, which `categories` does not have"
        elif width < 0 or height < 0:
            x, y = annotation.bbox[:2]
            reason = (
                f"expected bbox [x, y, width, height], got a negative size in {list(annotation.bbox)} (corners {x:g}, "
                f"{y:g}, {x + width:g}, {y + height:g})"
            )
        else:
            if annotation.image_id in images:
                valid.append(annotation)
            continue
        bad.add("bad-annotation", file, f"{_label(annotation)}: {reason}")
        unread.add(annotation.image_id)
    return valid, unread


def _label(annotation: CocoAnnotation) -> str:
    return "annotation" if annotation.id is None else f"annotation {annotation.id}"


# --- The file decoded and validated: what detection needs of it, and no more.

Id = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
Side = Annotated[float, msgspec.Meta(gt=0, lt=2**31)]  # some writers give 640.0


class CocoImage(msgspec.Struct, gc=False):
    id: Id
    file_name: str
    width: Side | None = None
    height: Side | None = None

    @property
    def size(self) -> Size | None:
        """As stated."""
        return None if self.width is None or self.height is None else (int(self.height), int(self.width))


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
    supercategory: Any = None


class CocoFile(msgspec.Struct):
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


class CocoContent(CocoFile):
    """What could be read of a file."""

    unread: Sequence[int] = ()  # ids of images with an annotation that could not


class CocoParts(msgspec.Struct):
    """The file when some entry of it is not as it should be: the entries are then looked at one by one."""

    images: list[Any]
    annotations: list[Any]
    categories: list[CocoCategory]


Entry = TypeVar("Entry", CocoImage, CocoAnnotation)


def decode_file(path: Path, bad: BadItems) -> CocoContent:
    """The file's images, annotations and categories (by ascending id); malformed entries go to ``bad``.

    Raises:
        DataError: the file is missing, not JSON, lacks one of three lists, or repeats an id or class name.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        file = msgspec.json.decode(data, type=CocoFile)
        content = CocoContent(file.images, file.annotations, file.categories)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        content = _read_entry_by_entry(path, data, bad)
    content.categories.sort(key=lambda category: category.id)
    _require_unique(path, "image id", [image.id for image in content.images])
    _require_unique(path, "category id", [category.id for category in content.categories])
    _require_unique(path, "category name", [category.name for category in content.categories])
    if not content.categories:
        raise DataError(f"{path}: expected at least one entry in `categories`, got none")
    return content


def _read_entry_by_entry(path: Path, data: bytes, bad: BadItems) -> CocoContent:
    """The same with Python's own parser, which reads NaN tokens and a byte-order mark, and names the line."""
    try:
        raw = json.loads(data)
    except RecursionError:
        raise DataError(f"{path}: not COCO annotations: the JSON is nested too deeply") from None
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error})") from None
    try:
        parts = msgspec.convert(raw, CocoParts, strict=False)
        msgspec.json.encode(parts.categories)  # refuses lone surrogates, which Python's parser lets through
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise DataError(f"{path}: not COCO annotations: {error}") from None
    images, _ = _convert_each(path, parts.images, CocoImage, "images", bad)
    annotations, others = _convert_each(path, parts.annotations, CocoAnnotation, "annotations", bad)
    return CocoContent(images, annotations, parts.categories, list(_image_ids(others)))


def _image_ids(entries: Sequence[Any]) -> Iterator[int]:
    """Of the annotations that say whose they are."""
    for entry in entries:
        with contextlib.suppress(msgspec.ValidationError):
            yield msgspec.convert(entry.get("image_id") if isinstance(entry, dict) else None, int, strict=False)


def _convert_each(
    path: Path, entries: Sequence[Any], kind: type[Entry], key: Literal["images", "annotations"], bad: BadItems
) -> tuple[list[Entry], list[Any]]:
    """The good ones, and those that are none."""
    good, others, problem = [], [], "bad-image" if key == "images" else "bad-annotation"
    for position, entry in enumerate(entries):
        entry_id = f" (id {quote(entry['id']).strip(chr(39))})" if isinstance(entry, dict) and "id" in entry else ""
        where = f"{key}[{position}]{entry_id}"
        try:
            msgspec.json.encode(entry)
            good.append(msgspec.convert(entry, kind))
        except msgspec.ValidationError as error:
            try:
                good.append(msgspec.convert(entry, kind, strict=False))
                bad.mend("number-as-text", path, f"{where}: {error}")
            except msgspec.ValidationError:
                bad.add(problem, path, f"{where}: {error}")
                others.append(entry)
        except (UnicodeEncodeError, RecursionError) as error:
            bad.add(problem, path, f"{where}: {error}")
            others.append(entry)
    return good, others


def _require_unique(path: Path, what: str, values: Sequence[int | str]) -> None:
    if len(set(values)) == len(values):
        return
    seen: set[int | str] = set()
    for value in values:
        if value in seen:
            raise DataError(f"{path}: expected every {what} once, got {value!r} twice")
        seen.add(value)
