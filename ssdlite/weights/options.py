"""What a user says about the weights that are imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssdlite.config import MAX_IMAGE_SIDE
from ssdlite.errors import ConfigError

LEAST_IMAGE_SIDE = 32  # of DetectorConfig


def as_names(value: object) -> tuple[str, ...]:
    """Raises ConfigError where ``value`` is no sequence of names."""
    if isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise ConfigError(f"class_names: expected a sequence of names, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What the file of an import does not say itself; None leaves it to the file.

    Attributes:
        class_names: in the order of the classifier's rows, with or without background in front.
        image_size: side of the input in pixels, for formats that do not hold it.
        pictures: a folder; folded batch norms are measured on its pictures, else on made-up scenes.

    Raises:
        ConfigError: a value that no format could use.
    """

    class_names: tuple[str, ...] | None = None
    image_size: int | None = None
    pictures: Path | None = None

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

    def check_image_size(self, held: tuple[int, int], where: str) -> None:
        """Raises ConfigError where another size was asked for than the source, in its file ``where``, has."""
        side = self.image_size
        if side is not None and (side, side) != held:
            raise ConfigError(
                f"{where}: its input is {held[0]} x {held[1]} pixels, which an import keeps, but image_size "
                f"(--image-size) is {side}; leave it out: `ssdlite train --weights ... --image-size {side}` changes it"
            )

    def refuse_pictures(self, path: str, source: str) -> None:
        """Raises ConfigError where there are pictures: for a ``source`` whose batch norms are not folded away."""
        if self.pictures is not None:
            raise ConfigError(
                f"{path}: read as {source}, which has its batch norms' own statistics: nothing to measure on pictures "
                f"(--pictures {self.pictures}); leave them out"
            )
