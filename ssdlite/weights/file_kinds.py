"""What a file is by its first bytes and its name, and the errors for one that is not what it should be."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path

from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.protobuf import DamagedError

TFLITE = "TensorFlow Lite file"
INDEX = "index of a TensorFlow checkpoint"
GRAPH = "frozen graph of TensorFlow"
TORCH = "PyTorch file"
SAFETENSORS = "safetensors file"
SUFFIXES = {
    ".tflite": TFLITE,
    ".index": INDEX,
    ".pb": GRAPH,
    ".pth": TORCH,
    ".pt": TORCH,
    ".safetensors": SAFETENSORS,
}
HEAD_BYTES = 32
ZIP = b"PK\x03\x04"
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # by protocol
MAX_SAFETENSORS_HEADER = 100_000_000  # of the format itself
NOT_WEIGHTS = (  # what is often given in their place, by how it begins
    (b"version https://git-lfs", "a pointer of Git LFS; `git lfs pull` fetches the file"),
    (b"\x1f\x8b\x08", "a packed archive; unpack it and give what is inside"),
    (b"<!", "a web page"),
    (b"<html", "a web page"),
    (b"\x08\x01\x12", "a SavedModel of TensorFlow 2; convert it to a float TensorFlow Lite file"),
)
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # pathlib has already merged a second slash
PART_OF_CHECKPOINT = re.compile(r"\.(data-\d{5}-of-\d{5}|meta)$")


def as_path(value: object, name: str) -> Path:
    """Raises ConfigError where ``value``, which the argument ``name`` was given, is no path."""
    if isinstance(value, (str, PathLike)) and str(value):
        return Path(value)
    got = "an empty string" if value == "" else f"a {type(value).__name__}"
    raise ConfigError(f"{name}: expected a path, got {got}")


def read_head(path: Path) -> bytes:
    """The first bytes of a file; none of a folder, or where there is nothing."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def file_kind(path: Path) -> str | None:
    """What a file says that it is, whole or damaged; None where it says nothing that is known."""
    head = read_head(path)
    if head[4:8] == b"TFL3":
        return TFLITE
    if path.suffix == ".index" and head:
        return INDEX
    if path.suffix == ".pb" and head[:1] == b"\n":  # a SavedModel begins otherwise
        return GRAPH
    if head.startswith((ZIP, *PICKLES)):
        return TORCH
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= MAX_SAFETENSORS_HEADER:
        return SAFETENSORS
    return None


def require_file(path: Path) -> None:
    """Raises CheckpointError where there is no such file, or an empty one."""
    if path.is_file():
        if path.stat().st_size == 0:
            raise CheckpointError(f"{path}: expected weights, the file is empty")
        return
    if ADDRESS.match(str(path)):
        address = str(path).replace(":/", "://", 1)
        raise CheckpointError(f"{address}: expected a file on this machine, got an address; download it first")
    raise CheckpointError(f"{path}: {_instead_of_file(path)}")


def _instead_of_file(path: Path) -> str:
    if path.is_dir():
        return "expected a file, this is a folder"
    return "expected a file, this is something else" if path.exists() else "no such file"


def describe_unknown(path: Path) -> str:
    """What can be said of a file whose ``file_kind`` is None, to go behind ``got``; empty where nothing can."""
    head = read_head(path)
    for start, what in NOT_WEIGHTS:
        if head.startswith(start):
            return what
    if PART_OF_CHECKPOINT.search(path.name):
        return "a part of a TensorFlow checkpoint, whose .index file is not beside it"
    if path.suffix in SUFFIXES:
        return f"a file that is named but does not begin as a {SUFFIXES[path.suffix]}: damaged, or something else"
    return ""


def damaged_file(path: str | Path, kind: str, error: Exception | None = None) -> CheckpointError:
    """The error for a file that could not be read as a ``kind``, with the reason where it is one of ours."""
    reason = f" ({error})" if isinstance(error, DamagedError) else ""
    found = f"a damaged or truncated {kind}" if file_kind(Path(path)) == kind else f"not a {kind}"
    return CheckpointError(f"{path}: {found}{reason}")
