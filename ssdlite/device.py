"""Where to compute, and in which precision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from ssdlite.config import Amp
from ssdlite.errors import ConfigError, ProcessError, quote
from ssdlite.files import counted


def choose_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one. Raises ConfigError for a device that torch does not know or have."""
    if name == "auto":
        return torch.device("cuda" if names_gpu(name) else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device: expected auto, cpu, cuda, cuda:1, ..., got {quote(name)}") from None
    try:
        torch.empty(0, device=device).tolist()  # "meta" has no values
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ConfigError(
            f"device {quote(name)} cannot be used here: torch {torch.__version__} finds {_found_gpus()}"
        ) from None
    return device


def _found_gpus() -> str:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return "no GPU; cpu is always there" if not count else f"{counted(count, 'GPU')}, from cuda:0 on"


def names_gpu(device: str) -> bool:
    """Whether ``choose_device`` gives a GPU; reserves nothing on it."""
    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def choose_amp(amp: Amp, device: torch.device) -> torch.dtype | None:
    """The type of mixed precision, or None for float32.

    ``auto`` is bfloat16 where the hardware computes in it (CPUs with AVX512-BF16 or AMX, recent GPUs), float16 on
    older GPUs, and float32 elsewhere.
    """
    if amp == "off":
        return None
    if amp != "auto":
        if amp == "float16" and device.type == "cpu":
            raise ConfigError("--amp float16 needs a GPU; a CPU trains in bfloat16 or float32")
        return torch.bfloat16 if amp == "bfloat16" else torch.float16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if device.type == "cpu" and _cpu_has_bfloat16() else None


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def _cpu_has_bfloat16() -> bool:
    # Without the instructions, bfloat16 is emulated, and slower than float32. The query has had two names.
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        found = capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return bool(torch.cpu._is_avx512_bf16_supported())


# --- Several processes that train or evaluate as one. A single process needs none of it.


@dataclass(frozen=True)
class Processes:
    """This process among its peers."""

    rank: int = 0
    count: int = 1

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
    """This process among those that work as one, until the end of the block.

    A process group that the caller has initialised is used, and stays. Otherwise the group that torchrun's environment
    describes is joined (nccl on GPUs, gloo on CPUs) and left again; without one this process is alone.

    Raises:
        ProcessError: one of the others has ended, by an interrupt for example.
    """
    if distributed.is_available() and distributed.is_initialized():
        yield Processes(distributed.get_rank(), distributed.get_world_size())
        return
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    on_gpu = names_gpu(device)
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Processes(int(os.environ["RANK"]), count)
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo/transport" not in str(error):
            raise
        raise ProcessError(
            f"another of the {count} processes has ended, so that process {os.environ['RANK']} ends too; "
            "what that one has printed says why"
        ) from error
    finally:
        distributed.destroy_process_group()
