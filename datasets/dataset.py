"""An index as a torch dataset: picture and boxes of one position, augmented the same way on every run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from ssdlite.datasets.index import DetectionIndex
from ssdlite.errors import DataError
from ssdlite.image import ImageArray, View, read_image


@dataclass
class Sample:
    """One picture and its objects; ``view``, once a transform has set it, is what of the source is shown."""

    image: ImageArray  # [H, W, 3] RGB
    boxes: npt.NDArray[np.float32]  # [N, 4] xyxy pixels of ``image``
    labels: npt.NDArray[np.int64]  # [N] in 0..K-1
    ignore: npt.NDArray[np.bool_]  # [N] crowd regions and difficult objects
    image_id: int
    position: int  # in the index
    view: View | None = None


class BadSample(NamedTuple):
    """In place of a sample whose picture cannot be decoded: the collation counts it and goes on."""

    position: int
    error: str


Transform = Callable[[Sample, np.random.Generator], Sample]


class DetectionDataset(Dataset["Sample | BadSample"]):
    """The samples of ``index``, each passed through ``transform``.

    The transform's random numbers depend on (seed, epoch, position) alone: not on the loader's workers, their
    number, or what was loaded before.
    """

    def __init__(self, index: DetectionIndex, transform: Transform | None = None, seed: int = 0) -> None:
        self.index = index
        self.transform = transform
        self.seed = seed
        # In shared memory, so that loader processes which already run see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Draw other random numbers from now on, in loader processes that already run as well."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> Sample | BadSample:
        record = self.index.record(position)
        try:
            image = read_image(record.path, record.size)
        except DataError as error:
            return BadSample(position, str(error))
        if image.shape[:2] != record.size:
            return BadSample(position, f"{record.path}: expected size {record.size}, got {image.shape[:2]}")
        sample = Sample(
            image, record.boxes.copy(), record.labels.copy(), record.ignore.copy(), record.image_id, position
        )
        if self.transform is None:
            return sample
        generator = np.random.default_rng([self.seed, int(self._epoch), position])
        return self.transform(sample, generator)
