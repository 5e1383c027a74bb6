"""Which images make up each training batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from ssdlite.errors import ConfigError


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
