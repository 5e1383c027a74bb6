"""An index as a torch dataset: picture and boxes of one position, augmented the same way on every run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from ssdlite.datasets.index import DetectionIndex
from ssdlite.errors import DataError
from ssdlite.image import ImageArray, View, read_image

if TYPE_CHECKING:
    from ssdlite.datasets.mosaic import Layout, Mosaic


@dataclass
class Sample:
    """One picture and its objects; ``view``, once it is at the network's size, is what of the source is shown.

    A mosaic has the id and the position of its first picture, and is shown whole.
    """

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
    """The samples of ``index``, some joined with others to a ``mosaic``, each passed through ``transform``.

    Random numbers, also those that choose the other pictures of a mosaic, depend on (seed, epoch, position) alone:
    not on the loader's workers, their number, or what was loaded before.
    """

    def __init__(
        self,
        index: DetectionIndex,
        transform: Transform | None = None,
        seed: int = 0,
        *,
        mosaic: Mosaic | None = None,
    ) -> None:
        self.index = index
        self.transform = transform
        self.seed = seed
        self.mosaic = mosaic
        # In shared memory, so that loader processes which already run see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Draw other random numbers from now on, in loader processes that already run as well."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> Sample | BadSample:
        epoch = int(self._epoch)
        generator = np.random.default_rng([self.seed, epoch, position])
        layout = None if self.mosaic is None else self.mosaic.draw_layout(epoch, generator)
        if self.mosaic is None or layout is None:
            sample = self._read(position)
        else:
            sample = self._read_mosaic(position, self.mosaic, layout, generator)
        if self.transform is None or isinstance(sample, BadSample):
            return sample
        return self.transform(sample, generator)

    def _read_mosaic(
        self, position: int, mosaic: Mosaic, layout: Layout, generator: np.random.Generator
    ) -> Sample | BadSample:
        """The picture at ``position`` and random others; in place of all of them the first that cannot be decoded."""
        others = generator.integers(len(self), size=len(layout.tiles) - 1).tolist()
        samples = []
        for i in (position, *others):
            sample = self._read(i)
            if isinstance(sample, BadSample):
                return sample
            samples.append(sample)
        return mosaic.join(samples, layout, generator)

    def _read(self, position: int) -> Sample | BadSample:
        record = self.index.record(position)
        try:
            image = read_image(record.path, record.size)
        except DataError as error:
            return BadSample(position, str(error))
        if image.shape[:2] != record.size:
            return BadSample(position, f"{record.path}: expected size {record.size}, got {image.shape[:2]}")
        return Sample(image, record.boxes.copy(), record.labels.copy(), record.ignore.copy(), record.image_id, position)
