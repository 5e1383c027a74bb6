"""The source of an import: its file type, by its first bytes; the user's options; the base class of formats."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import msgspec
import numpy as np

from ssdlite.anchors import AnchorConfig
from ssdlite.config import MAX_IMAGE_SIDE
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.protobuf import DamagedError
from ssdlite.validation import convert, require_kind

if TYPE_CHECKING:
    from torch import Tensor

    from ssdlite.weights.mapping import Imported

LEAST_IMAGE_SIDE = 32  # of DetectorConfig
MAX_ANCHOR_BYTES = 2**20  # of a file of anchors
AnchorOrder = Literal["interpolated_last", "interpolated_second"]  # of the shapes on a map, in TensorFlow


class WeightFormat(Protocol):
    """A file format of another project's detectors.

    To add one, write such a class and enter it in ``ssdlite.weights.api.WEIGHT_FORMATS``. The command line loads the
    class for its name, so import torch inside ``read``.

    Attributes:
        title: what a source of it is, to go behind ``expected a`` in errors.
        kinds: of files that it comes in, of those that ``file_kind`` tells apart; empty for another kind.
    """

    @property
    def title(self) -> str: ...

    @property
    def kinds(self) -> tuple[str, ...]: ...

    def recognize(self, source: ImportSource) -> bool:
        """Whether ``source`` is one. Only looks; formats are asked in their order.

        Raises:
            CheckpointError: it is meant for this format and no other, but is not there or damaged.
        """

    def read(self, source: ImportSource, options: ImportOptions) -> Imported:
        """The whole import; ``WeightMapping`` raises for every missing or unused tensor.

        It uses all ``options`` or refuses them: ``check_image_size`` where the source states its size,
        ``refuse_pictures`` where no batch norm was folded, ``refuse_anchors`` where it holds its anchors.

        Raises:
            CheckpointError: the source fits only in part, or not; tensors are named.
            ConfigError: an option that it has no use for, or a package that reading it needs is not installed.
        """


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What the file of an import does not say itself; None leaves it to the file.

    Attributes:
        class_names: in the order of the classifier's rows, with or without background in front.
        image_size: side of the input in pixels, for formats that do not hold it.
        pictures: a folder; folded batch norms are measured on its pictures, else on synthetic scenes.
        anchor_order: of TensorFlow's shapes on a map.
        anchors: all of them.

    Raises:
        ConfigError: a value that no format could use.
    """

    class_names: tuple[str, ...] | None = None
    image_size: int | None = None
    pictures: Path | None = None
    anchor_order: AnchorOrder | None = None
    anchors: AnchorConfig | None = None

    def __post_init__(self) -> None:
        if self.class_names == ():
            raise ConfigError("class_names: expected names, got none")
        side = self.image_size
        if side is not None and not (
            isinstance(side, (int, np.integer)) and LEAST_IMAGE_SIDE <= side <= MAX_IMAGE_SIDE
        ):
            raise ConfigError(
                f"image_size: expected sides of {LEAST_IMAGE_SIDE} to {MAX_IMAGE_SIDE} pixels, got {side!r}"
            )
        if self.anchor_order not in (None, *get_args(AnchorOrder)):
            raise ConfigError(f"anchor_order: expected {' or '.join(get_args(AnchorOrder))}, got {self.anchor_order!r}")
        if self.anchors is not None:
            require_kind("anchors", self.anchors, AnchorConfig)
            if self.anchor_order is not None:
                raise ConfigError("anchors and anchor_order: expected one of them, got both")

    def check_image_size(self, held: tuple[int, int], where: str) -> None:
        """Raises ConfigError where another size was asked for than the source, in its file ``where``, has."""
        side = self.image_size
        if side is not None and (side, side) != held:
            raise ConfigError(
                f"{where}: its input is {held[0]} x {held[1]} pixels, which an import keeps, but image_size "
                f"(--image-size) is {side}; leave it out: `ssdlite train --weights ... --image-size {side}` changes it"
            )

    def note_size(self, side: int) -> tuple[str, ...]:
        """For the user: that ``side`` was taken, where the source does not say its size and nobody else did."""
        note = f"the file does not say the size of its input: taken as {side} x {side}, --image-size 416 gives another"
        return () if self.image_size else (note,)

    def refuse_pictures(self, path: str, source: str) -> None:
        """Raises ConfigError where there are pictures: for a ``source`` whose batch norms are not folded away."""
        if self.pictures is not None:
            raise ConfigError(
                f"{path}: read as {source}, which has its batch norms' own statistics: nothing to measure on pictures "
                f"(--pictures {self.pictures}); leave them out"
            )

    def refuse_anchor_order(self, path: str, source: str) -> None:
        """Raises ConfigError where there is one: for a ``source`` whose anchors have one order."""
        if self.anchor_order is not None:
            raise ConfigError(
                f"{path}: read as {source}, whose anchors have one order; leave out anchor_order (--anchor-order)"
            )

    def refuse_anchors(self, path: str) -> None:
        """Raises ConfigError where there are anchors, or an order of them: for a source that holds its own."""
        given = "anchors (--anchors)" if self.anchors is not None else "anchor_order (--anchor-order)"
        if self.anchors is not None or self.anchor_order is not None:
            raise ConfigError(f"{path}: the file holds its anchors; leave out {given}")


class ImportSource:
    """What was given for an import; it is read only once, however many formats look at it.

    Attributes:
        name: as it was given; a format may know names that are not files.
        path: the same as a path, which may not exist.
    """

    def __init__(self, given: str | Path) -> None:
        self.name = str(given)
        self.path = Path(given)

    @cached_property
    def kind(self) -> str | None:
        """What ``file_kind`` says."""
        return file_kind(self.path)

    @cached_property
    def state(self) -> Mapping[str, Tensor]:
        """The state dict of a PyTorch or safetensors file; empty for another file."""
        if self.kind not in (TORCH, SAFETENSORS):
            return {}
        from ssdlite.weights.pytorch.files import load_state_dict

        return load_state_dict(self.path)


def read_anchors(path: Path) -> AnchorConfig:
    """Anchors in a JSON file: ``{"levels": [[[width, height], ...], ...], "relative_to": "sides"}``, as fractions.

    Raises:
        ConfigError: it cannot be read, or is something else.
    """
    try:
        with path.open("rb") as file:
            values = msgspec.json.decode(file.read(MAX_ANCHOR_BYTES))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: expected anchors as JSON ({error})") from None
    return convert(values, AnchorConfig, str(path))


# --- What a file is by its first bytes and its name, and the errors for one that is not what it should be.

TFLITE = "TensorFlow Lite file"
INDEX = "index of a TensorFlow checkpoint"
GRAPH = "frozen graph of TensorFlow"
TORCH = "PyTorch file"
SAFETENSORS = "safetensors file"
PADDLE = "PaddlePaddle file"
SUFFIXES = {
    ".tflite": TFLITE,
    ".index": INDEX,
    ".pb": GRAPH,
    ".pth": TORCH,
    ".pt": TORCH,
    ".safetensors": SAFETENSORS,
    ".pdparams": PADDLE,
}
HEAD_BYTES = 32
MAX_FILE_BYTES = 2**31  # detectors here have 4 to 80 MB, with what training adds three times as much
ZIP = b"PK\x03\x04"
PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # by protocol
STARTS_BY_SUFFIX = {".index": (b"",), ".pb": (b"\n",), ".pdparams": PICKLE_STARTS}  # a SavedModel begins otherwise
PICKLE_ENTRY = "data.pkl"  # in the zip archives that torch.save writes
MAX_SAFETENSORS_HEADER = 100_000_000  # of the format itself
NOT_WEIGHTS = (  # what is often given in their place, by how it begins
    (b"version https://git-lfs", "a pointer of Git LFS; `git lfs pull` fetches the file"),
    (b"\x1f\x8b\x08", "a packed archive; unpack it and give what is inside"),
    (ZIP, "an archive that torch.save did not write; unpack it and give what is inside"),
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
    if head and head.startswith(STARTS_BY_SUFFIX.get(path.suffix, ())):
        return SUFFIXES[path.suffix]
    if head.startswith(PICKLE_STARTS) or (head.startswith(ZIP) and _may_be_of_torch(path)):
        return TORCH
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= MAX_SAFETENSORS_HEADER:
        return SAFETENSORS
    return None


def _may_be_of_torch(archive: Path) -> bool:
    """Whether the pickle of torch.save is in it, or would be if it were not cut off."""
    try:
        with zipfile.ZipFile(archive) as file:
            return any(name.rpartition("/")[2] == PICKLE_ENTRY for name in file.namelist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return True


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


def check_size(path: Path) -> None:
    """Raises CheckpointError where a file is larger than any that is read."""
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise CheckpointError(f"{path}: {size} bytes, more than the {MAX_FILE_BYTES} that are read")


def damaged_file(path: str | Path, kind: str, error: Exception | None = None) -> CheckpointError:
    """The error for a file that could not be read as a ``kind``, with the reason where it is one of ours."""
    reason = f" ({error})" if isinstance(error, DamagedError) else ""
    found = f"a damaged or truncated {kind}" if file_kind(Path(path)) == kind else f"not a {kind}"
    return CheckpointError(f"{path}: {found}{reason}")
