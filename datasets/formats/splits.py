"""Which annotation files of a folder are which split's, by their names and those of their folders."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from ssdlite.images.reading import IMAGE_SUFFIXES

WHOLE_FOLDER = "all"  # the one split of a folder that tells none
SPLIT_WORD = re.compile(r"(train|training|trainval|val|valid|validation|minival|test|testing)\d*", re.IGNORECASE)
PLAIN_WORDS = re.compile(
    r"ann|anno|annotations?|bbox|boxes|coco|csv|cvat|data|dataset|default|export|gt|instances?|json|labels?|"
    r"metadata|min|objects?|oidv\d|output|project|region|results?|via",
    re.IGNORECASE,
)  # of file names, which tell no split
MOST_FILES = 64  # of one folder that are looked into
MOST_FOLDERS = 1000
FEW = 3  # files, each of which may be beside a picture of its name by chance


def find_split_files(
    root: Path,
    ending: str | tuple[str, ...],
    choose: Callable[[Sequence[Path]], list[Path]],
    folders: Sequence[str] = (),
) -> dict[str, Path]:
    """The annotation file of every split: ``root`` itself, or one or more in ``root``, else in the folders below it.

    Args:
        ending: of the files, in any case.
        choose: those of the files of a folder that are of the format.
        folders: names of folders, in lower case, in which they are looked for first, within any of those.
    """
    if root.is_file():
        return name_split_files(choose([root]) if root.name.lower().endswith(ending) else [])
    for folder in (*_called(root, folders), root):
        if files := choose(few_files(folder, ending)):
            return name_split_files(files)
    found: list[Path] = []
    alone: list[Path] = []  # those that are the only ones of their folder, which may be named as the split
    below = subfolders(root)
    for folder in below:
        is_part = len(below) == 1 or split_word(folder.name)  # of this data set, not one of several
        places = (folder, *_called(folder, folders if is_part else ()))
        chosen = next((chosen for place in places if (chosen := choose(few_files(place, ending)))), [])
        found += chosen
        alone += chosen if len(chosen) == 1 else []
    return name_split_files(found, folders, alone)


def few_files(folder: Path, ending: str | tuple[str, ...]) -> list[Path]:
    """The files of a folder that may be about all of its pictures, sorted: not one for each picture."""
    try:
        names = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".") and entry.is_file()]
    except OSError:
        return []
    found = sorted(name for name in names if name.lower().endswith(ending))
    if len(found) > FEW:
        stems = {stem for stem, suffix in map(os.path.splitext, names) if suffix.lower() in IMAGE_SUFFIXES}
        found = [name for name in found if os.path.splitext(name)[0] not in stems]  # noqa: PTH122
    return [folder / name for name in found] if len(found) <= MOST_FILES else []


def subfolders(folder: Path) -> list[Path]:
    """Sorted, without hidden ones and what macOS adds to archives."""
    try:
        entries = [entry.name for entry in itertools.islice(os.scandir(folder), 100 * MOST_FOLDERS) if entry.is_dir()]
    except OSError:
        return []
    names = sorted(name for name in entries if not name.startswith((".", "__MACOSX")))
    return [folder / name for name in names[:MOST_FOLDERS]]


def split_word(name: str) -> str | None:
    """``name`` of a folder if it is one that splits customarily have."""
    return name if SPLIT_WORD.fullmatch(name) else None


def _called(folder: Path, names: Sequence[str]) -> list[Path]:
    return [below for below in subfolders(folder) if below.name.lower() in names] if names else []


def name_split_files(files: Sequence[Path], folders: Sequence[str] = (), alone: Sequence[Path] = ()) -> dict[str, Path]:
    """By split; files of one name are told apart by their folders, those called as one of ``folders`` by theirs."""
    own = [file.parent.parent if file.parent.name.lower() in folders else file.parent for file in files]
    lone = set(alone)
    names = [
        _split_name(file, folder if file in lone else None, only=len(files) == 1)
        for file, folder in zip(files, own, strict=True)
    ]
    named, stems = Counter(names), Counter(file.stem for file in files)
    return {
        name if named[name] == 1 else file.stem if stems[file.stem] == 1 else f"{folder.name}-{file.stem}": file
        for name, file, folder in zip(names, files, own, strict=True)
    }


def _split_name(file: Path, folder: Path | None, *, only: bool) -> str:
    """The name of its folder, if that is given and says it, else the word for a split in its own name."""
    if folder is not None and SPLIT_WORD.fullmatch(folder.name):
        return folder.name
    stem = file.stem.removeprefix("instances_")
    words = [word for word in re.split(r"[-_. ]+", stem) if word and not PLAIN_WORDS.fullmatch(word)]
    if len(words) == 1 and SPLIT_WORD.fullmatch(words[0]):
        return words[0]
    if only:  # its name is the data set's, but for a word for a split in it
        told = [word for word in words if SPLIT_WORD.fullmatch(word)]
        return told[0] if len(told) == 1 else WHOLE_FOLDER
    return stem if words or not folder else folder.name
