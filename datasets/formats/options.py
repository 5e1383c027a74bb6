"""How annotation files are to be read: the options of every command that takes data. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, TypeVar

import msgspec

from ssdlite.errors import ConfigError, quote
from ssdlite.validation import Config

VocCorners = Literal["auto", "one-based", "canvas"]  # see the corners' section of voc_files.py
ExifBoxes = Literal["auto", "upright", "stored"]  # what boxes were drawn on, where a picture is stored turned
R = TypeVar("R", bound="ReadOptions")


class ReadOptions(Config, frozen=True, kw_only=True):
    """How annotations are read."""

    data_format: str | None = None
    """Format of the annotations: coco, voc, yolo, cvat, label-studio, csv, tfrecord, labelme, imagefolder, via or
    parquet. Default: decided from the files."""
    images: str | None = None
    """Folder of the pictures. Default: decided from what lies beside the annotations."""
    voc_corners: VocCorners = "auto"
    """How VOC files count corners: as VOC's own pixels, from 1, or as positions on the picture; auto looks."""
    exif_boxes: ExifBoxes = "auto"
    """What boxes were drawn on where EXIF turns a picture: it upright, or as stored; auto goes by its stated size."""
    rename: tuple[str, ...] | None = None
    """Other names for classes, as "car=vehicle,truck=vehicle", all at once; classes of one name become one. Before a
    comma or = that belongs to a name goes a backslash. Default: the data's own."""

    def check(self) -> None:
        parse_renames(self.rename)

    def as_trained(self: R, rename: Sequence[str] | None) -> R:
        """With the names that a run gave to classes, where none are given; data may also have the new names already."""
        if self.rename is not None or not rename:
            return self
        renames = parse_renames(rename)
        new = [re.sub(r"([,=])", r"\\\1", name) for name in renames.values() if name not in renames]
        return self.changed(rename=(*rename, *(f"{name}={name}" for name in new)))

    def loading(self, classes: Sequence[str] | None = None, *, skip_bad: bool = False) -> LoadOptions:
        """With what is used of that which is read."""
        return LoadOptions(
            **msgspec.structs.asdict(self), classes=None if classes is None else tuple(classes), skip_bad=skip_bad
        )


class LoadOptions(ReadOptions, frozen=True, kw_only=True):
    """How annotations are read, and what of them is used."""

    classes: tuple[str, ...] | None = None
    """Names of the classes to use. Default: all of the data."""
    skip_bad: bool = False
    """Leave out images and annotations that cannot be used, counting them, instead of stopping."""


def parse_renames(entries: Sequence[str] | None) -> dict[str, str]:
    """New names by the old ones, of ``ReadOptions.rename``.

    Raises:
        ConfigError: an entry is not OLD=NEW, or an old name has two new ones.
    """
    renames: dict[str, str] = {}
    for entry in entries or ():
        for pair in re.split(r"(?<!\\),", entry):
            names = [re.sub(r"\\([,=])", r"\1", name).strip() for name in re.split(r"(?<!\\)=", pair)]
            if len(names) != 2 or not all(names):
                raise ConfigError(f"--rename: expected OLD=NEW,OLD=NEW ..., got {quote(pair)} in {quote(entry)}")
            old, new = names
            if renames.setdefault(old, new) != new:
                raise ConfigError(f"--rename: expected one new name of {old!r}, got {renames[old]!r} and {new!r}")
    return renames


READ_OPTIONS = ReadOptions()
LOAD_OPTIONS = LoadOptions()
