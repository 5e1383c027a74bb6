"""Train a detector: ``python tools/train_det.py --data DIR`` or ``ssdlite train --data DIR``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ssdlite.cli import keep_freed_memory, run
from ssdlite.training.options import TrainOptions


def train_det(options: TrainOptions) -> None:
    """Train a MobileNet SSD-Lite on a COCO or VOC data set, or on the built-in shapes."""
    from ssdlite.device import names_gpu
    from ssdlite.training.trainer import train

    if not names_gpu(options.device):
        keep_freed_memory()
    train(options)


def main(argv: Sequence[str] | None = None) -> int:
    return run(train_det, TrainOptions, argv, "ssdlite train")


if __name__ == "__main__":
    sys.exit(main())
