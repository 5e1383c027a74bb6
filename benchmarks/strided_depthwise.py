"""Forward and backward of depthwise convolutions with stride, bfloat16 against float32 with casts, on the CPU.

``python benchmarks/strided_depthwise.py``: a line per shape, medians of nine runs in milliseconds and their ratio.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SHAPES = (
    (96, 160),
    (144, 80),
    (192, 40),
    (576, 20),
    (256, 10),
)  # channels, side: MobileNetV2 at 320 px and extra layers
BATCH = 16
RUNS = 9


def milliseconds(work: Callable[[], Tensor]) -> float:
    times = []
    for _ in range(RUNS + 2):
        start = time.perf_counter()
        outputs = work()
        outputs.backward(torch.ones_like(outputs))
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times[2:])


def main() -> None:
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, batch {BATCH}")
    print("channels side   bfloat16 ms  float32 ms  ratio")
    for channels, side in SHAPES:
        images = torch.randn(BATCH, channels, side, side, dtype=torch.bfloat16)
        images = images.to(memory_format=torch.channels_last).requires_grad_()
        weight = torch.randn(channels, 1, 3, 3, requires_grad=True)

        def low(x: Tensor = images, w: Tensor = weight, groups: int = channels) -> Tensor:
            return F.conv2d(x, w.bfloat16(), None, 2, 1, 1, groups)

        def high(x: Tensor = images, w: Tensor = weight, groups: int = channels) -> Tensor:
            return F.conv2d(x.float(), w, None, 2, 1, 1, groups).bfloat16()

        slow, fast = milliseconds(low), milliseconds(high)
        print(f"{channels:8d} {side:4d} {slow:13.1f} {fast:11.1f} {slow / fast:6.1f}")


if __name__ == "__main__":
    main()
