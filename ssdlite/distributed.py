"""Several processes that train or evaluate as one, started by torchrun. A single process needs none of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn


@dataclass(frozen=True)
class Processes:
    """This process among its peers."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, value: Any) -> Any:
        """The first process's ``value``, in all."""
        if self.count == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in all."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def synchronise(self, module: nn.Module) -> None:
        """Give every process the first one's parameters and buffers."""
        if self.count > 1:
            for tensor in module.state_dict().values():
                distributed.broadcast(tensor, src=0)


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Join the process group that torchrun's environment describes (nccl on GPUs, gloo on CPUs), if there is one."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or distributed.is_initialized():
        yield Processes()
        return
    processes = Processes(int(os.environ["RANK"]), count, int(os.environ["LOCAL_RANK"]))
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        torch.cuda.set_device(processes.local_rank)
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield processes
    finally:
        distributed.destroy_process_group()
