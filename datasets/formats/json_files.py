"""JSON files of a data set: which there are, and what they begin with, found without reading them whole."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ssdlite.images.reading import IMAGE_SUFFIXES

BLOCK = 1 << 20  # bytes looked through at a time
HEAD = 1 << 16  # bytes that tell what a file is
LONGEST_KEY = 64  # bytes of a key with what stands around it
MOST_FILES = 64  # of one folder that are looked into
MOST_FOLDERS = 1000
FEW = 3  # files, each of which may be beside a picture of its name by chance


def json_files(folder: Path) -> list[Path]:
    """The JSON files of a folder that may be about all of its pictures, sorted: not one for each picture."""
    try:
        names = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".") and entry.is_file()]
    except OSError:
        return []
    found = sorted(name for name in names if name.lower().endswith(".json"))
    if len(found) > FEW:
        stems = {stem for stem, ending in map(os.path.splitext, names) if ending.lower() in IMAGE_SUFFIXES}
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


def read_head(path: Path) -> bytes:
    """The first bytes of a regular file without a byte-order mark and white space; none where it cannot be read."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as stream:
            return stream.read(HEAD).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError:
        return b""


def has_keys(path: Path, keys: Sequence[str], without: str | None = None) -> bool:
    """Whether a JSON object has all of ``keys``, at whatever depth, and before the last of them not ``without``."""
    if not read_head(path).startswith(b"{"):
        return False
    wanted = [_key(key) for key in keys]
    unwanted = _key(without) if without else None
    with path.open("rb") as stream:
        rest = b""
        while block := stream.read(BLOCK):
            block = rest + block
            if unwanted and unwanted.search(block):
                return False
            wanted = [key for key in wanted if not key.search(block)]
            if not wanted:
                return True
            rest = block[-LONGEST_KEY:]
    return False


def is_cut_off(path: Path) -> bool:
    """Whether an object begins and does not end, as of a download that was broken off."""
    if not read_head(path).startswith(b"{"):
        return False
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - LONGEST_KEY))
        return not stream.read().rstrip().endswith(b"}")


def _key(name: str) -> re.Pattern[bytes]:
    return re.compile(rb'"%s"\s*:' % re.escape(name.encode()))
