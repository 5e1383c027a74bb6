"""What a user says about the weights that are imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What the file of an import does not say itself; None leaves it to the file.

    Attributes:
        class_names: in the order of the classifier's rows, with or without background in front.
        image_size: side of the input in pixels, for formats that do not hold it.
        pictures: a folder; folded batch norms are measured on its pictures, else on made-up scenes.
    """

    class_names: tuple[str, ...] | None = None
    image_size: int | None = None
    pictures: Path | None = None
