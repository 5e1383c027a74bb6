"""A data set in another format: all of its splits, or some, with their pictures, in a new folder."""

from __future__ import annotations

import errno
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from ssdlite.datasets.formats.options import LOAD_OPTIONS, LoadOptions
from ssdlite.datasets.index import DetectionIndex, problem_notes
from ssdlite.datasets.loading import DataLayout, find_splits, load_all
from ssdlite.datasets.writers import LABEL_WRITERS
from ssdlite.datasets.writers.base import (
    LabeledPicture,
    LabelWriter,
    below_common_folder,
    is_writable,
    require_class_names,
)
from ssdlite.errors import ConfigError, DataError, quote
from ssdlite.files import counted, listing, temporary_path, writing
from ssdlite.validation import require_known

PicturePlacing = Literal["copy", "link"]
UNSAFE_CHARACTERS = frozenset('\\/:*?"<>|')  # of names, on some system
LONGEST_STEM = 180  # bytes; systems allow 255 with all that is put before and behind it
SHOWN_RENAMES = 3
OTHER_NAME = "; --rename gives it another name, --classes leaves it out"


def convert_data(
    root: Path,
    output: Path,
    to: str,
    options: LoadOptions = LOAD_OPTIONS,
    *,
    splits: Sequence[str] | None = None,
    pictures: PicturePlacing = "copy",
    progress: Callable[[int], Callable[[], object]] = lambda total: lambda: None,
) -> list[str]:
    """Write the data set in ``root`` as ``to``, one of ``LABEL_WRITERS``, in the new folder ``output``.

    It is there as a whole or not at all. Boxes are those that training would use: clipped, upright, of the classes
    chosen.

    Args:
        splits: names, also as OLD=NEW. By default all but those whose pictures smaller ones have too, as trainval.
        pictures: "copy", or "link" for hard links, which need no room.
        progress: gets the number of pictures, and gives what is called after each.

    Returns:
        Lines for people: what was written, and what the format could not hold.

    Raises:
        DataError: the data cannot be used (see ``load_all``), or has names that cannot be written.
        ConfigError: ``output`` is not empty, or within the data; or it cannot be written.
    """
    require_known([to], LABEL_WRITERS, "format to write")
    writer = LABEL_WRITERS[to]
    _require_new(output, root)
    layout = find_splits(root, options)
    names = _split_names(splits, layout)
    indexes = load_all(layout, options, splits=list(names))
    notes = list(layout.notes)
    if splits is None:
        for covered in _covered(indexes):
            notes.append(f"{covered}: left out, other splits have all of its pictures (--splits names those to write)")
            del indexes[covered]
    targets = {names[name]: index for name, index in indexes.items()}
    _require_split_names(list(targets), writer)
    class_names = next(iter(targets.values())).class_names
    require_class_names(class_names, str(root), OTHER_NAME)
    advance = progress(sum(map(len, targets.values())))
    with writing(output), _new_folder(output) as folder:
        places = _Places(folder, writer, pictures, advance)
        for split, index in targets.items():
            writer.write_split(folder, split, places.fill(split, index), class_names)
            notes += [_said(split, index), *problem_notes(index)]
        writer.finish(folder, list(targets), class_names)
    notes += [*_losses(writer, list(targets.values())), *places.notes()]
    return list(dict.fromkeys(notes))


def _require_new(output: Path, root: Path) -> None:
    with writing(output):
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise ConfigError(f"--output {output}: expected a new or an empty folder; this one holds something already")
    if root.is_dir() and output.resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"--output {output}: expected a folder outside of the data, {root}")


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """A folder to be filled, which becomes ``output`` once the block is through; if that fails nothing is left.

    One that is there, perhaps a mounted disk, is filled itself.
    """
    existed = output.exists()
    folder = output if existed else temporary_path(Path.cwd() / output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        if not existed:
            folder.rename(output)
    except BaseException:
        for path in list(folder.iterdir()) if existed else [folder]:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        raise


# --- Splits.


def _split_names(splits: Sequence[str] | None, layout: DataLayout) -> dict[str, str]:
    """The names to write splits under, by their own."""
    if splits is None:
        return {name: name for name in layout.splits}
    names: dict[str, str] = {}
    for entry in [part.strip() for text in splits for part in text.split(",")]:
        old, _, new = (entry, "", "") if entry in layout.splits else entry.partition("=")
        own = layout.match(old.strip(), "--splits")
        if own in names:
            raise ConfigError(f"--splits: expected every split once, got {own!r} twice")
        names[own] = new.strip() or own
    return names


def _covered(indexes: Mapping[str, DetectionIndex]) -> list[str]:
    """The splits whose pictures are all in smaller ones."""
    pictures = {name: set(index.paths) for name, index in indexes.items()}
    covered = []
    for name, own in pictures.items():
        smaller = [other for other in pictures.values() if len(other) < len(own)]
        if own <= set().union(*smaller):
            covered.append(name)
    return covered


def _require_split_names(names: Sequence[str], writer: LabelWriter) -> None:
    """Raises DataError for names that are not those of files and folders, and those that are not the format's."""
    for name in names:
        if not name or _plain(name) != name or len(name.encode()) > LONGEST_STEM:
            raise DataError(
                f"split {quote(name)}: expected a name of a folder; --splits OLD=NEW, ... gives it another name"
            )
    if len({name.casefold() for name in names}) < len(names):
        raise DataError(f"expected splits of different names, got {', '.join(names)}; see --splits OLD=NEW")
    if reason := writer.why_not(names):
        raise DataError(reason)


# --- Pictures, each under a name of its own.


class _Place(NamedTuple):
    split: str
    name: str


@dataclass
class _Places:
    """The names that pictures get: their own, as far as every system has them, numbered where several are alike."""

    folder: Path
    writer: LabelWriter
    placing: PicturePlacing
    advance: Callable[[], object]
    renamed: list[str] = field(default_factory=list)
    _taken: set[tuple[str, str]] = field(default_factory=set)
    _known: dict[tuple[str, Path, bytes], _Place] = field(default_factory=dict)

    def fill(self, split: str, index: DetectionIndex) -> Iterator[LabeledPicture]:
        """Copies or links the pictures one by one, and gives what is known of each."""
        folder = self.writer.picture_folder(split)
        for position, below in enumerate(below_common_folder(index.paths)):
            record = index.record(position)
            path = Path(record.path)
            key = folder, path, record.boxes.tobytes() + record.labels.tobytes() + record.ignore.tobytes()
            place = self._known.get(key)
            if place is None or place.split == split:  # else it is there, with the same objects, for another split
                place = self._known[key] = _Place(split, self._name(folder, below))
                _place_picture(path, self.folder / folder / place.name, self.placing)
            self.advance()
            yield LabeledPicture(
                place.name,
                record.size,
                [tuple(box) for box in record.boxes.tolist()],
                record.labels.tolist(),
                record.ignore.tolist(),
                record.areas.tolist(),
            )

    def notes(self) -> list[str]:
        if not self.renamed:
            return []
        shown = listing(self.renamed, SHOWN_RENAMES, "; ")
        why = "where the format cannot have theirs or another has it"
        return [f"{counted(len(self.renamed), 'picture')} under another name, {why}: {shown}"]

    def _name(self, folder: str, below: Path) -> str:
        parts = PurePosixPath(*map(_plain, below.parts))
        stem = _plain(parts.stem.encode()[:LONGEST_STEM].decode("utf-8", "ignore"))
        wanted = self.writer.picture_name(parts.with_name(stem + parts.suffix))
        number, name = 1, wanted
        while (folder, _compared(name)) in self._taken:
            number += 1
            name = wanted.with_name(f"{wanted.stem}_{number}{wanted.suffix}")
        self._taken.add((folder, _compared(name)))
        if name.name != below.name:
            self.renamed.append(f"{quote(below.name)} is {name.name}")
        return str(name)


def _compared(name: PurePosixPath) -> str:
    """Without its ending, since label files are called so, and as systems compare that know no case."""
    return unicodedata.normalize("NFC", str(name.with_suffix("")).casefold())


def _plain(part: str) -> str:
    """A name of a file or folder without what some system or format cannot have, or hides."""
    text = "".join("_" if one in UNSAFE_CHARACTERS or not is_writable(one) else one for one in part)
    text = re.sub(r"[. ]+$", "", text.lstrip())
    return "_" + text if not text or text.startswith((".", "#")) else text


def _place_picture(path: Path, target: Path, placing: PicturePlacing) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if placing == "copy":
        try:
            shutil.copyfile(path, target)
        except OSError as error:
            if str(error.filename) == str(path) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise DataError(f"{path}: cannot be read ({error.strerror})") from None
            raise
        return
    try:
        target.hardlink_to(path.resolve())
    except OSError as error:
        raise ConfigError(
            f"{path}: no hard link to it can be made in the output folder ({error.strerror}); "
            "--pictures copy copies pictures"
        ) from None


# --- What to say.


def _said(split: str, index: DetectionIndex) -> str:
    empty = int((index.offsets[1:] == index.offsets[:-1]).sum())
    without = f" ({empty} without objects)" if empty else ""
    return f"{split}: {counted(len(index), 'picture')}{without}, {counted(len(index.labels), 'object')}"


def _losses(writer: LabelWriter, indexes: Sequence[DetectionIndex]) -> Iterator[str]:
    """What the format cannot hold."""
    ignored = sum(int(index.ignore.sum()) for index in indexes)
    if ignored and not writer.keeps_ignored:
        yield (
            f"{counted(ignored, 'object')} left out: crowd regions or difficult ones, which are to be ignored and for "
            f"which {writer.name} has no sign"
        )
    names = indexes[0].class_names
    present = {name for index in indexes for name in (names[label] for label in set(index.labels.tolist()))}
    if (absent := [name for name in names if name not in present]) and not writer.keeps_class_list:
        yield f"classes without an object are lost, since {writer.name} has no list of classes: {listing(absent)}"
