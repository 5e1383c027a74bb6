"""What a YOLO data set consists of: splits and class names, from ``data.yaml`` or ``obj.data``, or found by looking."""

from __future__ import annotations

import itertools
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import yaml

from ssdlite.datasets.formats.files import ImageFiles, read_bounded
from ssdlite.datasets.formats.json_files import read_head
from ssdlite.datasets.formats.splits import SPLIT_WORD, WHOLE_FOLDER, subfolders
from ssdlite.datasets.index import MOST_CLASSES
from ssdlite.errors import DataError, quote
from ssdlite.files import listing
from ssdlite.images.reading import is_picture_name

YAML_ENDINGS = (".yaml", ".yml")
DESCRIPTION_ENDINGS = (*YAML_ENDINGS, ".data")
USUAL_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml", "obj.data")  # before others, in this order
OWN_KEY = re.compile(rb"""(^|[{,])[ \t]*["']?(names|nc|classes)["']?[ \t]*[:=]""", re.MULTILINE)
YOLO_CLASS_LISTS = ("classes.txt", "obj.names", "_darknet.labels", "class_names.txt", "labels.txt")
SPLIT_FOLDER = re.compile(rf"(?:obj_)?({SPLIT_WORD.pattern})(?:_data)?", re.IGNORECASE)  # CVAT's: obj_train_data
MAX_DESCRIPTION_BYTES = 1 << 19  # the names of 13,000 classes are half of it
MOST_DESCRIPTIONS = 20  # files that are looked into
MOST_NESTED = 20  # of a YAML file, which needs three
PROBED_LABELS = 20  # label files that are looked into
LISTED_LABELS = 100_000  # files of one folder that are looked through for them
LONGEST_NUMBER = 9


class Source(NamedTuple):
    """Pictures of a split: those below a folder, or those that a list (.txt) names."""

    place: Path
    labels: Path | None = None  # a folder of label files that is neither parallel to ``images`` nor the pictures' own
    inside: bool = True  # the data folder


@dataclass
class YoloData:
    """``names`` by class id; None where there is no list. ``missing``: why there is nothing of a split."""

    folder: Path
    file: Path  # that has the class names, for messages; the folder where none has
    names: Mapping[int, str] | None = None
    keypoint_numbers: int = 0
    splits: dict[str, list[Source]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find_yolo_data(root: Path, *, nested: bool = False) -> YoloData | None:
    """The data set in a folder or that a file describes; None where it is none of YOLO's.

    Where a folder has nothing of it and only one sub-folder, as of unpacked archives, that is looked at (``nested``).

    Raises:
        DataError: it is one, and what describes it cannot be read.
    """
    folder = root if root.is_dir() else root.parent
    described = _read_description(root) if root.is_file() else _find_description(folder)
    if root.is_file() and described is None:
        return None
    data = _with_names(folder, described)
    if described is not None:
        _add_stated_splits(data, described)
    if not any(data.splits.values()):
        if looked := look_for_splits(folder, named=data.names is not None):
            data.notes += [f"{data.file}: {reason}; what is there is used" for reason in data.missing.values()]
            data.splits, data.missing = looked, {}
        elif not data.splits:
            below = subfolders(root) if root.is_dir() and not nested else []
            return find_yolo_data(below[0], nested=True) if len(below) == 1 else None
    return data


def _with_names(folder: Path, described: YoloDescription | None) -> YoloData:
    data = YoloData(folder, folder)
    if described is not None:
        data.file, data.names, data.notes = described.file, described.names, described.notes
        data.keypoint_numbers = described.keypoint_numbers
    if data.names is None and (listed := _find_class_list(folder, described)):
        data.file, data.names = listed
        if described is not None and described.classes not in (None, len(data.names)):
            raise DataError(
                f"{described.file}: expected as many names as classes says, got classes {described.classes} and "
                f"{len(data.names)} names in {data.file}"
            )
    if data.names is None:
        empty = next((name for name in USUAL_NAMES if is_empty(folder / name)), None)
        reason = f"{empty} is empty" if empty else "data.yaml, classes.txt"
        data.notes.append(f"{folder}: no list of class names ({reason}): classes are called by their numbers")
    return data


def require_different_names(data: YoloData) -> None:
    """A DataError for classes of one name, whose objects could not be told apart."""
    numbers: dict[str, list[int]] = {}
    for number, name in (data.names or {}).items():
        numbers.setdefault(name, []).append(number)
    for name, those in numbers.items():
        if len(those) > 1:
            raise DataError(
                f"{data.file}: expected every class name once, got {quote(name)} for the classes "
                f"{listing(map(str, those))}. Give each its own; if they are one class, --rename makes them one then"
            )


def _add_stated_splits(data: YoloData, described: YoloDescription) -> None:
    found = {split: _resolve(texts, described.base, data.folder) for split, texts in described.splits.items()}
    for split, (sources, absent) in found.items():
        reason = f"{split}: expected a folder or a list of pictures, found none called {', '.join(absent)}"
        if absent and any(there for there, _ in found.values()) and (sources or split not in TRAINING_KEYS):
            data.notes.append(f"{described.file}: {reason}; passed over")
        elif absent:
            data.missing[split] = reason
        if sources or split in data.missing:
            data.splits[split] = sources
    outside = sorted({str(one.place) for sources in data.splits.values() for one in sources if not one.inside})
    if outside:
        data.notes.append(f"{described.file}: pictures outside its folder are read: {listing(outside)}")


# --- Files that describe a data set.

SPLIT_KEYS = ("train", "training", "val", "valid", "validation", "minival", "test", "testing")
TRAINING_KEYS = ("train", "training")


@dataclass
class YoloDescription:
    """What a file says: paths as they stand there; ``base``: the folder that they are relative to."""

    file: Path
    splits: dict[str, list[str]]
    base: str = ""
    names: Mapping[int, str] | None = None
    names_file: str = ""
    classes: int | None = None  # Darknet's number of names
    keypoint_numbers: int = 0
    notes: list[str] = field(default_factory=list)


def _find_description(folder: Path) -> YoloDescription | None:
    names = sorted(name for name in _listing(folder) if name.lower().endswith(DESCRIPTION_ENDINGS))
    for name in USUAL_NAMES:
        if name in names and (one := _read_description(folder / name)):
            return one
    described = [one for name in names[:MOST_DESCRIPTIONS] if (one := _read_description(folder / name))]
    if len(described) > 1:
        found = ", ".join(one.file.name for one in described)
        raise DataError(f"{folder}: expected one file that describes the data set, found {found}; give one as --data")
    return described[0] if described else None


def _read_description(path: Path) -> YoloDescription | None:
    """Of a .yaml or .data file; None where it is not about a data set of YOLO's."""
    if not path.name.lower().endswith(DESCRIPTION_ENDINGS):
        return None
    head = read_head(path)
    if not OWN_KEY.search(_plain_head(head)):
        if b"\0" in head and path.name in USUAL_NAMES:
            raise DataError(f"{path}: expected text in UTF-8 (or UTF-16 that begins with its mark), got other bytes")
        return None
    text = decode_text(path, read_bounded(path, MAX_DESCRIPTION_BYTES))
    return _read_yaml(path, text) if path.name.lower().endswith(YAML_ENDINGS) else _read_darknet(path, text)


def is_empty(path: Path) -> bool:
    """Whether it is a file of nothing but white space and YAML's comments."""
    return _is_file(path) and not re.sub(rb"(?m)^\s*(#.*|---\s*)?$", b"", _plain_head(read_head(path))).strip()


UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def _plain_head(head: bytes) -> bytes:
    """What ``read_head`` gives, in UTF-8."""
    return head.decode("utf-16", "replace").encode("utf-8", "replace") if head.startswith(UTF_16_MARKS) else head


def decode_text(path: Path, data: bytes) -> str:
    """UTF-8 with or without its mark, or UTF-16 with it, as PowerShell writes text.

    Raises:
        DataError: it is none of these, the message naming the line.
    """
    try:
        return data.decode("utf-16" if data.startswith(UTF_16_MARKS) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}: line {line}: expected UTF-8 text ({error.reason})") from None


def _read_darknet(path: Path, text: str) -> YoloDescription | None:
    """Darknet's ``obj.data``, lines of "key = value"."""
    pairs = dict(line.partition("=")[::2] for line in text.splitlines() if not line.lstrip().startswith("#"))
    values = {key.strip().lower(): value.strip() for key, value in pairs.items()}
    splits = {key: [values[key]] for key in SPLIT_KEYS if values.get(key)}
    if not splits and "names" not in values:
        return None
    number = _whole_number(path, "classes", values["classes"]) if values.get("classes") else None
    return YoloDescription(path, splits, names_file=values.get("names", ""), classes=number)


class _TextLoader(yaml.SafeLoader):  # type: ignore[misc] # PyYAML has no types
    """Makes lists, dicts and text of YAML, nothing else: a class called ``no`` or ``007`` keeps its name.

    Aliases, by which small files become huge, and deep nesting are refused.
    """

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are refused", problem_mark=self.peek_event().start_mark)
        self.depth += 1
        if self.depth > MOST_NESTED:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return "" if node.style is None and node.value.lower() in ("~", "null", "none") else node.value
        return super().construct_object(node, deep=True)


def _read_yaml(path: Path, text: str) -> YoloDescription | None:
    try:
        values = yaml.load(text, Loader=_TextLoader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise DataError(f"{path}: {line}not well-formed YAML ({error.problem or error.context})") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise DataError(f"{path}: not well-formed YAML ({quote(str(error))})") from None
    if not isinstance(values, dict):
        return None
    splits = {key: _texts(path, key, values[key]) for key in SPLIT_KEYS if values.get(key)}
    if not splits and "names" not in values:
        return None
    described = YoloDescription(path, splits, keypoint_numbers=_keypoint_numbers(path, values.get("kpt_shape")))
    described.base = _texts(path, "path", values.get("path", ""))[0]
    described.names = _read_names(described, values.get("names"), values.get("nc"))
    return described


def _texts(path: Path, key: str, value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) and "\0" not in text for text in texts) or (key == "path" and len(texts) != 1):
        raise DataError(f"{path}: {key}: expected a path{'' if key == 'path' else ' or a list'}, got {quote(value)}")
    return [text.strip() for text in texts]


def _whole_number(path: Path, key: str, text: Any) -> int:
    if not (isinstance(text, str) and re.fullmatch(rf"\d{{1,{LONGEST_NUMBER}}}", text.strip(), re.ASCII)):
        raise DataError(f"{path}: {key}: expected whole numbers, got {quote(text)}")
    return int(text)


def _read_names(described: YoloDescription, given: Any, count: Any) -> Mapping[int, str] | None:
    """By class id, of ``names`` as a list or by number; by ``nc`` alone they are called 0, 1, ..."""
    path = described.file
    number = _whole_number(path, "nc", count) if count not in (None, "") else None
    if given in (None, "", []):
        if number is None:
            return None
        if number > MOST_CLASSES:
            raise DataError(f"{path}: expected at most {MOST_CLASSES} classes, got nc {number}")
        described.notes.append(f"{path}: has nc and no names: classes are called by their numbers")
        return {i: str(i) for i in range(number)}
    numbered = dict(enumerate(given)) if isinstance(given, list) else given
    if not isinstance(numbered, dict) or not all(isinstance(name, str) for name in numbered.values()):
        raise DataError(f"{path}: names: expected a list of class names or names by number, got {quote(given)}")
    numbered = {key if isinstance(key, int) else _whole_number(path, "names", key): numbered[key] for key in numbered}
    names = {key: name.strip() or str(key) for key, name in sorted(numbered.items())}
    if number is not None and number != len(names):
        raise DataError(f"{path}: expected as many names as nc says, got nc {number} and {len(names)} names")
    return names


def _keypoint_numbers(path: Path, shape: Any) -> int:
    """How many numbers follow the box of a pose label: ``kpt_shape`` is [points, 2 or 3]."""
    if shape in (None, "", []):
        return 0
    numbers = [_whole_number(path, "kpt_shape", text) for text in (shape if isinstance(shape, list) else [shape])]
    if len(numbers) != 2:
        raise DataError(f"{path}: kpt_shape: expected two numbers, got {quote(shape)}")
    return numbers[0] * numbers[1]


def _find_class_list(folder: Path, described: YoloDescription | None) -> tuple[Path, Mapping[int, str]] | None:
    """``classes.txt`` and the like: that which is named, else of the folder, its ``labels``, or one of its splits."""
    places = [folder, *_called(folder, "labels")]
    places += [below for place in places for below in subfolders(place) if SPLIT_FOLDER.fullmatch(below.name)]
    places += [labels for place in places for labels in _called(place, "labels") if labels not in places]
    paths = [
        place / name for place in places for name in sorted(_listing(place), key=_list_rank) if is_class_list(name)
    ]
    if described is not None and described.names_file:
        if (named := _within(described.names_file, folder, _is_file)) is not None:
            return named, _read_class_list(named)
        described.notes.append(f"{described.file}: names: there is no {described.names_file}; passed over")
    for path in dict.fromkeys(paths):
        if not looks_like_labels(path) and (names := _read_class_list(path)):
            return path, names
    return None


def _list_rank(name: str) -> tuple[int, str]:
    return YOLO_CLASS_LISTS.index(name.lower()) if name.lower() in YOLO_CLASS_LISTS else len(YOLO_CLASS_LISTS), name


def is_class_list(name: str) -> bool:
    return name.lower() in YOLO_CLASS_LISTS or name.lower().endswith(".names")


def _read_class_list(path: Path) -> dict[int, str]:
    ImageFiles(path.parent, path.parent).find(path.name)  # a link must not lead out
    lines = decode_text(path, read_bounded(path, MAX_DESCRIPTION_BYTES)).rstrip().splitlines()
    return {number: line.strip() or str(number) for number, line in enumerate(lines)}


# --- Where the paths that a file states lead to today.


def _resolve(texts: Sequence[str], base: str, folder: Path) -> tuple[list[Source], list[str]]:
    """What there is, and the paths of what there is not."""
    found = {text: _find_place(text, base, folder) for text in texts}
    return [one for one in found.values() if one is not None], [
        quote(text) for text, one in found.items() if one is None
    ]


def _find_place(text: str, base: str, folder: Path) -> Source | None:
    """Where a path leads: as it stands if it is absolute; else within ``folder``, whatever it begins with (``../``,
    ``/content/cards/``, ``C:\\cards\\``); else outside, by ``..``.
    """
    absolute = _is_absolute(text)
    full = text if absolute or not base else f"{base}/{text}"
    if not full.startswith(("//", "\\\\")):  # a share in the network is not looked at
        if Path(full).is_absolute() and _is_place(full):
            return _as_source(Path(full), folder)
        outside = [folder / one for one in (full, text) if not _is_absolute(one)]
    else:
        outside = []
    if (path := _within(full, folder, _is_place)) is not None:
        return Source(path)
    return next((_as_source(path, folder) for path in outside if _is_place(path)), None)


def _is_place(path: Path | str) -> bool:
    return os.path.isdir(path) or (str(path).lower().endswith(".txt") and _is_file(path))  # noqa: PTH112


def _is_file(path: Path | str) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 (Path's own raises where a name is too long)


def _is_absolute(text: str) -> bool:
    return PurePosixPath(text).is_absolute() or bool(PureWindowsPath(text).anchor)


def _as_source(path: Path, folder: Path) -> Source | None:
    """None for a folder around the data folder: pictures of others, or all of a disk."""
    target, home = path.resolve(), folder.resolve()
    if target.is_relative_to(home):
        return Source(folder / target.relative_to(home))
    return None if home.is_relative_to(target) else Source(target, inside=False)


def _within(full: str, folder: Path, is_wanted: Callable[[Path], bool]) -> Path | None:
    """The longest end of a path that is there below ``folder``; never without the name of its split."""
    normal = posixpath.normpath(full.replace("\\", "/")).split("/")
    parts = [part for part in normal if part not in ("", ".", "..") and not part.endswith(":")]
    if not parts:
        return folder if normal == ["."] else None
    for start in range(len(parts)):
        path = folder.joinpath(*parts[start:])
        if is_wanted(path):
            return path
        if SPLIT_FOLDER.fullmatch(parts[start]):
            return None
    return folder if parts[-1] == folder.resolve().name and is_wanted(folder) else None


# --- Where nothing describes the data set: by looking.


def look_for_splits(folder: Path, *, named: bool) -> dict[str, list[Source]]:
    """The pictures of every split, by how files lie: lists, ``images`` and ``labels``, or labels beside pictures.

    Args:
        named: there is a list of class names, which label files go with.
    """
    if named and (lists := _split_lists(folder)):
        return lists
    images, labels = (next(iter(_called(folder, name)), None) for name in ("images", "labels"))
    if labels is not None and images is not None:
        splits = _split_folders(images) or {WHOLE_FOLDER: images}
        return {name: [Source(one, labels)] for name, one in splits.items()} if _has_labels(labels, named) else {}
    if labels is not None and _has_labels(labels, named):
        return {WHOLE_FOLDER: [Source(folder, labels)]}
    found: dict[str, list[Source]] = {}
    for name, below in _split_folders(folder).items():
        inner = next(iter(_called(below, "images")), None)
        if inner is not None and any(_has_labels(one, named) for one in _called(below, "labels")):
            found[name] = [Source(inner)]
        elif _has_labels_beside(below, named):
            found[name] = [Source(below)]
    if not found and (_has_labels_beside(folder, named) or _has_only_labels(folder)):
        found[WHOLE_FOLDER] = [Source(folder, folder)]
    return found


def _split_lists(folder: Path) -> dict[str, list[Source]]:
    """``train.txt`` and the like, which name pictures."""
    names = [name for name in _listing(folder) if name.lower().endswith(".txt") and SPLIT_WORD.fullmatch(name[:-4])]
    return {name[:-4]: [Source(folder / name)] for name in sorted(names) if _names_pictures(folder / name)}


def _names_pictures(path: Path) -> bool:
    return is_picture_name(PurePosixPath(_first_line(path).replace("\\", "/")).name)


def _split_folders(folder: Path) -> dict[str, Path]:
    """By the names of the splits: ``train``, or CVAT's ``obj_train_data``."""
    matches = [(below, SPLIT_FOLDER.fullmatch(below.name)) for below in subfolders(folder)]
    return {match[1]: below for below, match in matches if match}


def _called(folder: Path, name: str) -> list[Path]:
    return [below for below in subfolders(folder) if below.name.lower() == name]


def _has_labels(folder: Path, named: bool) -> bool:
    """Whether label files are anywhere below; where no list of classes goes with them, by the first of them."""
    files = list(itertools.islice(_label_paths(folder), PROBED_LABELS))
    return bool(files) if named else any(looks_like_labels(path) for path in files)


def _label_paths(folder: Path) -> Iterator[Path]:
    for directory, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(directory, name) for name in sorted(names) if is_label_name(name))


def is_label_name(name: str) -> bool:
    return name.lower().endswith(".txt") and not name.startswith(".") and not is_class_list(name)


def _has_labels_beside(folder: Path, named: bool) -> bool:
    names = _listing(folder)
    pictures = {os.path.splitext(name)[0].casefold() for name in names if is_picture_name(name)}  # noqa: PTH122
    files = sorted(name for name in names if is_label_name(name) and name[:-4].casefold() in pictures)[:PROBED_LABELS]
    return bool(files) if named else any(looks_like_labels(folder / name) for name in files)


def _has_only_labels(folder: Path) -> bool:
    """As MakeSense exports them, the pictures being elsewhere."""
    files = [folder / name for name in sorted(_listing(folder)) if is_label_name(name)][:PROBED_LABELS]
    labels = [path for path in files if looks_like_labels(path)]
    return bool(labels) and not any(_first_line(path) for path in files if path not in labels)


def looks_like_labels(path: Path) -> bool:
    """Whether the first line is a whole number and at least four others."""
    fields = _first_line(path).split()
    try:
        return len(fields) >= 5 and float(fields[0]).is_integer() and all(abs(float(text)) < 1e9 for text in fields)
    except ValueError:
        return False


def _first_line(path: Path) -> str:
    return _plain_head(read_head(path)).split(b"\n", 1)[0].decode("utf-8", "replace").strip()


def _listing(folder: Path) -> list[str]:
    """The names of files and folders, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in itertools.islice(entries, LISTED_LABELS)]
    except OSError:
        return []
    return [name for name in names if not name.startswith(".")]
