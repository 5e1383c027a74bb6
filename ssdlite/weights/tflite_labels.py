"""Class names that a TensorFlow Lite file carries, in a zip behind the model, as TensorFlow's metadata writer does."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path, PurePosixPath

from ssdlite.errors import CheckpointError

MAX_LABEL_BYTES = 2**20
LABEL_FILES = ("labels.txt", "labelmap.txt", "label_map.txt", "label_map.pbtxt", "labelmap.pbtxt")


def packed_labels(path: Path) -> tuple[str, ...] | None:
    """The names in a file's packed label map, one a line; None where it has none.

    Raises:
        CheckpointError: there is one, but it is damaged, enormous, or not text.
    """
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            texts = [entry for entry in archive.infolist() if entry.filename.lower().endswith(".txt")]
            texts.sort(key=lambda entry: "label" not in PurePosixPath(entry.filename).name.lower())
            if not texts:
                return None
            with archive.open(texts[0]) as file:
                return read_labels(file.read(MAX_LABEL_BYTES + 1), f"{path}: its packed {texts[0].filename}")
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path}: its packed labels cannot be read ({error})") from None


def read_label_file(path: Path) -> tuple[str, ...]:
    """The names in a text file; see ``read_labels``.

    Raises:
        CheckpointError: also where it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return read_labels(file.read(MAX_LABEL_BYTES + 1), str(path))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_labels(content: bytes, where: str) -> tuple[str, ...]:
    """Names, one a line; empty lines at the end do not count.

    Raises:
        CheckpointError: it is not UTF-8 text, has no names, or an empty line between them; the message begins with
            ``where``.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CheckpointError(f"{where}: expected a name a line, in UTF-8; it is not text") from None
    if len(content) > MAX_LABEL_BYTES:
        raise CheckpointError(f"{where}: expected a name a line, it has more than {MAX_LABEL_BYTES} bytes")
    names = tuple(line.strip() for line in text.rstrip().splitlines())
    if not names:
        raise CheckpointError(f"{where}: expected a name a line, it is empty")
    if "" in names:
        raise CheckpointError(
            f"{where}: expected a name a line, line {names.index('') + 1} is empty; a row without a class is ???"
        )
    return names


def labels_hint(path: Path) -> str:
    """Words for an error: a label file that lies beside the model."""
    for name in LABEL_FILES:
        if (path.parent / name).is_file():
            return f" (perhaps those in {path.parent / name})"
    return ""
