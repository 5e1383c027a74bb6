"""JSON files: what they begin with, found without reading them whole, and their parts, decoded as they are needed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from ssdlite.datasets.formats.files import read_bounded
from ssdlite.errors import DataError, quote

BLOCK = 1 << 20  # bytes looked through at a time
HEAD = 1 << 16  # bytes that tell what a file is
LONGEST_KEY = 64  # bytes of a key with what stands around it


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


MAX_JSON_BYTES = 1 << 28  # a million boxes, or so many pictures
T = TypeVar("T")


def read_json(path: Path, kind: type[T], what: str, most: int = MAX_JSON_BYTES) -> T:
    """A file's content as ``kind``; of ``what``, for the message.

    Raises:
        DataError: it cannot be read, is not JSON, or something else.
    """
    return decode_json(read_bounded(path, most).removeprefix(b"\xef\xbb\xbf"), kind, f"{path}: not {what}: ")


def decode_json(data: bytes | msgspec.Raw, kind: type[T], begin: str = "") -> T:
    """
    Raises:
        DataError: ``data`` are not JSON of the kind; its message begins so.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{begin}{error}") from None
    except RecursionError:
        raise DataError(f"{begin}the JSON is nested too deeply") from None


def number(value: object, name: str) -> float:
    """
    Raises:
        DataError: ``value`` is no number, or too large.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"expected a number as {name}, got {quote(value)}")
    try:
        return float(value)
    except OverflowError:
        raise DataError(f"expected a number as {name}, got {quote(value)}") from None
