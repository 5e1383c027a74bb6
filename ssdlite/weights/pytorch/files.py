"""State dicts out of other projects' PyTorch and safetensors files, without running anything that they contain."""

from __future__ import annotations

import argparse
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ssdlite.checkpoint import CHECKPOINT_FORMAT
from ssdlite.errors import CheckpointError, quote
from ssdlite.stored_tensors import check_tensors, is_plain_tensor
from ssdlite.weights.source import (
    HEAD_BYTES,
    SAFETENSORS,
    TORCH,
    ZIP,
    check_size,
    damaged_file,
    describe_unknown,
    file_kind,
    read_head,
    require_file,
)

MAX_TENSORS = 20_000


class UnreadNumber:
    """In place of a number of numpy, such as the AP that YOLOX's training keeps, and of a callback of Lightning: it is
    made of any arguments, and read by nobody. numpy's own classes would take their memory's layout from the file."""

    def __init__(self, *parts: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# PyTorch Lightning before 1.5 keeps what its callbacks remember under their classes, such as this one
LIGHTNING_CALLBACK = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
NUMPY_NUMBERS = ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")  # as pickles name them
PLAIN_CLASSES: tuple[Any, ...] = (
    argparse.Namespace,  # holds values and does nothing: torchvision's scripts keep their options so
    UnreadNumber,
    *((UnreadNumber, name) for name in (*NUMPY_NUMBERS, LIGHTNING_CALLBACK)),
)
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module", "ema_state_dict", "weights", "params")
MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # at the front of what torch.save wrote before it wrote zip archives
WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile and Lightning


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a .pth, .pt or .safetensors file, onto the CPU.

    Files of old PyTorch versions (not zip archives) are read too, and state dicts that lie in a dict of a training
    program under a usual name. Prefixes that wrappers put before all names are dropped.

    Raises:
        CheckpointError: no such file, truncated, hostile (pickled code is refused, not run), or no state dict.
    """
    path = Path(path)
    require_file(path)
    kind = file_kind(path)
    if kind not in (TORCH, SAFETENSORS):
        got = f"a {kind}; `ssdlite import-weights` reads detectors in those" if kind else describe_unknown(path)
        raise CheckpointError(f"{path}: expected a PyTorch or safetensors file, got {got or 'something else'}")
    check_size(path)
    content = _read_safetensors(path) if kind == SAFETENSORS else _read_torch(path)
    return _without_prefixes(_find_state_dict(content, str(path)))


def _read_torch(path: Path) -> Any:
    _check_container(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(PLAIN_CLASSES)):
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # torch raises many kinds for damaged and for hostile files
        if isinstance(error, pickle.UnpicklingError) and "Unsupported operand" in str(error):
            raise _unreadable(path, "its pickle is damaged, or of another protocol than torch.save's own") from error
        if isinstance(error, pickle.UnpicklingError) and "Weights only load failed" in str(error):
            reason = "it holds more than tensors and plain values, and could run code; save its state_dict alone"
            raise _unreadable(path, reason) from error
        raise damaged_file(path, TORCH) from error


def _check_container(path: Path) -> None:
    """Refuse archives and pickles that torch.save does not write, and archives that are cut off."""
    head = read_head(path)
    if not head.startswith(ZIP):
        if MAGIC not in head and len(head) == HEAD_BYTES:
            raise _unreadable(path, "a pickle that torch.save did not write")
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise damaged_file(path, TORCH) from error
    if "constants.pkl" in {entry.filename.rpartition("/")[2] for entry in entries}:
        raise _unreadable(path, "a TorchScript archive; save its state_dict alone")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise _unreadable(path, "it is compressed, which torch.save never does")


def _unreadable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path}: cannot be read as a PyTorch file ({reason})")


def _read_safetensors(path: Path) -> Any:
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # its own kind, which is no subclass of a more telling one
        raise damaged_file(path, SAFETENSORS) from error


def _find_state_dict(content: Any, path: str) -> dict[str, Tensor]:
    candidates = [content]
    if isinstance(content, Mapping):
        if content.get("format") == CHECKPOINT_FORMAT:
            raise CheckpointError(
                f"{path}: already a checkpoint of ssdlite: `ssdlite train --weights` and load_detector take it as it is"
            )
        candidates += [content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)]
    for candidate in candidates:
        if isinstance(candidate, Mapping) and candidate and all(_is_entry(*item) for item in candidate.items()):
            if len(candidate) > MAX_TENSORS:
                raise CheckpointError(f"{path}: {len(candidate)} tensors, more than the {MAX_TENSORS} allowed")
            check_tensors(candidate, path, Path(path).stat().st_size)
            return dict(candidate)
    held = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        held = f"a dict of {', '.join(map(quote, list(content)[:5]))}" if content else "an empty dict"
    raise CheckpointError(f"{path}: expected a state dict, found {held}")


def _is_entry(name: Any, value: Any) -> bool:
    return isinstance(name, str) and is_plain_tensor(value)


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in WRAPPER_PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            return _without_prefixes({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    return tensors
