"""The classes of an import: their names from label files or COCO, and the classifier's rows that they stand for."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ssdlite.config import COCO_NAMES
from ssdlite.errors import CheckpointError, quote
from ssdlite.files import counted
from ssdlite.weights.tensorflow.pipeline_config import read_label_map

MAX_LABEL_BYTES = 2**20
LABEL_FILES = ("labels.txt", "labelmap.txt", "label_map.txt", "label_map.pbtxt", "labelmap.pbtxt")


def read_class_names(path: Path) -> tuple[str, ...]:
    """The names in a text file, one a line, or in a label map of TensorFlow (.pbtxt); ``???`` is a row without a class.

    Raises:
        CheckpointError: it cannot be read, is damaged, or has no names.
    """
    if path.suffix == ".pbtxt":
        return require_no_control_characters(read_label_map(path), str(path))
    try:
        with path.open("rb") as file:
            return parse_labels(file.read(MAX_LABEL_BYTES + 1), str(path))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None


def parse_labels(content: bytes, where: str) -> tuple[str, ...]:
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
    names = tuple(line.strip(" \t") for line in re.split("\r\n?|\n", text.rstrip(" \t\r\n")))
    if names == ("",):
        raise CheckpointError(f"{where}: expected a name a line, it is empty")
    if "" in names:
        raise CheckpointError(
            f"{where}: expected a name a line, line {names.index('') + 1} is empty; a row without a class is ???"
        )
    return require_no_control_characters(names, where)


def require_no_control_characters(names: tuple[str, ...], where: str) -> tuple[str, ...]:
    """The names. Raises CheckpointError for one with a NUL, a tab, a line break or the like in it."""
    for number, name in enumerate(names, 1):
        if any(unicodedata.category(character) == "Cc" for character in name):
            raise CheckpointError(f"{where}: class name {number}: expected no control characters, got {quote(name)}")
    return names


class NamesBeside(NamedTuple):
    """Class names of a label file that lies beside the source."""

    names: tuple[str, ...]
    file: Path


def find_names_beside(source: Path, num_logits: int) -> tuple[NamesBeside | None, list[str]]:
    """Those of the first label file beside ``source`` with as many as a classifier needs; what is wrong with others."""
    faults = []
    for file in (source.parent / name for name in LABEL_FILES):
        if not file.is_file():
            continue
        try:
            names = read_class_names(file)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        if len(names) in (num_logits, num_logits - 1):
            return NamesBeside(names, file), []
        faults.append(f"{file} has {counted(len(names), 'name')}")
    return None, faults


# --- Which rows of a classifier are kept, and what they are called.

COCO_LOGITS = 91  # category ids 0 to 90: background, 80 classes and ten ids that COCO has left out
DENSE_COCO_LOGITS = 81  # background and the 80 classes
COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
UNUSED = ("", "???", "n/a", "unused")  # what label files write for a row without a class
HOW_TO_NAME = "give class_names=..., or on the command line --labels FILE (a name a line) or --class-names"


@dataclass(frozen=True)
class ClassRows:
    """The rows that a classifier has for each anchor. Row 0 is background, which some classifiers do without.

    Attributes:
        num_logits: of the source, with background.
        category_ids: the rows of the classes, where they have gaps; otherwise empty, as nobody has said any.
        kept: the rows that become ours, background first.
        background: whether the source has a row for it; a sigmoid classifier can do without.
        notes: where the names come from, if nobody gave them.
    """

    num_logits: int
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    kept: tuple[int, ...]
    background: bool = True
    notes: tuple[str, ...] = ()

    def select(self, rows: Tensor) -> Tensor:
        """Predictor weights or biases, for each anchor a row for each logit -> [A * (K + 1), ...]."""
        anchors = rows.reshape(-1, self.num_logits if self.background else self.num_logits - 1, *rows.shape[1:])
        if not self.background:
            anchors = torch.cat([torch.zeros_like(anchors[:, :1]), anchors], dim=1)
        return anchors[:, torch.tensor(self.kept)].flatten(0, 1)


def count_logits(
    bias: Tensor, name: str, shapes_per_cell: int, path: str, *, background: bool = True, others: int = 0
) -> int:
    """Logits for one anchor, background included, of the predictor that ends with ``bias`` [shapes_per_cell * logits].

    Without ``background`` the predictor has none, and one is counted in. ``others`` are values that it has besides.

    Raises:
        CheckpointError: it cannot be that of a classifier.
    """
    num_logits, rest = divmod(bias.numel() - others, shapes_per_cell)
    num_logits += not background
    if bias.dim() != 1 or rest or num_logits < 2:
        owners = "background and each class" if background else "each class"
        owners += f" and {others} for boxes" if others else ""
        raise CheckpointError(f"{path}: {name}: expected {shapes_per_cell} values for {owners}, got {list(bias.shape)}")
    return num_logits


def name_rows(
    num_logits: int,
    names: Sequence[str] | None,
    score_function: str,
    path: str,
    *,
    beside: Path | None = None,
    coco: int | None = COCO_LOGITS,
    background: bool = True,
) -> ClassRows:
    """Names for a classifier of ``num_logits`` rows, background being the first, which it may do without.

    ``names`` may have background in front, and a name like ``???`` for a row that is not used: sigmoid classifiers
    drop such rows, softmax ones need them for their sum. Without names, a label file ``beside`` the source is taken
    that has as many; else ``coco`` rows are COCO's, either 91 or 81, for sources that are published with so many.

    Raises:
        CheckpointError: names are missing, or there are too many or too few.
    """
    count = num_logits - 1
    notes: tuple[str, ...] = ()
    if names is None:
        found, faults = (None, []) if beside is None else find_names_beside(beside, num_logits)
        if found is not None:
            names, notes = found.names, (f"class names from {found.file}; --labels or --class-names gives others",)
        elif num_logits == coco:
            names = _coco_names() if coco == COCO_LOGITS else COCO_NAMES
        else:
            why = f" ({'; '.join(faults)})" if faults else ""
            raise CheckpointError(f"{path}: the names of its {count} classes are not in the file; {HOW_TO_NAME}{why}")
    require_no_control_characters(tuple(names), path)
    if len(names) not in (num_logits, count):
        more, instead = (" and background", f", or {num_logits} with background first") if background else ("", "")
        raise CheckpointError(
            f"{path}: the model has {count} classes{more}, but got {counted(len(names), 'class name')}; "
            f"expected {count}{instead}"
        )
    names = [name.strip() for name in names][len(names) - count :]
    used = [row for row, name in enumerate(names, 1) if name.lower() not in UNUSED]
    if not used:
        raise CheckpointError(f"{path}: none of its {count} classes has a name; {HOW_TO_NAME}")
    gaps = len(used) < count
    if score_function == "softmax":
        filled = tuple(name if row in used else f"unused {row}" for row, name in enumerate(names, 1))
        ids = tuple(range(1, num_logits)) if gaps else ()
        return ClassRows(num_logits, filled, ids, tuple(range(num_logits)), background, notes)
    kept = tuple(names[row - 1] for row in used)
    return ClassRows(num_logits, kept, tuple(used) if gaps else (), (0, *used), background, notes)


def _coco_names() -> list[str]:
    names = iter(COCO_NAMES)
    return ["???" if row in COCO_GAPS else next(names) for row in range(1, COCO_LOGITS)]
