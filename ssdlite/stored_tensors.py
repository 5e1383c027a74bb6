"""The one guard of every reader of tensors: a small file does not become a large detector."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssdlite.errors import CheckpointError
from ssdlite.files import listing

PACKED_TYPES = tuple(getattr(torch, name) for name in ("float4_e2m1fn_x2",) if hasattr(torch, name))  # two in a byte
MAX_EXPANDED = 2**25  # values and characters of all but the tensors: 10,000 epochs, or 200,000 classes, have less
MAX_SHARING = 2  # how often, over a whole file, its bytes may be used: some weights are tied
MAX_NAME = 100  # characters of a key that errors show


def is_plain_tensor(value: Any) -> bool:
    """Whether it is a dense tensor on the CPU, of a type that torch computes with."""
    if not isinstance(value, Tensor) or value.is_nested or value.is_quantized:
        return False
    return value.layout == torch.strided and value.device.type == "cpu" and value.dtype not in PACKED_TYPES


class StoredTensor(NamedTuple):
    """A tensor as its file describes it.

    Attributes:
        needed: bytes of its shape and type.
        held: bytes of the file that are its own.
        place: of those bytes; tensors of one place share them.
    """

    name: str
    shape: tuple[int, ...]
    needed: int
    held: int
    place: Hashable


def check_stored(tensors: Iterable[StoredTensor], path: str | Path, file_size: int | None = None) -> None:
    """Refuse tensors that the bytes of their file do not fill: expanded ones, many of the same bytes, absurd shapes.

    Raises:
        CheckpointError: names the tensor, or those that share most.
    """
    tensors = list(tensors)
    for tensor in tensors:
        if tensor.needed > tensor.held:
            raise CheckpointError(
                f"{path}: damaged: {tensor.name} {list(tensor.shape)} needs {tensor.needed} bytes, the file holds "
                f"{tensor.held}"
            )
    places = {tensor.place: tensor.held for tensor in tensors}
    held = sum(places.values()) if file_size is None else min(sum(places.values()), file_size)
    needed: Counter[Hashable] = Counter()
    for tensor in tensors:
        needed[tensor.place] += tensor.needed
    if needed.total() > MAX_SHARING * held:
        place, most = needed.most_common(1)[0]
        names = listing([tensor.name for tensor in tensors if tensor.place == place], 3)
        raise CheckpointError(
            f"{path}: damaged: its tensors need {needed.total()} bytes, the file holds {held} ({names}: {most} bytes, "
            f"held are {places[place]})"
        )


def check_tensors(content: object, path: str | Path, file_size: int | None = None) -> None:
    """``check_stored`` for all tensors in what ``torch.load`` gave, in dicts and lists.

    Raises:
        CheckpointError: also for a tensor that is sparse or has no memory.
    """
    try:
        check_stored(
            (_stored(name, tensor, path) for name, tensor in _named_tensors(content, (), set())), path, file_size
        )
    except RecursionError:
        raise CheckpointError(f"{path}: damaged: values nested too deep") from None


def _describe_kind(tensor: Tensor) -> str:
    if tensor.is_nested:
        return "a nested one"
    return str(tensor.dtype if tensor.layout == torch.strided else tensor.layout)


def _stored(name: str, tensor: Tensor, path: str | Path) -> StoredTensor:
    if not is_plain_tensor(tensor):
        raise CheckpointError(
            f"{path}: {name}: expected a dense tensor on the CPU, got {_describe_kind(tensor)} on {tensor.device}"
        )
    storage = tensor.untyped_storage()
    needed = tensor.numel() * tensor.element_size()
    return StoredTensor(name, tuple(tensor.shape), needed, storage.nbytes(), storage.data_ptr())


def _named_tensors(value: object, keys: tuple[str, ...], visited: set[int]) -> Iterator[tuple[str, Tensor]]:
    """(``training.optimizer.state.0.exp_avg``, tensor); a container that stands in several places is visited once."""
    if isinstance(value, Tensor):
        yield ".".join(keys), value
    elif isinstance(value, (Mapping, list, tuple)) and id(value) not in visited:
        visited.add(id(value))
        for number, (key, entry) in enumerate(value.items() if isinstance(value, Mapping) else enumerate(value)):
            if isinstance(entry, (Tensor, Mapping, list, tuple)):
                name = key[:MAX_NAME] if isinstance(key, str) else str(number)
                yield from _named_tensors(entry, (*keys, name), visited)


def check_expanded(content: object, path: str | Path) -> None:
    """Refuse values that a file holds once and refers to over and over: a few kilobytes that nobody can print.

    Raises:
        CheckpointError: written out they would be more than MAX_EXPANDED, or one holds itself.
    """
    try:
        size = _expanded_size(content, {})
    except RecursionError:
        raise CheckpointError(f"{path}: damaged: values nested too deep, or one that holds itself") from None
    if size > MAX_EXPANDED:
        raise CheckpointError(
            f"{path}: damaged: written out, its values are more than the {MAX_EXPANDED} that are read"
        )


def _expanded_size(value: object, sizes: dict[int, int]) -> int:
    """Values and characters in ``value``, each as often as it stands there; ``sizes`` of containers, by id."""
    if isinstance(value, (str, bytes)):
        return 1 + len(value)
    if not isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return 1
    if id(value) not in sizes:
        entries = (part for item in value.items() for part in item) if isinstance(value, Mapping) else iter(value)
        sizes[id(value)] = 1 + sum(_expanded_size(entry, sizes) for entry in entries)
    return sizes[id(value)]
