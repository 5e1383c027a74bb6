"""How annotation files are to be read: the options of every command that takes data. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from ssdlite.validation import Config

VocCorners = Literal["auto", "one-based", "canvas"]  # see the corners' section of voc.py
ExifBoxes = Literal["auto", "upright", "stored"]  # what boxes were drawn on, where a picture is stored turned


class ReadOptions(Config, frozen=True, kw_only=True):
    """How annotations are read."""

    data_format: str | None = None
    """Format of the annotations (a key of DATA_FORMATS). Default: decided from the files."""
    images: str | None = None
    """Folder of the pictures. Default: decided from what lies beside the annotations."""
    voc_corners: VocCorners = "auto"
    """How VOC files count corners: as VOC's own pixels, from 1, or as positions on the picture; auto looks."""
    exif_boxes: ExifBoxes = "auto"
    """What boxes were drawn on where EXIF turns a picture: it upright, or as stored; auto goes by its stated size."""

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


READ_OPTIONS = ReadOptions()
LOAD_OPTIONS = LoadOptions()
