"""An index as a torch dataset: picture and boxes of one position, augmented the same way on every run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ssdlite.datasets.cache import BadPictureError, LargePicture, PictureCache, is_large, read_picture
from ssdlite.datasets.index import DetectionIndex
from ssdlite.errors import ConfigError
from ssdlite.heads.base import IGNORE_LABEL, PADDING_LABEL
from ssdlite.images.geometry import LETTERBOX_FILL, CropWindow, ImageArray

if TYPE_CHECKING:
    from ssdlite.datasets.transforms import Mosaic, MosaicLayout


NOT_DECODED: ImageArray = np.empty((0, 0, 3), np.uint8)


@dataclass
class Sample:
    """One picture and its objects; ``window``, once it is at the network's size, is what of the source is shown.

    A mosaic has the id and the position of its first picture, and is shown whole. ``file``, where there is one, is
    decoded once it is known what to show; until then ``image`` is empty.
    """

    image: ImageArray  # [H, W, 3] RGB
    boxes: npt.NDArray[np.float32]  # [N, 4] xyxy pixels of the picture
    labels: npt.NDArray[np.int64]  # [N] in 0..K-1
    ignore: npt.NDArray[np.bool_]  # [N] crowd regions and difficult objects
    image_id: int
    position: int  # in the index
    window: CropWindow | None = None
    file: LargePicture | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture."""
        height, width = self.image.shape[:2] if self.file is None else self.file.size
        return height, width

    def shown(self, window: CropWindow, fill: int = LETTERBOX_FILL) -> Sample:
        """What ``window`` shows of the picture [*window.size, 3], and its exact window; boxes not clipped."""
        if self.file is None:
            image = window.render(self.image, fill)
        else:
            image, window = self.file.render(window, fill)
        return replace(self, image=image, boxes=window.boxes_to_input(self.boxes), window=window, file=None)


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

    def _read_mosaic(
        self, position: int, mosaic: Mosaic, layout: MosaicLayout, generator: np.random.Generator
    ) -> Sample:
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


# --- Samples of one size -> one batch of tensors.


@dataclass(frozen=True)
class Batch:
    """B images of one size and their objects, padded to M a picture.

    images uint8 [B, 3, H, W] (stored channels-last), boxes [B, M, 4] xyxy input pixels, labels [B, M] (-1 padding,
    -2 ignored region), ``positions`` in the index, ``windows`` for the way back; ``bad`` could not be read.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    positions: tuple[int, ...]
    windows: tuple[CropWindow, ...]
    bad: tuple[BadSample, ...] = ()

    def __len__(self) -> int:
        return len(self.positions)


def collate(samples: Sequence[Sample | BadSample]) -> Batch:
    """Samples of one size -> a batch; unreadable ones are left out of the tensors and listed in ``bad``."""
    good = [sample for sample in samples if isinstance(sample, Sample)]
    bad = tuple(sample for sample in samples if isinstance(sample, BadSample))
    most = max((len(sample.boxes) for sample in good), default=0)
    boxes = np.zeros((len(good), most, 4), np.float32)
    labels = np.full((len(good), most), PADDING_LABEL, np.int64)
    for i, sample in enumerate(good):
        boxes[i, : len(sample.boxes)] = sample.boxes
        labels[i, : len(sample.boxes)] = np.where(sample.ignore, IGNORE_LABEL, sample.labels)
    images = np.stack([sample.image for sample in good]) if good else np.empty((0, 1, 1, 3), np.uint8)
    return Batch(
        images=torch.from_numpy(images).permute(0, 3, 1, 2),
        boxes=torch.from_numpy(boxes),
        labels=torch.from_numpy(labels),
        positions=tuple(sample.position for sample in good),
        windows=tuple(sample.window for sample in good if sample.window is not None),
        bad=bad,
    )


# --- Which images make up each training batch.


class ShuffledBatches(Sampler[list[int]]):
    """The positions 0..length-1 in an order that depends on (seed, epoch) alone, in batches of ``batch_size``.

    An incomplete last batch is left out (the order differs every epoch, so no image is), unless it is the only one.
    Of each batch, process ``rank`` of ``processes`` gets its share; the shares together are the batch.
    """

    def __init__(self, length: int, batch_size: int, *, seed: int, rank: int = 0, processes: int = 1) -> None:
        if length < 1:
            raise ConfigError("there are no images to make batches of")
        self.length = length
        self.batch_size = min(batch_size, length)
        self.seed = seed
        self.rank = rank
        self.processes = processes
        self.epoch = 0

    def __len__(self) -> int:
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        for batch in range(len(self)):
            whole = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield whole[self.rank :: self.processes].tolist()
