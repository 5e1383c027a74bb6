"""An index as a torch dataset: samples in the order of the index, augmented the same way on every run, and batches."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.samples import (
    NOT_DECODED,
    BadPictureError,
    BadSample,
    LargePicture,
    Sample,
    is_large,
    read_picture,
)
from ssdlite.datasets.workers import hand_over
from ssdlite.errors import ConfigError
from ssdlite.files import counted
from ssdlite.heads.base import IGNORE_LABEL, PADDING_LABEL
from ssdlite.images.geometry import CropWindow, ImageArray

if TYPE_CHECKING:
    from ssdlite.datasets.transforms import Mosaic, MosaicLayout

Transform = Callable[[Sample, np.random.Generator], Sample]


class DetectionDataset(Dataset["Sample | BadSample"]):
    """The samples of ``index``, some of them combined to a ``mosaic``, each passed through ``transform``.

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
    batch = Batch(
        images=torch.from_numpy(images).permute(0, 3, 1, 2),
        boxes=torch.from_numpy(boxes),
        labels=torch.from_numpy(labels),
        positions=tuple(sample.position for sample in good),
        windows=tuple(sample.window for sample in good if sample.window is not None),
        bad=bad,
    )
    hand_over((batch.images, batch.boxes, batch.labels))
    return batch


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


# --- Decoded pictures in a temporary file that all loader processes share: each is decoded once in a run.

KEPT_FREE = 1 << 30  # bytes that the disk keeps free


class PictureCache:
    """Room for the pictures of a data set; ``sizes`` [I, 2] are their (height, width).

    The system keeps in memory as much of the file as it has room for. It is deleted when the cache is, in the process
    that made it.

    Raises:
        ConfigError: the disk of the temporary folder has no room for it.
    """

    def __init__(self, sizes: npt.NDArray[np.int32]) -> None:
        self.sizes = sizes
        self.ends = np.cumsum(sizes.astype(np.int64).prod(axis=1) * 3)
        size = int(self.ends[-1]) if len(self.ends) else 0
        folder = Path(tempfile.mkdtemp(prefix="ssdlite-pictures-"))
        weakref.finalize(self, _remove, folder, os.getpid())
        free = shutil.disk_usage(folder).free
        if size > free - KEPT_FREE:
            raise ConfigError(
                f"--cache: {counted(len(sizes), 'picture')} take {size / 1e9:.1f} GB decoded, and the disk of "
                f"{folder.parent} has {free / 1e9:.1f} GB free"
            )
        self.files = folder / "pixels", folder / "filled"
        for file, length in zip(self.files, (size, len(sizes)), strict=True):
            with file.open("wb") as stream:
                stream.truncate(length)  # takes no room before it is written to
        self._open()

    def _open(self) -> None:
        self.pixels, self.filled = (
            np.memmap(file, np.uint8, "r+") if file.stat().st_size else np.empty(0, np.uint8) for file in self.files
        )

    def get(self, position: int) -> ImageArray | None:
        """The picture [H, W, 3], not to be written to; None if it has not been ``put`` yet."""
        if not self.filled[position]:
            return None
        picture = self._place(position)
        picture.flags.writeable = False
        return picture

    def put(self, position: int, picture: ImageArray) -> None:
        """Keep a picture of its size. Two processes may: what they write is the same."""
        self._place(position)[:] = picture
        self.filled[position] = 1

    def _place(self, position: int) -> ImageArray:
        height, width = self.sizes[position].tolist()
        end = int(self.ends[position])
        place: ImageArray = np.asarray(self.pixels[end - height * width * 3 : end]).reshape(height, width, 3)
        return place

    def __getstate__(self) -> dict[str, object]:
        """For loader processes that are started anew: the file, not its content."""
        return {name: value for name, value in vars(self).items() if name not in ("pixels", "filled")}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._open()


def _remove(folder: Path, owner: int) -> None:
    """Unless this is a forked process, which has a copy of the object only."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
