"""What a writer of annotations is, what it gets, and which names can be written in every format."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from ssdlite.datasets.formats.base import Box
from ssdlite.errors import DataError, is_text, quote
from ssdlite.files import write_atomically
from ssdlite.images.geometry import Size

DECIMALS = 3  # of pixels
NO_CHARACTERS = {"Cc", "Zl", "Zp"}  # Unicode's categories of control characters and of what ends lines
NONCHARACTERS = {"\ufffe", "\uffff"}  # which XML and YAML do not have


class LabeledPicture(NamedTuple):
    """A picture and its N objects. Where a field may be empty, it says nothing of any of them."""

    file: str  # relative, with "/", as the annotations are to name it
    size: Size  # (height, width), upright
    boxes: Sequence[Box]  # xyxy in pixels, within the picture
    labels: Sequence[int]  # places in the class list
    ignore: Sequence[bool] = ()  # crowd regions and difficult objects
    areas: Sequence[float] = ()  # pixels, of masks
    scores: Sequence[float] = ()
    places: Sequence[str] = ()  # where each came from, in the words of messages about it; COCO's ids of annotations

    def without_ignored(self) -> LabeledPicture:
        """For formats that have no such objects."""
        keep = [position for position, ignored in enumerate(self.ignore) if not ignored]
        return self._replace(
            boxes=[self.boxes[i] for i in keep],
            labels=[self.labels[i] for i in keep],
            ignore=(),
            areas=[self.areas[i] for i in keep] if self.areas else (),
            scores=[self.scores[i] for i in keep] if self.scores else (),
            places=[self.places[i] for i in keep] if self.places else (),
        )


class LabelWriter(Protocol):
    """A format that annotations can be written in. A new one is a module of this folder, and an entry in
    ``LABEL_WRITERS``.

    Boxes are read back to half a pixel at worst. ``require_class_names`` has seen the names of classes, and pictures
    have names that ``is_writable`` lets pass.

    Attributes:
        name: as in "COCO annotations".
        keeps_ignored: crowd regions and difficult objects are written as such. Others leave them out.
        keeps_class_list: classes without an object are written too.
    """

    name: str
    keeps_ignored: bool
    keeps_class_list: bool

    def picture_folder(self, split: str) -> str:
        """Where in a data set the pictures of a split belong, with "/". Several splits may share one, which is flat."""
        return f"images/{split}"

    def picture_name(self, below: PurePosixPath) -> PurePosixPath:
        """Where in its folder a picture belongs that lies there in other formats."""
        return below

    def why_not(self, splits: Sequence[str]) -> str:
        """What is wrong with these splits in this format, if anything is."""
        return ""

    def write_split(
        self, root: Path, split: str, pictures: Iterable[LabeledPicture], class_names: Sequence[str]
    ) -> None:
        """The annotations of a split of a data set in ``root``; files are named as below its ``picture_folder``."""

    def finish(self, root: Path, splits: Sequence[str], class_names: Sequence[str]) -> None:
        """What describes the data set as a whole, once all splits are written."""

    def label_file(self, picture: str) -> str | None:
        """The file that ``write_labels`` makes for a picture; None: one for all."""
        return None

    def write_labels(
        self, folder: Path, pictures: Iterable[LabeledPicture], class_names: Sequence[str], model: str
    ) -> None:
        """The annotations alone, as tools import them: what the detector ``model`` found, to be corrected by hand."""


def is_writable(text: str) -> bool:
    """Whether it can stand in a line of a file of any format: UTF-8 without control characters and line ends."""
    return is_text(text) and not any(
        unicodedata.category(character) in NO_CHARACTERS or character in NONCHARACTERS for character in text
    )


def require_class_names(names: Sequence[str], source: str, remedy: str = "") -> None:
    """A DataError for a name that some format could not hold, or would not give back as it is."""
    for name in names:
        if not name or name != name.strip() or not is_writable(name):
            raise DataError(
                f"{source}: expected class names without control characters, line ends, and spaces around them, "
                f"got {quote(name)}{remedy}"
            )


def below_common_folder(paths: Iterable[str | Path]) -> list[Path]:
    """Paths of files, each relative to the folder that holds them all."""
    absolute = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100 (links keep their names)
    common = Path(os.path.commonpath([path.parent for path in absolute])) if absolute else Path()
    return [path.relative_to(common) for path in absolute]


def plain_number(value: float) -> float | int:
    """Pixels as few digits: 12, 12.5, 12.333."""
    rounded = round(float(value), DECIMALS)
    return int(rounded) if rounded.is_integer() else rounded


def write_label_file(path: Path, text: str) -> None:
    """One of many, which can be had again: whole or not at all, but not waiting for the disk."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8")), durable=False)


def with_ending(file: str, ending: str) -> str:
    """``file`` with ``ending`` for its own."""
    return str(PurePosixPath(file).with_suffix(ending))


def only_to_find(pictures: Iterable[LabeledPicture]) -> Iterator[LabeledPicture]:
    """The pictures without objects that are to be ignored."""
    for picture in pictures:
        yield picture.without_ignored() if any(picture.ignore) else picture
