"""An index as a torch dataset: picture and boxes of one position, augmented the same way on every run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.large_pictures import BadPictureError, LargePicture, is_large, read_picture
from ssdlite.datasets.picture_cache import PictureCache
from ssdlite.image import LETTERBOX_FILL, ImageArray, View

if TYPE_CHECKING:
    from ssdlite.datasets.mosaic import Layout, Mosaic

NOT_DECODED: ImageArray = np.empty((0, 0, 3), np.uint8)


@dataclass
class Sample:
    """One picture and its objects; ``view``, once it is at the network's size, is what of the source is shown.

    A mosaic has the id and the position of its first picture, and is shown whole. ``file``, where there is one, is
    decoded once it is known what to show; until then ``image`` is empty.
    """

    image: ImageArray  # [H, W, 3] RGB
    boxes: npt.NDArray[np.float32]  # [N, 4] xyxy pixels of the picture
    labels: npt.NDArray[np.int64]  # [N] in 0..K-1
    ignore: npt.NDArray[np.bool_]  # [N] crowd regions and difficult objects
    image_id: int
    position: int  # in the index
    view: View | None = None
    file: LargePicture | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture."""
        height, width = self.image.shape[:2] if self.file is None else self.file.size
        return height, width

    def shown(self, view: View, fill: int = LETTERBOX_FILL) -> Sample:
        """What ``view`` shows of the picture [*view.size, 3], with the view that this is exactly; boxes not clipped."""
        if self.file is None:
            image = view.render(self.image, fill)
        else:
            image, view = self.file.render(view, fill)
        return replace(self, image=image, boxes=view.boxes_to_input(self.boxes), view=view, file=None)


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
        reduce_to: tuple[int, int] | None = None,
        cache: PictureCache | None = None,
    ) -> None:
        """``reduce_to``: the input's (height, width), to decode large JPEGs at a fraction of their size.

        ``cache``: keeps what was decoded whole.
        """
        self.index = index
        self.transform = transform
        self.seed = seed
        self.mosaic = mosaic
        self.reduce_to = reduce_to
        self.cache = cache
        # In shared memory, so that loader processes which already run see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Draw other random numbers from now on, in loader processes that already run as well."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> Sample | BadSample:
        """A bad sample if the picture, or one of a mosaic's, cannot be decoded."""
        epoch = int(self._epoch)
        generator = np.random.default_rng([self.seed, epoch, position])
        layout = None if self.mosaic is None else self.mosaic.draw_layout(epoch, generator)
        try:
            if self.mosaic is None or layout is None:
                sample = self._read(position)
            else:
                sample = self._read_mosaic(position, self.mosaic, layout, generator)
            return sample if self.transform is None else self.transform(sample, generator)
        except BadPictureError as error:
            return BadSample(error.position, str(error))

    def _read_mosaic(self, position: int, mosaic: Mosaic, layout: Layout, generator: np.random.Generator) -> Sample:
        """The picture at ``position`` and random others."""
        others = generator.integers(len(self), size=len(layout.tiles) - 1).tolist()
        return mosaic.join([self._read(i) for i in (position, *others)], layout, generator)

    def _read(self, position: int) -> Sample:
        record = self.index.record(position)
        own = record.boxes.copy(), record.labels.copy(), record.ignore.copy(), record.image_id, position
        if self.reduce_to is not None and is_large(record.path, record.size, self.reduce_to):
            return Sample(NOT_DECODED, *own, file=LargePicture(record.path, record.size, position))
        image = None if self.cache is None else self.cache.get(position)
        if image is None:
            image = read_picture(record.path, record.size, position)
            if self.cache is not None:
                self.cache.put(position, image)
        return Sample(image, *own)
