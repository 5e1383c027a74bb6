"""What is imported: a file, a folder, or what torchvision publishes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ssdlite.contract import CONTRACT_FILE
from ssdlite.errors import CheckpointError
from ssdlite.model_files import EXPORTED_SUFFIXES
from ssdlite.weights.file_kinds import INDEX, SAFETENSORS, SUFFIXES, TORCH, file_kind, require_file
from ssdlite.weights.tensorflow_checkpoint import find_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

TORCHVISION_COCO = "torchvision:coco"  # in place of a file: what torchvision publishes
NAMED = 3  # files that an error lists


class Source:
    """A file or folder, looked at and read once, however many formats ask."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def kind(self) -> str | None:
        """One of ``file_kinds``; None where it is none of them."""
        return file_kind(self.path) or (INDEX if find_checkpoint(self.path) else None)

    @cached_property
    def state(self) -> Mapping[str, Tensor]:
        """The state dict of a PyTorch or safetensors file; empty for another file."""
        from ssdlite.weights.torch_files import load_state_dict

        return load_state_dict(self.path) if self.kind in (TORCH, SAFETENSORS) else {}


class PublishedSource(Source):
    """The weights that torchvision publishes, by its own loader."""

    kind = TORCH

    def __init__(self) -> None:
        super().__init__(Path(TORCHVISION_COCO))

    @cached_property
    def state(self) -> Mapping[str, Tensor]:
        from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights

        from ssdlite.weights.torchvision_ssd import download_torchvision_ssd

        try:
            return download_torchvision_ssd()
        except (OSError, RuntimeError) as error:  # no network, or not what was expected
            address = SSDLite320_MobileNet_V3_Large_Weights.COCO_V1.url
            raise CheckpointError(
                f"{self.path}: cannot be downloaded ({error}). Fetch {address} where there is a network, and import "
                "that file"
            ) from None


def open_source(source: str | Path) -> Source:
    """Raises CheckpointError where there is nothing that could be imported."""
    if str(source) == TORCHVISION_COCO:
        return PublishedSource()
    path = Path(source)
    if path.is_dir():
        _check_folder(path)
    elif path.suffix == ".index" or find_checkpoint(path) is None:
        _check_file(path)
    return Source(path)


def _check_folder(folder: Path) -> None:
    if (folder / CONTRACT_FILE).is_file():
        raise CheckpointError(
            f"{folder}: an exported bundle of ssdlite, which `ssdlite predict`, eval and verify take; expected weights "
            "of another project"
        )
    if find_checkpoint(folder) is None:
        inside = sorted(path.name for path in folder.iterdir() if path.suffix in SUFFIXES)
        more = f" (inside are {', '.join(inside[:NAMED])})" if inside else ""
        raise CheckpointError(f"{folder}: a folder without a TensorFlow checkpoint{more}; expected a file")


def _check_file(path: Path) -> None:
    if not path.exists() and str(path).lower().startswith("torchvision"):
        raise CheckpointError(
            f"{path}: no such file, and of what torchvision publishes only {TORCHVISION_COCO} is a detector that is "
            "imported; ImageNet weights are for `ssdlite train --backbone-weights imagenet`"
        )
    require_file(path)
    if path.suffix in EXPORTED_SUFFIXES:
        raise CheckpointError(
            f"{path}: an exported model, which `ssdlite predict` and eval take where it is one of ssdlite; expected "
            "weights of another project"
        )
