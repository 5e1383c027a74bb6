"""A detector over an annotated data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader

from ssdlite.datasets.collate import Batch, collate
from ssdlite.datasets.dataset import BadSample, DetectionDataset
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.transforms import DetectionTransform
from ssdlite.detections import Detections
from ssdlite.detector import Detector, unbatch_detections
from ssdlite.device import autocast
from ssdlite.errors import DataError


def detect_dataset(
    detector: Detector,
    index: DetectionIndex,
    *,
    batch_size: int = 16,
    workers: int = 0,
    amp: torch.dtype | None = None,
    positions: Sequence[int] | None = None,
    skip_bad: bool = False,
) -> Iterator[tuple[int, Detections]]:
    """(position in the index, detections in the picture's own pixels), for all ``positions`` or the whole index.

    Raises:
        DataError: an image cannot be read and ``skip_bad`` is not set; otherwise it has no detections.
    """
    config = detector.config
    dataset = DetectionDataset(index, DetectionTransform(config.image_size, config.resize))
    loader: DataLoader[Batch] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size,
        sampler=range(len(index)) if positions is None else positions,
        num_workers=workers,
        collate_fn=collate,
    )
    device = detector.mean.device
    was_training = detector.training
    detector.eval()
    try:
        for batch in loader:
            refuse_bad(batch.bad, skip_bad)
            for sample in batch.bad:
                yield sample.position, _nothing(detector.class_names)
            if not len(batch):
                continue
            with autocast(device, amp):
                found = detector.detect(batch.images.to(device))
            sizes = [index.record(position).size for position in batch.positions]
            yield from zip(
                batch.positions,
                unbatch_detections(found, batch.views, sizes, detector.class_names),
                strict=True,
            )
    finally:
        detector.train(was_training)


def refuse_bad(bad: Sequence[BadSample], skip_bad: bool) -> None:
    """Raise DataError for the first unreadable sample, unless they are to be skipped."""
    if bad and not skip_bad:
        raise DataError(f"{bad[0].error}; use --skip-bad to leave such images out")


def _nothing(class_names: tuple[str, ...]) -> Detections:
    import numpy as np

    return Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64), class_names)
