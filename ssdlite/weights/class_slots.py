"""Which rows of a classifier are kept, and what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdlite.coco_names import COCO_NAMES
from ssdlite.errors import CheckpointError
from ssdlite.wording import counted

COCO_SLOTS = 91  # category ids 0 to 90: background, 80 classes and ten ids that COCO has left out
COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
UNUSED = ("", "???", "n/a", "unused")  # what label files write for a slot without a class
HOW_TO_NAME = "give class_names=..., or on the command line --labels FILE (a name a line) or --class-names"


@dataclass(frozen=True)
class ClassSlots:
    """Slot 0 is background, which some classifiers have no row for.

    Attributes:
        slots: of the source, with background.
        category_ids: the slots of the classes, where they have gaps; otherwise empty, as nobody has said any.
        kept: the slots that become ours, background first.
        background: whether the source has a row for it; a sigmoid classifier can do without.
    """

    slots: int
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    kept: tuple[int, ...]
    background: bool = True

    def select(self, rows: Tensor) -> Tensor:
        """Predictor weights or biases, for each anchor a row for each slot -> [A * (K + 1), ...]."""
        anchors = rows.reshape(-1, self.slots if self.background else self.slots - 1, *rows.shape[1:])
        if not self.background:
            anchors = torch.cat([torch.zeros_like(anchors[:, :1]), anchors], dim=1)
        return anchors[:, torch.tensor(self.kept)].flatten(0, 1)


def count_slots(bias: Tensor, name: str, shapes_per_cell: int, path: str) -> int:
    """Rows for one anchor, background included, of the predictor that ends with ``bias`` [shapes_per_cell * rows].

    Raises:
        CheckpointError: it cannot be that of a classifier.
    """
    slots, rest = divmod(bias.numel(), shapes_per_cell)
    if bias.dim() != 1 or rest or slots < 2:
        raise CheckpointError(
            f"{path}: {name}: expected {shapes_per_cell} values for background and each class, got {list(bias.shape)}"
        )
    return slots


def name_slots(slots: int, names: Sequence[str] | None, score_function: str, path: str, hint: str = "") -> ClassSlots:
    """Names for a classifier of ``slots`` rows, background being the first.

    ``names`` may have background in front, and a name like ``???`` for a slot that is not used: sigmoid classifiers
    drop such rows, softmax ones need them for their sum. Without names, 91 slots are COCO's.

    Raises:
        CheckpointError: names are missing, or there are too many or too few; ``hint`` goes with it.
    """
    if names is None:
        if slots != COCO_SLOTS:
            raise CheckpointError(
                f"{path}: the names of its {slots - 1} classes are not in the file; {HOW_TO_NAME}{hint}"
            )
        names = _coco_names()
    if len(names) not in (slots, slots - 1):
        raise CheckpointError(
            f"{path}: the model has {slots - 1} classes and background, but got {counted(len(names), 'class name')}; "
            f"expected {slots - 1}, or {slots} with background first"
        )
    names = [name.strip() for name in names][len(names) - slots + 1 :]
    used = [slot for slot, name in enumerate(names, 1) if name.lower() not in UNUSED]
    if not used:
        raise CheckpointError(f"{path}: none of its {slots - 1} classes has a name; {HOW_TO_NAME}")
    gaps = len(used) < len(names)
    if score_function == "softmax":
        filled = tuple(name if slot in used else f"unused {slot}" for slot, name in enumerate(names, 1))
        return ClassSlots(slots, filled, tuple(range(1, slots)) if gaps else (), tuple(range(slots)))
    return ClassSlots(slots, tuple(names[slot - 1] for slot in used), tuple(used) if gaps else (), (0, *used))


def _coco_names() -> list[str]:
    names = iter(COCO_NAMES)
    return ["???" if slot in COCO_GAPS else next(names) for slot in range(1, COCO_SLOTS)]
