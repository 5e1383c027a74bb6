"""Checkpoints: self-describing, written atomically, read without running anything they contain."""

from __future__ import annotations

import pickle
import platform
import zipfile
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ssdlite.config import PRESETS, DetectorConfig
from ssdlite.errors import CheckpointError, ConfigError, quote
from ssdlite.files import listing, write_atomically

if TYPE_CHECKING:
    from ssdlite.detector import Detector

CHECKPOINT_FORMAT = "ssdlite-checkpoint"
CHECKPOINT_VERSION = 2
MAX_EXPANDED = 2**25  # values and characters of all but the tensors: 10,000 epochs, or 200,000 classes, have less
PACKED_TYPES = tuple(getattr(torch, name) for name in ("float4_e2m1fn_x2",) if hasattr(torch, name))  # two in a byte
RENAMED_PARTS = {"extra_layers.": "neck."}  # of the network: version 1 -> 2


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        config: the detector.
        weights: its state dict, ready for use (the average, where training kept one).
        metrics: of these weights on the validation data, e.g. ``{"AP": 0.52}``.
        training: what resuming needs: optimiser, unaveraged weights, epoch, history, options. Empty in a bare model.
        versions: of what wrote it.
    """

    config: DetectorConfig
    weights: dict[str, Tensor]
    metrics: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    path: str = "the checkpoint"

    def build_detector(self) -> Detector:
        """The detector with these weights.

        Raises:
            CheckpointError: weights are missing, unused, of another shape, or not finite.
        """
        from ssdlite.detector import detector_from_config

        try:
            with torch.device("meta"):  # takes no memory, whatever size the file claims
                skeleton = detector_from_config(self.config)
        except ConfigError as error:
            raise CheckpointError(f"{self.path}: {error}") from None
        check_weights(skeleton, self.weights, self.path)
        detector = detector_from_config(self.config)
        detector.load_state_dict(self.weights)
        return detector


def load_weights(module: torch.nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load a complete state dict. Raises CheckpointError naming the tensors that do not fit."""
    check_weights(module, weights, source)
    module.load_state_dict(weights)


def check_weights(module: torch.nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Raises CheckpointError naming the tensors that are missing, unused, of another shape or not finite."""
    own = module.state_dict()
    faults = [f"missing {name}" for name in own if name not in weights]
    faults += [f"unknown {name}" for name in weights if name not in own]
    for name in own:
        if name not in weights:
            continue
        tensor, expected = weights[name], own[name]
        if not is_plain_tensor(tensor):
            faults.append(f"{name} is no dense tensor")
        elif tensor.shape != expected.shape or tensor.is_floating_point() != expected.is_floating_point():
            faults.append(f"{name} is {_describe(tensor)}, expected {_describe(expected)}")
        elif tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            faults.append(f"{name} has values that are not finite")
    if faults:
        raise CheckpointError(f"{source}: the weights do not fit the detector: {listing(faults, 5, '; ')}")


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def save_checkpoint(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write the checkpoint in one step: a reader sees the old file or the new one, never half of it.

    Raises:
        CheckpointError: weights are not finite; nothing is written, as nothing would read it.
    """
    from ssdlite.detector import require_finite

    require_finite(checkpoint.weights, str(path))
    content = {
        "format": CHECKPOINT_FORMAT,
        "format_version": CHECKPOINT_VERSION,
        "config": checkpoint.config.to_dict(),
        "weights": checkpoint.weights,
        "metrics": checkpoint.metrics,
        "training": checkpoint.training,
        "versions": checkpoint.versions or current_versions(),
    }
    write_atomically(path, lambda file: torch.save(content, file))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of ours, onto the CPU. Pickled code in it is refused, not run (``weights_only=True``).

    Raises:
        CheckpointError: no such file, not a checkpoint, truncated, hostile, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: {_instead_of_checkpoint(path)}")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path}: not a checkpoint of ssdlite, or truncated; ssdlite import-weights reads those of other projects"
        )
    try:
        _check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged and for hostile files
        reason = "it holds more than tensors and plain values, and could run code" if _is_refusal(error) else str(error)
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({reason})") from error
    return _parse(content, str(path))


def _instead_of_checkpoint(path: Path) -> str:
    if path.is_dir():
        inside = ", ".join(sorted(file.name for file in path.glob("*.pt")))
        return f"expected a checkpoint file, this is a folder{f' (inside are {inside})' if inside else ''}"
    if str(path) in PRESETS:
        return f"a preset, which has no weights; expected a checkpoint file, as `ssdlite train --preset {path}` makes"
    return "no such checkpoint file"


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, pickle.UnpicklingError) and "Weights only load failed" in str(error)


def _check_archive(path: Path) -> None:
    """Refuse an archive that is damaged (torch reads past wrong checksums), or would unpack to more than its size."""
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise zipfile.BadZipFile("it is compressed, which a checkpoint never is")
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} is damaged")


def _parse(content: Any, path: str) -> Checkpoint:
    if not isinstance(content, dict) or content.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path}: not a checkpoint of ssdlite; `ssdlite import-weights` makes one of another project's detector, "
            "and --backbone-weights takes ImageNet weights"
        )
    version = content.get("format_version")
    if not isinstance(version, int) or version not in range(1, CHECKPOINT_VERSION + 1):
        raise CheckpointError(
            f"{path}: format version {quote(version)}, this version of ssdlite reads up to {CHECKPOINT_VERSION}"
        )
    for name in ("config", "weights", "metrics", "training", "versions"):
        if not isinstance(content.get(name), dict):
            raise CheckpointError(f"{path}: {name!r} is missing or not a dict")
    weights = content["weights"]
    strange = next(
        (name for name, one in weights.items() if not (isinstance(name, str) and is_plain_tensor(one))), None
    )
    if strange is not None:
        raise CheckpointError(f"{path}: 'weights' is not a state dict: {quote(strange)} is no dense tensor with a name")
    check_tensors(content, path, Path(path).stat().st_size)
    check_expanded(content, path)
    if not all(isinstance(part, str) for entry in content["versions"].items() for part in entry):
        raise CheckpointError(f"{path}: 'versions': expected texts by name")
    try:
        config = DetectorConfig.from_dict(content["config"])
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    training = content["training"]
    if version == 1:
        weights, training = upgrade_weights(weights), _upgrade_training(training)
    return Checkpoint(config, weights, content["metrics"], training, content["versions"], path)


def upgrade_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of version 1 under the names of version 2."""
    return {_renamed(name): tensor for name, tensor in weights.items()}


def _upgrade_training(training: dict[str, Any]) -> dict[str, Any]:
    """The names in what resuming needs; its optimizer counts parameters, whose order has not changed."""
    upgraded = dict(training)
    if isinstance(training.get("model"), dict):
        upgraded["model"] = upgrade_weights(training["model"])
    if isinstance(training.get("frozen_norms"), list):
        upgraded["frozen_norms"] = [_renamed(str(name)) for name in training["frozen_norms"]]
    return upgraded


def _renamed(name: str) -> str:
    for old, new in RENAMED_PARTS.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def is_plain_tensor(value: Any) -> bool:
    """Whether it is a dense tensor on the CPU, of a type that torch computes with."""
    if not isinstance(value, Tensor) or value.is_nested or value.is_quantized:
        return False
    return value.layout == torch.strided and value.device.type == "cpu" and value.dtype not in PACKED_TYPES


# --- The one guard of every reader of tensors: a small file does not become a large detector.

MAX_SHARING = 2  # how often, over a whole file, its bytes may be used: some weights are tied
MAX_NAME = 100  # characters of a key that errors show


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


def current_versions() -> dict[str, str]:
    from ssdlite import __version__

    return {"ssdlite": __version__, "torch": str(torch.__version__), "python": platform.python_version()}
