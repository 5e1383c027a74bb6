"""State dicts out of other projects' PyTorch and safetensors files, without running anything that they contain."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssdlite.checkpoint import FORMAT
from ssdlite.errors import CheckpointError, ConfigError

MAX_BYTES = 2 * 2**30  # of a file; detectors here have 4 to 40 MB, and what training adds
MAX_TENSORS = 20_000
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module", "ema_state_dict", "weights", "params")
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile and Lightning


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a .pth, .pt or .safetensors file, onto the CPU.

    Files of old PyTorch versions (not zip archives) are read too, and state dicts that lie in a dict of a training
    program under a usual name. Prefixes that wrappers put before all names are dropped.

    Raises:
        CheckpointError: no such file, truncated, hostile (pickled code is refused, not run), or no state dict.
        ConfigError: a .safetensors file, and that package is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise CheckpointError(f"{path}: {size} bytes, more than the {MAX_BYTES} that are read")
    content = _read_safetensors(path) if is_safetensors(path) else _read_torch(path)
    return _without_prefixes(_find_state_dict(content, str(path)))


def is_torch_file(path: Path) -> bool:
    """Whether a file begins as one that ``torch.save`` wrote, new or old."""
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"PK\x03\x04"):
        return zipfile.is_zipfile(path)
    return head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"  # a pickle's protocol


def is_safetensors(path: Path) -> bool:
    """Whether a file begins with the length of a JSON header and the header."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and 2 <= int.from_bytes(head[:8], "little") <= path.stat().st_size and head[8:9] == b"{"


def _read_torch(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                    raise zipfile.BadZipFile("it is compressed, which torch.save never does")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged and for hostile files
        refused = isinstance(error, pickle.UnpicklingError) and "Weights only load failed" in str(error)
        reason = (
            "it holds more than tensors and plain values, and could run code; save its state_dict alone"
            if refused
            else str(error).split("\n", maxsplit=1)[0] or type(error).__name__
        )
        raise CheckpointError(f"{path}: cannot be read as a PyTorch file ({reason})") from error


def _read_safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise ConfigError("reading .safetensors files needs that package: pip install safetensors") from None
    try:
        return load_file(path)
    except Exception as error:  # its own kind, which is no subclass of a more telling one
        raise CheckpointError(f"{path}: cannot be read as a safetensors file ({error})") from error


def _find_state_dict(content: Any, path: str) -> dict[str, Tensor]:
    candidates = [content]
    if isinstance(content, Mapping):
        if content.get("format") == FORMAT:
            raise CheckpointError(f"{path}: already a checkpoint of ssdlite, there is nothing to import")
        candidates += [content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)]
    for candidate in candidates:
        if isinstance(candidate, Mapping) and candidate and all(_is_entry(*item) for item in candidate.items()):
            if len(candidate) > MAX_TENSORS:
                raise CheckpointError(f"{path}: {len(candidate)} tensors, more than the {MAX_TENSORS} allowed")
            _check_memory(candidate, path)
            return dict(candidate)
    held = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        held = f"a dict of {', '.join(map(repr, list(content)[:5]))}" if content else "an empty dict"
    raise CheckpointError(f"{path}: expected a state dict, found {held}")


def _is_entry(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided


def _check_memory(tensors: Mapping[str, Tensor], path: str) -> None:
    """Refuse views that claim more than is stored: the file would be small, what is made of it is not."""
    stored = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors.values()}
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if claimed > 2 * sum(stored.values()) + 2**20:
        raise CheckpointError(f"{path}: damaged: its tensors claim {claimed} bytes, it holds {sum(stored.values())}")


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            return _without_prefixes({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    return tensors
