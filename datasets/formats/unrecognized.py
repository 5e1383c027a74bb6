"""What is in a folder of no known format, and what the nearest format misses: for the message."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ssdlite.datasets.formats.coco import LISTS
from ssdlite.datasets.formats.csv_columns import read_columns
from ssdlite.datasets.formats.imagefolder import has_objects
from ssdlite.datasets.formats.json_files import read_head, read_json
from ssdlite.datasets.formats.parquet_files import has_columns
from ssdlite.datasets.formats.splits import split_word
from ssdlite.datasets.formats.yolo_data import is_class_list, is_empty, looks_like_labels
from ssdlite.errors import DataError, quote
from ssdlite.files import counted, listing
from ssdlite.images.reading import is_picture_name

MOST_COUNTED = 20_000  # files that are counted
MOST_LOOKED_INTO = 20  # of each kind
MAX_LOOKED_INTO_BYTES = 1 << 26
SHOWN_NAMES = 6
FILE_NOUNS = {
    "picture": "picture",
    ".json": "JSON file",
    ".jsonl": "JSONL file",
    ".parquet": "Parquet file",
    ".xml": "XML file",
    ".txt": "text file",
    ".csv": "CSV table",
    ".tsv": "TSV table",
    ".yaml": "YAML file",
    ".yml": "YAML file",
    ".data": "YOLO description",
    ".record": "TFRecord file",
    ".tfrecord": "TFRecord file",
    ".zip": "archive",
    ".tar": "archive",
    ".gz": "archive",
    ".tgz": "archive",
    ".7z": "archive",
    ".rar": "archive",
}  # by the endings of files
OTHER_FILE = "other file"
OF_NO_FORMAT = "of no known format"


def describe_folder(root: Path) -> str:
    """Sentences: what is there, and what of it is nearest to a known format, and why it is not of it."""
    files, complete = _files(root)
    if not any(files.values()):
        return "The folder is empty."
    counts = [counted(len(paths), kind) for kind, paths in files.items() if paths]
    has = " and ".join([", ".join(counts[:-1]), counts[-1]] if len(counts) > 1 else counts)
    _, hint = min(_hints(root, files), key=lambda ranked: ranked[0], default=(0, ""))
    return f"It has {has}{'' if complete else ' and more'}." + (f" {hint}." if hint else "")


def _files(root: Path) -> tuple[dict[str, list[Path]], bool]:
    """By the nouns of ``FILE_NOUNS``, those at the top first; whether they are all."""
    files: dict[str, list[Path]] = {kind: [] for kind in (*FILE_NOUNS.values(), OTHER_FILE)}
    number = 0
    for directory, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            if name.startswith("."):
                continue
            if number == MOST_COUNTED:
                return files, False
            number += 1
            kind = "picture" if is_picture_name(name) else os.path.splitext(name)[1].lower()  # noqa: PTH122
            files[FILE_NOUNS.get(kind, OTHER_FILE)].append(Path(directory, name))
    return files, True


def _hints(root: Path, files: dict[str, list[Path]]) -> Iterator[tuple[int, str]]:
    """(rank, text); those of rank 0 are about what is nearly of a known format."""

    def some(*kinds: str) -> Iterator[Path]:
        for kind in kinds:
            yield from files[kind][:MOST_LOOKED_INTO]

    def about(path: Path, text: str) -> tuple[int, str]:
        return int(OF_NO_FORMAT in text), f"{path.relative_to(root)} {text}"

    for path in some("JSON file"):
        yield about(path, _json_hint(path))
    for path in some("CSV table", "TSV table"):
        if text := _table_hint(path):
            yield about(path, text)
    for path in some("JSONL file", "Parquet file"):
        if not has_objects(path) and not has_columns(path, "objects"):
            name = f"metadata{path.suffix.lower()}"
            yield about(path, f"has no `objects`, which imagefolder's {name} has beside `file_name`")
    for path in some("text file"):
        if not is_class_list(path.name) and looks_like_labels(path):
            yield about(
                path,
                "looks like a label file of YOLO: expected such files in labels/ beside images/, or beside the "
                "pictures, in the data folder itself or in those of its splits (train/, val/)",
            )
    for path in some("YAML file", "YOLO description"):
        if re.search(rb"^\s*names\s*[:=]", read_head(path), re.MULTILINE):
            yield about(path, "names classes as YOLO's descriptions do, but there is no label file (.txt)")
        elif is_empty(path):
            yield about(path, "is empty")
    for path in some("XML file"):
        yield about(path, _xml_hint(path))
    for path in some("archive"):
        yield 1, f"Unpack {path.relative_to(root)}"
    yield 2, _picture_hint(root, files["picture"])


def _picture_hint(root: Path, pictures: list[Path]) -> str:
    if not pictures:
        return "It has no pictures"
    folders = {path.parent.name for path in pictures if path.parent != root}
    if len(folders) > 1 and not any(split_word(name) for name in folders):
        names = listing(sorted(folders), SHOWN_NAMES)
        return f"The folders of the pictures ({names}) may be classes, but nothing has boxes"
    return "Nothing beside the pictures could hold their boxes"


def _json_hint(path: Path) -> str:
    try:
        if read_head(path).startswith(b"["):
            return _list_hint(path)
        content = read_json(path, dict[str, msgspec.Raw], "JSON", MAX_LOOKED_INTO_BYTES)
    except DataError as error:
        return f"is {OF_NO_FORMAT}: {str(error).rpartition(': ')[2]}"
    has = [name for name in LISTS if name in content]
    lacks = [f"`{name}`" for name in LISTS if name not in content]
    if has and lacks:
        return f"is nearly COCO's: it has {' and '.join(f'`{name}`' for name in has)}, but no {' and no '.join(lacks)}"
    if has:
        return "has COCO's lists, but of captions, key points or segments, without boxes"
    return f"is {OF_NO_FORMAT}: its keys are {listing(map(quote, content), SHOWN_NAMES) or 'none'}"


def _list_hint(path: Path) -> str:
    entries = read_json(path, list[msgspec.Raw], "JSON", MAX_LOOKED_INTO_BYTES)
    try:
        keys = list(msgspec.json.decode(entries[0], type=dict[str, msgspec.Raw])) if entries else []
    except msgspec.DecodeError:
        keys = []
    if {"image_id", "bbox", "score"} <= set(keys):
        return "has detections in COCO's form of results, not annotations"
    of = f", the first with the keys {listing(map(quote, keys), SHOWN_NAMES)}" if keys else ""
    return f"is {OF_NO_FORMAT}: a list of {len(entries)}{of}"


def _table_hint(path: Path) -> str:
    columns = read_columns(path)
    if columns is None or columns.is_foreign:
        return ""
    if missing := columns.missing():
        got = listing([name or "''" for name in columns.names], SHOWN_NAMES)
        return f"is no table of boxes: its header has no column for {', '.join(missing)} ({got}){columns.renaming()}"
    return "has scores, as detections have: to use it as annotations, give the file itself"


def _xml_hint(path: Path) -> str:
    tag = re.search(rb"<([A-Za-z_][\w.-]*)", read_head(path))
    if tag is None:
        return f"is {OF_NO_FORMAT}: no XML"
    if tag[1] == b"annotation":
        return "looks like VOC's: expected such files beside the pictures, or in Annotations/, labels/ or xmls/"
    if tag[1] == b"annotations":
        return "looks like CVAT's, but has no pictures in it"
    return f"is {OF_NO_FORMAT}: its element is <{tag[1].decode()}>"
