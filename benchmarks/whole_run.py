"""A training run with its data loading, beside the same steps on tensors that are there already."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from torch.utils.data import DataLoader

from benchmarks.coco_data import CLASSES, write_coco
from benchmarks.harness import Comparison, Contestant, Settings
from benchmarks.training import finish
from ssdlite import build_detector
from ssdlite.cli import keep_freed_memory
from ssdlite.datasets.dataset import Batch, DetectionDataset, ShuffledBatches, collate
from ssdlite.datasets.formats.registry import load_split
from ssdlite.datasets.transforms import DetectionTransform
from ssdlite.training.options import TrainOptions
from ssdlite.training.step import TrainingStep

ROUNDS = 5
PRESET = "ssdlite320_mobilenet_v2"
BATCH, STEPS, WORKERS = 16, 12, 2  # steps in a turn
REFERENCE = "steps alone"


def comparisons(settings: Settings) -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory() as folder:
        write_coco(Path(folder), BATCH * STEPS)
        index = load_split(Path(folder), "train2017")
        dataset = DetectionDataset(index, DetectionTransform((320, 320), "stretch", "ssdlite"))
        batches = ShuffledBatches(len(index), BATCH, seed=0, rank=0, processes=1)
        loader: DataLoader[Batch] = DataLoader(
            dataset,  # type: ignore[arg-type]
            batch_sampler=batches,
            num_workers=WORKERS,
            collate_fn=collate,
            persistent_workers=True,
        )
        step = TrainingStep(build_detector(PRESET, num_classes=CLASSES).train(), TrainOptions())
        if step.device.type == "cpu":
            keep_freed_memory()
        kept = list(loader)
        yield Comparison(
            f"training run, V2, 320 px, batch {BATCH}, JPEG pictures of 640 x 480, {WORKERS} workers",
            [
                Contestant(REFERENCE, partial(train, step, kept), BATCH * STEPS),
                Contestant("with loading", partial(train, step, loader), BATCH * STEPS),
                Contestant("loading alone", lambda: sum(len(batch) for batch in loader), BATCH * STEPS),
            ],
            reference=REFERENCE,
            targets={"with loading": 0.90},
            threads=settings.threads,
        )


def train(step: TrainingStep, batches: Iterable[Batch]) -> None:
    for batch in batches:
        step(batch.images, batch.boxes, batch.labels)
    finish(step.device)
