"""Where to compute, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch

from ssdlite.errors import ConfigError

Amp = Literal["auto", "off", "bfloat16", "float16"]


def choose_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one. Raises ConfigError for a device that torch does not know or have."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return device


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
