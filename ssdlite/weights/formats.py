"""The formats that can be imported, told apart by looking, and the one function that reads them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ssdlite.config import suggest
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.weights.options import ImportOptions

if TYPE_CHECKING:
    from torch import Tensor

    from ssdlite.weights.ledger import Imported

__all__ = ["FORMATS", "Format", "ImportOptions", "Source", "find_format", "import_weights"]

TORCHVISION_COCO = "torchvision:coco"  # in place of a file: what torchvision publishes


class Source:
    """What is imported: a file or folder, looked at and read once, however many formats ask."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def head(self) -> bytes:
        """The first bytes of a file; none of a folder."""
        if not self.path.is_file():
            return b""
        with self.path.open("rb") as file:
            return file.read(16)

    @cached_property
    def state(self) -> Mapping[str, Tensor]:
        """The state dict of a PyTorch or safetensors file; empty for another file."""
        from ssdlite.weights.torch_files import is_safetensors, is_torch_file, load_state_dict

        if not self.path.is_file() or not (is_torch_file(self.path) or is_safetensors(self.path)):
            return {}
        return load_state_dict(self.path)


class PublishedSource(Source):
    """The weights that torchvision publishes, by its own loader."""

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


@dataclass(frozen=True)
class Format:
    """A kind of source.

    Attributes:
        recognises: whether a source is one; only looks.
        read: the whole import; raises CheckpointError for what does not fit.
    """

    name: str
    title: str
    recognises: Callable[[Source], bool]
    read: Callable[[Source, ImportOptions], Imported]


def import_weights(
    source: str | Path,
    format: str = "auto",
    *,
    class_names: Sequence[str] | None = None,
    image_size: int | None = None,
    pictures: str | Path | None = None,
) -> Imported:
    """Read another project's detector; ``.checkpoint`` of the result is ours, ready for ``save_checkpoint``.

    Args:
        source: a file, the folder or prefix of a TensorFlow checkpoint, or ``torchvision:coco`` for what torchvision
            publishes.
        format: a name in ``FORMATS``; ``auto`` looks what it is.
        class_names: in the order of the classifier's rows, with or without background in front; not needed where the
            source holds them or has COCO's rows.
        image_size: side of the input in pixels, where the source does not say.
        pictures: a folder of pictures like those to come. Batch norms that the source has folded away are restored with
            statistics measured on some of them; without it, on made-up scenes.

    Raises:
        CheckpointError: missing, damaged, hostile, of no known layout, or one that fits only in part; names tensors.
        ConfigError: an unknown format, or a package that reading it needs is not installed.
    """
    if isinstance(class_names, str):
        raise ConfigError(f"class_names: expected a sequence of names, got the string {class_names!r}")
    options = ImportOptions(
        class_names=None if class_names is None else tuple(class_names),
        image_size=image_size,
        pictures=None if pictures is None else Path(pictures),
    )
    opened = open_source(source)
    try:
        return find_format(opened, format).read(opened, options)
    except OSError as error:  # a folder in place of a file, no permission
        raise CheckpointError(f"{opened.path}: cannot be read ({error.strerror or error})") from None


def open_source(source: str | Path) -> Source:
    """Raises CheckpointError where there is no such file."""
    if str(source) == TORCHVISION_COCO:
        return PublishedSource()
    opened = Source(Path(source))
    if not opened.path.is_file() and not _is_checkpoint(opened):
        inside = "a folder without a TensorFlow checkpoint" if opened.path.is_dir() else "no such file"
        raise CheckpointError(f"{opened.path}: {inside}")
    return opened


def find_format(source: Source, name: str = "auto") -> Format:
    """The format called ``name``; with ``auto`` the one that recognises ``source``."""
    if name != "auto":
        if name not in FORMATS:
            raise ConfigError(f"unknown format {name!r}{suggest(name, ['auto', *FORMATS])}")
        return FORMATS[name]
    for candidate in FORMATS.values():
        if candidate.recognises(source):
            return candidate
    held = f"; it holds tensors such as {', '.join(list(source.state)[:3])}" if source.state else ""
    raise CheckpointError(
        f"{source.path}: recognised as none of {', '.join(FORMATS)}{held}. (Weights of a backbone alone are not "
        "imported: give them to build_detector or to training as backbone weights.)"
    )


def _is_tflite(source: Source) -> bool:
    from ssdlite.weights.tflite_file import is_tflite

    return is_tflite(source.head)


def _read_tflite(source: Source, options: ImportOptions) -> Imported:
    from ssdlite.weights.tflite_ssd import read_tflite_ssd

    return read_tflite_ssd(source.path, options)


def _is_checkpoint(source: Source) -> bool:
    from ssdlite.weights.tensorflow_checkpoint import find_checkpoint

    return find_checkpoint(source.path) is not None


def _read_checkpoint(source: Source, options: ImportOptions) -> Imported:
    from ssdlite.weights.tensorflow_checkpoint import find_checkpoint, read_checkpoint
    from ssdlite.weights.tensorflow_ssd import read_tensorflow_ssd

    index = find_checkpoint(source.path)
    if index is None:
        raise CheckpointError(f"{source.path}: expected the .index file of a TensorFlow checkpoint, found none")
    return read_tensorflow_ssd(read_checkpoint(index), options)


def _is_graph(source: Source) -> bool:
    from ssdlite.weights.tensorflow_graph import is_frozen_graph

    return is_frozen_graph(source.path, source.head)


def _read_graph(source: Source, options: ImportOptions) -> Imported:
    from ssdlite.weights.tensorflow_graph import read_frozen_graph
    from ssdlite.weights.tensorflow_ssd import read_tensorflow_ssd

    return read_tensorflow_ssd(read_frozen_graph(source.path), options)


def _is_torchvision(source: Source) -> bool:
    from ssdlite.weights.torchvision_ssd import is_torchvision_ssd

    return is_torchvision_ssd(source.state.keys())


def _read_torchvision(source: Source, options: ImportOptions) -> Imported:
    from ssdlite.weights.torchvision_ssd import read_torchvision_ssd

    return read_torchvision_ssd(_state(source), str(source.path), options)


def _is_pytorch_ssd(source: Source) -> bool:
    from ssdlite.weights.pytorch_ssd import is_pytorch_ssd

    return is_pytorch_ssd(source.state.keys())


def _read_pytorch_ssd(source: Source, options: ImportOptions) -> Imported:
    from ssdlite.weights.pytorch_ssd import read_pytorch_ssd

    return read_pytorch_ssd(_state(source), str(source.path), options)


def _state(source: Source) -> Mapping[str, Tensor]:
    if not source.state:
        raise CheckpointError(f"{source.path}: not a PyTorch or safetensors file, or truncated")
    return source.state


FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        Format("tflite", "TensorFlow Lite file of an SSD or SSDLite MobileNet", _is_tflite, _read_tflite),
        Format("tf-checkpoint", "checkpoint of the TensorFlow Object Detection API", _is_checkpoint, _read_checkpoint),
        Format("tf-frozen-graph", "frozen graph of the TensorFlow Object Detection API", _is_graph, _read_graph),
        Format("torchvision", "torchvision's ssdlite320_mobilenet_v3_large", _is_torchvision, _read_torchvision),
        Format("pytorch-ssd", "SSD of qfgaohao or dusty-nv", _is_pytorch_ssd, _read_pytorch_ssd),
    )
}
