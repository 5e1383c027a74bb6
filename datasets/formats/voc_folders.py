"""Where VOC's files lie: in the years of a devkit, in a folder of its form, or wherever annotation tools put them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ssdlite.datasets.formats.files import ImageFiles
from ssdlite.datasets.formats.json_files import read_head
from ssdlite.datasets.formats.splits import WHOLE_FOLDER, split_word, subfolders
from ssdlite.errors import DataError

YEAR = re.compile(r"VOC\d{4}", re.IGNORECASE)
CLASS_LINE = re.compile(r"\S.*\s(-1|0|1)")  # of a per-class image set: "000012 -1"
XML_WORD = re.compile(r"(annotations?|annots?|labels?|xmls?)([-_ ].*)?", re.IGNORECASE)  # "labels_my-project"
PICTURE_WORDS = ("jpegimages", "images", "image", "imgs", "img", "pictures", "photos")
VOC_ROOT = re.compile(rb"<annotation[\s>]")
PROBED_FILES = 3  # of a folder
DEEPEST = 4  # folders below the root of the data


# --- Devkits, whose image sets are the splits.


def find_devkits(root: Path, deepest: int = DEEPEST) -> list[Path]:
    """The folders with ``Annotations/``: the years of a devkit, or ``root`` itself, or its only folder."""
    for base in (root, root / "VOCdevkit"):
        years = [path for path in subfolders(base) if YEAR.fullmatch(path.name)]
        if devkit := [path for path in years if (path / "Annotations").is_dir()]:
            return devkit
    folders = nested_folders(root / "Annotations") if set_files(root) else [root / "Annotations"]
    if any(ImageFiles(folder, root).stems(".xml") for folder in folders):
        return [root]
    below = subfolders(root) if deepest else []
    return find_devkits(below[0], deepest - 1) if len(below) == 1 and not below[0].is_symlink() else []


def image_sets(root: Path) -> list[str]:
    """The splits of a folder: its ``ImageSets/Main`` without the per-class files, or "all" if it has none."""
    return [path.stem for path in set_files(root)] or [WHOLE_FOLDER]


def set_files(root: Path) -> list[Path]:
    files = sorted((root / "ImageSets" / "Main").glob("[!.]*.txt"), key=lambda path: path.stem)
    return [path for path in files if not _is_per_class(read_lines(path))]


def read_lines(path: Path) -> list[str]:
    """Those of a list of image ids that are not empty; a name with spaces may stand in quotes, as CVAT writes it."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list of image ids ({error})") from None
    return [re.sub(r'^"(.+)"$', r"\1", line.strip()) for line in lines if line.strip()]


def _is_per_class(lines: Sequence[str]) -> bool:
    """``aeroplane_train.txt`` and the like: every line an image id and whether it shows the class."""
    return bool(lines) and all(CLASS_LINE.fullmatch(line) for line in lines)


def nested_folders(folder: Path, deepest: int = DEEPEST) -> list[Path]:
    """``folder`` and those below it, sorted."""
    below = subfolders(folder) if deepest else []
    return [folder, *(path for sub in below for path in nested_folders(sub, deepest - 1))]


# --- XML beside the pictures, or in folders parallel to theirs.


class XmlFolder(NamedTuple):
    """A folder with annotation files, and the split that its path names, or "all"."""

    path: Path
    split: str


def find_xml_folders(root: Path) -> list[XmlFolder]:
    """Those of ``root``, its splits' folders and those for annotations and pictures in any order of these; sorted.

    Folders of other names count where XML and pictures lie in them side by side, or where they part the annotations
    or pictures further.
    """
    by_target = {path.resolve(): path for path in sorted(_walk(root, root, DEEPEST), reverse=True)}
    return [XmlFolder(path, _split_of(path.relative_to(root))) for path in sorted(by_target.values())]


def _walk(root: Path, folder: Path, deepest: int) -> Iterator[Path]:
    if _holds_voc(folder):
        yield folder
    below = subfolders(folder) if deepest else []
    for sub in below:
        known = split_word(sub.name) or XML_WORD.fullmatch(sub.name) or sub.name.lower() in PICTURE_WORDS
        if known or folder != root or len(below) == 1:
            yield from _walk(root, sub, deepest - 1)
        elif ImageFiles(sub).by_stem() and _holds_voc(sub):
            yield sub


def _holds_voc(folder: Path) -> bool:
    files = ImageFiles(folder)
    names = [name for stem in files.stems(".xml")[:PROBED_FILES] for name in (f"{stem}.xml", f"{stem}.XML")]
    return any(VOC_ROOT.search(read_head(folder / name)) for name in names)


def _split_of(path: Path) -> str:
    return next((word for part in path.parts if (word := split_word(part))), WHOLE_FOLDER)


def picture_folders(folder: Path, root: Path) -> list[Path]:
    """Where the pictures of a folder's annotations may be, nearest first: in it, and in the parallel folders.

    Of ``train/annotations`` these are ``train/images`` and ``train``, of ``annotations/train`` ``images/train``,
    ``images`` and ``train``.
    """
    parts = folder.relative_to(root).parts
    found = [folder]
    for position, part in enumerate(parts):
        if XML_WORD.fullmatch(part):
            parent, rest = root.joinpath(*parts[:position]), parts[position + 1 :]
            siblings = [sub for sub in subfolders(parent) if sub.name.lower() in PICTURE_WORDS]
            found += [place.joinpath(*rest) for place in siblings] + siblings + [parent.joinpath(*rest), parent]
    return list(dict.fromkeys(found))
