"""torchvision's ssdlite320_mobilenet_v3_large from scratch on a data set, scored as our detectors are.

    python -m benchmarks.torchvision_scratch path/to/data --val-split test

The pictures, their augmentation (SSD's crop and flip), their order and the scoring are ours; the model, its targets,
losses and post-processing torchvision's, in float32. AdamW with a cosine: its reference recipe is one for 64 times the
steps, and reaches less in this many.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from ssdlite.cli import keep_freed_memory
from ssdlite.datasets.dataset import Batch, DetectionDataset, ShuffledBatches, collate
from ssdlite.datasets.index import DetectionIndex
from ssdlite.datasets.loading import load_data
from ssdlite.datasets.transforms import DetectionTransform
from ssdlite.detections import Detections
from ssdlite.evaluation.coco import Evaluator, Metrics
from ssdlite.files import write_json
from ssdlite.images.reading import read_image

SIDE, WARM_UP_STEPS = 320, 200


def main() -> None:
    options = _parse()
    keep_freed_memory()
    torch.manual_seed(options.seed)
    data = load_data(options.data, train_split=options.train_split, val_split=options.val_split)
    print(*data.notes, sep="\n")
    classes = len(data.train.class_names)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=classes + 1)
    started = time.perf_counter()
    for epoch, loss in enumerate(_train(model, data.train, options), start=1):
        print(f"epoch {epoch}/{options.epochs}  loss {loss:.3f}  {time.perf_counter() - started:.0f} s", flush=True)
    metrics = _score(model, data.val)
    print({name: round(value, 3) for name, value in metrics.figures().items() if value is not None})
    if options.output:
        write_json(options.output, metrics.to_dict())


def _parse() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--train-split")
    parser.add_argument("--val-split")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    return parser.parse_args()


def _train(model: Any, index: DetectionIndex, options: Any) -> Any:
    """The mean loss of each epoch."""
    dataset = DetectionDataset(index, DetectionTransform((SIDE, SIDE), "stretch", "ssdlite"), options.seed)
    batches = ShuffledBatches(len(index), options.batch_size, seed=options.seed)
    total = len(batches) * options.epochs
    optimizer = torch.optim.AdamW(model.parameters(), options.lr, weight_decay=1e-4)
    warm_up = min(WARM_UP_STEPS, max(1, total // 10))

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    for epoch in range(options.epochs):
        dataset.set_epoch(epoch)
        batches.epoch = epoch
        losses = []
        loader: DataLoader[Batch] = DataLoader(dataset, batch_sampler=batches, collate_fn=collate)  # type: ignore[arg-type]
        for batch in loader:
            images = [image.float() / 255 for image in batch.images]
            targets = [
                {"boxes": boxes[labels >= 0], "labels": labels[labels >= 0] + 1}  # 0 is torchvision's background
                for boxes, labels in zip(batch.boxes, batch.labels, strict=True)
            ]
            loss = sum(model(images, targets).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        yield float(np.mean(losses))


@torch.inference_mode()
def _score(model: Any, index: DetectionIndex) -> Metrics:
    model.eval()
    evaluator = Evaluator(index)
    for position, path in enumerate(index.paths):
        picture = torch.from_numpy(read_image(path)).permute(2, 0, 1).float() / 255
        (found,) = model([picture])
        boxes, scores, labels = (found[name].numpy() for name in ("boxes", "scores", "labels"))
        evaluator.update(position, Detections(boxes, scores, labels.astype(np.int64) - 1, index.class_names))
    return evaluator.compute()


if __name__ == "__main__":
    main()
