"""The formats that can be imported, told apart by looking, and the one function that reads them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ssdlite.config import suggest
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.weights.file_kinds import GRAPH, INDEX, SAFETENSORS, TFLITE, TORCH, as_path, describe_unknown
from ssdlite.weights.options import ImportOptions, as_names
from ssdlite.weights.sources import Source, open_source

if TYPE_CHECKING:
    from torch import Tensor

    from ssdlite.weights.ledger import Imported

__all__ = ["FORMATS", "Format", "ImportOptions", "Source", "find_format", "import_weights"]


@dataclass(frozen=True)
class Format:
    """A kind of source.

    Attributes:
        kinds: of files that it comes in.
        recognises: whether a source is one; only looks.
        read: the whole import; raises CheckpointError for what does not fit.
    """

    name: str
    title: str
    kinds: tuple[str, ...]
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
    options = ImportOptions(
        class_names=None if class_names is None else as_names(class_names),
        image_size=image_size,
        pictures=None if pictures is None else as_path(pictures, "pictures"),
    )
    as_path(source, "source")
    try:
        opened = open_source(source)
        return find_format(opened, format).read(opened, options)
    except OSError as error:  # no permission, or the file has gone
        raise CheckpointError(f"{source}: cannot be read ({error.strerror or error})") from None


def find_format(source: Source, name: str = "auto") -> Format:
    """The format called ``name``; with ``auto`` the one that recognises ``source``.

    Raises:
        ConfigError: there is no format of that name.
        CheckpointError: no format recognises the source, or another one does.
    """
    if name == "auto":
        found = _recognise(source)
        if found is None:
            raise _unrecognised(source)
        return found
    if not isinstance(name, str) or name not in FORMATS:
        raise ConfigError(f"unknown format {name!r}{suggest(str(name), ['auto', *FORMATS])}")
    chosen = FORMATS[name]
    if not chosen.recognises(source):
        _refuse_another(source, chosen)
    return chosen


def _recognise(source: Source) -> Format | None:
    return next((one for one in FORMATS.values() if one.recognises(source)), None)


def _refuse_another(source: Source, chosen: Format) -> None:
    """Raises CheckpointError where ``source`` says that it is something else than ``chosen``."""
    expected = f"{source.path}: expected a {chosen.title} (--format {chosen.name})"
    if source.kind is not None and source.kind not in chosen.kinds:
        names = " or ".join(one.name for one in FORMATS.values() if source.kind in one.kinds)
        raise CheckpointError(f"{expected}, got a {source.kind}; leave --format out, or give {names}")
    if found := _recognise(source):
        raise CheckpointError(f"{expected}, got a {found.title}; leave --format out, or give {found.name}")


def _unrecognised(source: Source) -> CheckpointError:
    nothing = f"{source.path}: recognised as none of {', '.join(FORMATS)}"
    if not source.state:
        got = describe_unknown(source.path)
        return CheckpointError(f"{source.path}: expected weights, got {got}" if got else nothing)
    from ssdlite.weights.backbone_layouts import recognise_backbone

    try:
        owner = recognise_backbone(source.state, str(source.path)).owner
    except CheckpointError:
        return CheckpointError(f"{nothing}; it holds tensors such as {', '.join(list(source.state)[:3])}")
    return CheckpointError(
        f"{source.path}: weights of a backbone alone ({owner}), expected those of a detector; "
        "`ssdlite train --backbone-weights` and build_detector(backbone_weights=...) take them"
    )


def _is_tflite(source: Source) -> bool:
    return source.kind == TFLITE


def _read_tflite(source: Source, options: ImportOptions) -> Imported:
    from ssdlite.weights.tflite_ssd import read_tflite_ssd

    return read_tflite_ssd(source.path, options)


def _is_checkpoint(source: Source) -> bool:
    return source.kind == INDEX


def _read_checkpoint(source: Source, options: ImportOptions) -> Imported:
    from ssdlite.weights.tensorflow_checkpoint import find_checkpoint, read_checkpoint
    from ssdlite.weights.tensorflow_ssd import read_tensorflow_ssd

    index = find_checkpoint(source.path)
    if index is None:
        raise CheckpointError(f"{source.path}: expected the .index file of a TensorFlow checkpoint, found none")
    return read_tensorflow_ssd(read_checkpoint(index), options)


def _is_graph(source: Source) -> bool:
    return source.kind == GRAPH


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
        got = describe_unknown(source.path) or "something else"
        raise CheckpointError(f"{source.path}: expected a PyTorch or safetensors file, got {got}")
    return source.state


FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        Format("tflite", "TensorFlow Lite file of an SSD or SSDLite MobileNet", (TFLITE,), _is_tflite, _read_tflite),
        Format(
            "tf-checkpoint",
            "checkpoint of the TensorFlow Object Detection API",
            (INDEX,),
            _is_checkpoint,
            _read_checkpoint,
        ),
        Format(
            "tf-frozen-graph", "frozen graph of the TensorFlow Object Detection API", (GRAPH,), _is_graph, _read_graph
        ),
        Format(
            "torchvision",
            "state dict of torchvision's ssdlite320_mobilenet_v3_large",
            (TORCH, SAFETENSORS),
            _is_torchvision,
            _read_torchvision,
        ),
        Format(
            "pytorch-ssd",
            "state dict of an SSD of qfgaohao or dusty-nv",
            (TORCH, SAFETENSORS),
            _is_pytorch_ssd,
            _read_pytorch_ssd,
        ),
    )
}
