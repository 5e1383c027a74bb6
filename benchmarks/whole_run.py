"""A training run with its data loading, beside the same steps on tensors that are there already."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.coco_data import CLASSES, write_coco
from benchmarks.harness import Comparison, Contestant, Settings
from ssdlite import build_detector
from ssdlite.datasets.collate import Batch, collate
from ssdlite.datasets.dataset import DetectionDataset
from ssdlite.datasets.discover import load_split
from ssdlite.datasets.sampler import ShuffledBatches
from ssdlite.datasets.transforms import DetectionTransform
from ssdlite.device import autocast, choose_amp, choose_device
from ssdlite.loss import MultiBoxLoss
from ssdlite.optimisation import WeightAverage, build_optimizer
from ssdlite.train_options import TrainOptions

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
        trainer = Steps()
        kept = list(loader)
        yield Comparison(
            f"training run, V2, 320 px, batch {BATCH}, JPEG pictures of 640 x 480, {WORKERS} workers",
            [
                Contestant(REFERENCE, lambda: trainer.run(kept), BATCH * STEPS),
                Contestant("with loading", lambda: trainer.run(loader), BATCH * STEPS),
                Contestant("loading alone", lambda: sum(len(batch) for batch in loader), BATCH * STEPS),
            ],
            reference=REFERENCE,
            targets={"with loading": 0.90},
            threads=settings.threads,
        )


class Steps:
    """The steps of ``ssdlite train``."""

    def __init__(self) -> None:
        self.device = choose_device("auto")
        self.amp = choose_amp("auto", self.device)
        self.options = TrainOptions()
        detector = build_detector(PRESET, num_classes=CLASSES).to(self.device)
        self.detector = detector.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.optimizer = build_optimizer(self.detector, self.options)
        self.average = WeightAverage(self.detector, self.options.ema_decay)
        scales = torch.tensor(self.detector.config.box_code_scales, device=self.device)
        self.criterion = MultiBoxLoss(self.detector.anchors, scales)

    def run(self, batches: object) -> None:
        for batch in itertools.islice(batches, STEPS):  # type: ignore[call-overload]
            self._step(*(tensor.to(self.device) for tensor in (batch.images, batch.boxes, batch.labels)))

    def _step(self, images: Tensor, boxes: Tensor, labels: Tensor) -> None:
        with autocast(self.device, self.amp):
            outputs = self.detector(images)
        self.optimizer.zero_grad(set_to_none=True)
        self.criterion(outputs, boxes, labels).total.backward()
        nn.utils.clip_grad_norm_(self.detector.parameters(), self.options.clip_norm)
        self.optimizer.step()
        self.average.update(self.detector)
