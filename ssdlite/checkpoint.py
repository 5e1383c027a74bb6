"""Checkpoints: self-describing, written atomically, read without running anything they contain.

Training writes ``.pt``. A bare model may be a ``.safetensors`` file instead, which cannot hold code at all: what it is
stands in the file's metadata.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import platform
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from ssdlite.config import SHIPPED, SHIPPED_LICENSE, DetectorConfig, no_such_checkpoint, shipped_file
from ssdlite.errors import CheckpointError, ConfigError, quote
from ssdlite.files import listing, write_atomically
from ssdlite.runtime.contract import CONTRACT_FILE, Provenance
from ssdlite.runtime.files import is_exported, is_folder, run_checkpoint
from ssdlite.runtime.operating_points import OperatingPoint, stored_operating_points
from ssdlite.stored_tensors import check_expanded, check_tensors, is_plain_tensor

if TYPE_CHECKING:
    from ssdlite.detector import Detector

CHECKPOINT_FORMAT = "ssdlite-checkpoint"
CHECKPOINT_VERSION = 2
SAFETENSORS_SUFFIX = ".safetensors"
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
        path: for messages.
        provenance: the file that it was read from, and its licence; of one that was not, None.
    """

    config: DetectorConfig
    weights: dict[str, Tensor]
    metrics: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    path: str = "the checkpoint"
    provenance: Provenance | None = None

    @property
    def operating_points(self) -> dict[str, OperatingPoint]:
        """By class name, as its metrics have them; empty where it was never scored. Raises CheckpointError."""
        return stored_operating_points(self.metrics, self.config.class_names, self.path)

    @property
    def rename(self) -> tuple[str, ...] | None:
        """The names that its training gave to classes of the data (``ReadOptions.rename``); None where it gave none."""
        rename = self.option("dataset", "rename")
        if not isinstance(rename, (list, tuple)) or not all(isinstance(entry, str) for entry in rename):
            return None
        return tuple(rename)

    @property
    def val_split(self) -> str | None:
        """The split that its training was told to validate on; None where it took the customary one."""
        split = self.option("dataset", "val_split")
        return split if isinstance(split, str) else None

    def option(self, part: str, name: str) -> Any:
        """What its training was given or decided, if it was."""
        options = self.training.get("options")
        values = options.get(part) if isinstance(options, dict) else None
        return values.get(name) if isinstance(values, dict) else None

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
        detector.metrics, detector.provenance = dict(self.metrics), self.provenance
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

    A ``.safetensors`` file leaves out what resuming needs.

    Raises:
        CheckpointError: weights are not finite; nothing is written, as nothing would read it.
        OSError: the file cannot be written, its name being the error's.
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
    if Path(path).suffix == SAFETENSORS_SUFFIX:
        content |= {"training": {}}
        write_atomically(path, lambda file: file.write(_to_safetensors(content)))
    else:
        write_atomically(path, lambda file: _save(content, file))


def _save(content: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(content, file)
    except RuntimeError as error:  # torch closes its archive over whatever stopped it
        if isinstance(error.__context__, (KeyboardInterrupt, OSError)):
            raise error.__context__ from None
        raise


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of ours, onto the CPU. Pickled code in it is refused, not run (``weights_only=True``).

    Args:
        path: of the file, or of the folder of a training, which means its best.pt; or a name in ``SHIPPED``.

    Raises:
        CheckpointError: no such file, not a checkpoint, truncated, hostile, or of a newer format.
    """
    path = run_checkpoint(Path(path))
    file = shipped_file(path)
    if file != path:
        return replace(load_checkpoint(file), path=str(path))
    if not path.is_file() or is_exported(path):
        raise CheckpointError(f"{path}: {_instead_of_checkpoint(path)}")
    if path.suffix == SAFETENSORS_SUFFIX:
        return _parse(_read_safetensors(path), str(path))
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


SAVED = ("format", "format_version", "config", "metrics", "training", "versions")


def _instead_of_checkpoint(path: Path) -> str:
    if path.exists() and is_exported(path) and (not is_folder(path) or (path / CONTRACT_FILE).is_file()):
        what = "a bundle" if is_folder(path) else "an exported model"
        return f"expected a checkpoint file, this is {what}, which ssdlite.runtime.load_model loads"
    if path.is_dir():
        inside = ", ".join(sorted(file.name for file in path.glob("*.pt")))
        return f"expected a checkpoint file, this is a folder{f' (inside are {inside})' if inside else ''}"
    return no_such_checkpoint(path)


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


def _to_safetensors(content: dict[str, Any]) -> bytes:
    weights = {name: tensor.contiguous() for name, tensor in content["weights"].items()}
    about = {name: value for name, value in content.items() if name != "weights"}
    return bytes(safetensors.torch.save(weights, {name: json.dumps(value) for name, value in about.items()}))


def _read_safetensors(path: Path) -> dict[str, Any]:
    """The same content as that of a ``.pt`` file; float16 is widened."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = {name: json.loads(value) for name, value in (file.metadata() or {}).items() if name in SAVED}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:  # the library's own kind, json's, and too deep nesting
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({error})") from None
    half = {name: tensor.float() for name, tensor in weights.items() if tensor.dtype == torch.float16}
    return about | {"weights": weights | half}


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
    strange = [name for name, one in weights.items() if not (isinstance(name, str) and is_plain_tensor(one))]
    if strange:
        raise CheckpointError(
            f"{path}: 'weights' is not a state dict: {quote(strange[0])} is no dense tensor with a name"
        )
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
    checkpoint = Checkpoint(config, weights, content["metrics"], training, content["versions"], path)
    return replace(checkpoint, provenance=_provenance(checkpoint, Path(path)))


def _provenance(checkpoint: Checkpoint, file: Path) -> Provenance:
    return Provenance(
        checkpoint=file.name,
        checkpoint_sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        license=SHIPPED_LICENSE if file in SHIPPED.values() else "not stated",
        versions={f"trained with {name}": version for name, version in checkpoint.versions.items()}
        | _learned_from(checkpoint),
        rename=checkpoint.rename,
        val_split=None if checkpoint.option("dataset", "overfit") is not None else checkpoint.val_split,
    )


def _learned_from(checkpoint: Checkpoint) -> dict[str, str]:
    """What else has a part in the weights, and may have a license of its own."""
    sources = {
        "started from": checkpoint.option("start", "weights"),
        "backbone started from": checkpoint.option("start", "backbone_weights"),
        "taught by": checkpoint.option("distillation", "teacher"),
    }
    return {part: Path(name).name for part, name in sources.items() if isinstance(name, str) and name != "none"}


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


def current_versions() -> dict[str, str]:
    from ssdlite import __version__

    return {"ssdlite": __version__, "torch": str(torch.__version__), "python": platform.python_version()}
