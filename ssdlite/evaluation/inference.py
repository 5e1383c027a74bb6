"""A detector, of a checkpoint or exported, over an annotated data set, in one process or several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import DataLoader

from ssdlite.datasets.dataset import Batch, DetectionDataset, collate
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.samples import BadSample, Sample
from ssdlite.datasets.workers import explained_worker_failures
from ssdlite.detections import Detections
from ssdlite.device import Processes
from ssdlite.errors import DataError
from ssdlite.evaluation.coco import Evaluator
from ssdlite.images.geometry import InputTransform
from ssdlite.images.prediction import DetectionModel, InputBatch, detect_batch


def detect_dataset(
    model: DetectionModel,
    index: DetectionIndex,
    *,
    batch_size: int = 16,
    workers: int = 0,
    positions: Sequence[int] | None = None,
    skip_bad: bool = False,
) -> Iterator[tuple[int, Detections]]:
    """(position in the index, detections in the picture's own pixels), for all ``positions`` or the whole index.

    Raises:
        DataError: an image cannot be read and ``skip_bad`` is not set; otherwise it is skipped.
        WorkerError: a process that loads images has died, or found no room in shared memory.
    """
    loader: DataLoader[Batch] = DataLoader(
        DetectionDataset(index, _ToInput(model.input_transform)),  # type: ignore[arg-type]
        batch_size,
        sampler=range(len(index)) if positions is None else positions,
        num_workers=workers,
        collate_fn=collate,
    )
    with explained_worker_failures():
        for batch in loader:
            refuse_bad(batch.bad, skip_bad)
            if not len(batch):
                continue
            sizes = [index.record(position).size for position in batch.positions]
            found = detect_batch(model, InputBatch(batch.images.numpy(), batch.windows, sizes))
            yield from zip(batch.positions, found, strict=True)


@dataclass(frozen=True)
class _ToInput:
    """The whole picture, as the model wants it."""

    input_transform: InputTransform

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        return sample.shown(self.input_transform.window(sample.size), self.input_transform.fill)


class Evaluation(NamedTuple):
    """Detections of a whole index, ready to be scored; images that could not be read are not part of it."""

    evaluator: Evaluator
    unreadable: tuple[str, ...]  # files


def evaluate_dataset(
    model: DetectionModel,
    index: DetectionIndex,
    processes: Processes,
    *,
    batch_size: int = 16,
    workers: int = 0,
    skip_bad: bool = False,
    on_image: Callable[[], object] = lambda: None,
) -> Evaluation:
    """Detect in every image of the index, each process in its share, and gather the results in all of them.

    ``on_image`` is called after every image of this process. Raises what ``detect_dataset`` does.
    """
    own: dict[int, Detections] = {}
    for position, detections in detect_dataset(
        model,
        index,
        batch_size=batch_size,
        workers=workers,
        positions=range(processes.rank, len(index), processes.count),
        skip_bad=skip_bad,
    ):
        own[position] = detections
        on_image()
    found = {position: detections for share in processes.gather(own) for position, detections in share.items()}
    readable = sorted(found)
    evaluator = Evaluator(index if len(readable) == len(index) else index.subset(readable))
    for number, position in enumerate(readable):
        evaluator.update(number, found[position])
    return Evaluation(evaluator, tuple(path for i, path in enumerate(index.paths) if i not in found))


def refuse_bad(bad: Sequence[BadSample], skip_bad: bool) -> None:
    """Raise DataError for the first unreadable sample, unless they are to be skipped."""
    if bad and not skip_bad:
        raise DataError(f"{bad[0].error}; use --skip-bad to leave such images out")
