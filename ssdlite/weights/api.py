"""What is imported: a file, a folder, or what torchvision publishes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.runtime.contract import CONTRACT_FILE
from ssdlite.runtime.files import is_exported
from ssdlite.validation import suggest
from ssdlite.weights.file_kinds import (
    GRAPH,
    INDEX,
    SAFETENSORS,
    SUFFIXES,
    TFLITE,
    TORCH,
    as_path,
    describe_unknown,
    file_kind,
    require_file,
)
from ssdlite.weights.mapping import ImportOptions, as_names
from ssdlite.weights.tensorflow.files import find_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from ssdlite.weights.mapping import Imported


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

        from ssdlite.weights.torchvision import download_torchvision_ssd

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
    if is_exported(path):
        raise CheckpointError(
            f"{path}: an exported model, which `ssdlite predict` and eval take where it is one of ssdlite; expected "
            "weights of another project"
        )


# --- The formats that can be imported, told apart by looking, and the one function that reads them all.

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
    from ssdlite.weights.backbones import recognise_backbone

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
    from ssdlite.weights.tflite.ssd import read_tflite_ssd

    return read_tflite_ssd(source.path, options)


def _is_checkpoint(source: Source) -> bool:
    return source.kind == INDEX


def _read_checkpoint(source: Source, options: ImportOptions) -> Imported:
    from ssdlite.weights.tensorflow.files import find_checkpoint, read_checkpoint
    from ssdlite.weights.tensorflow.ssd import read_tensorflow_ssd

    index = find_checkpoint(source.path)
    if index is None:
        raise CheckpointError(f"{source.path}: expected the .index file of a TensorFlow checkpoint, found none")
    return read_tensorflow_ssd(read_checkpoint(index), options)


def _is_graph(source: Source) -> bool:
    return source.kind == GRAPH


def _read_graph(source: Source, options: ImportOptions) -> Imported:
    from ssdlite.weights.tensorflow.files import read_frozen_graph
    from ssdlite.weights.tensorflow.ssd import read_tensorflow_ssd

    return read_tensorflow_ssd(read_frozen_graph(source.path), options)


def _is_torchvision(source: Source) -> bool:
    from ssdlite.weights.torchvision import is_torchvision_ssd

    return is_torchvision_ssd(source.state.keys())


def _read_torchvision(source: Source, options: ImportOptions) -> Imported:
    from ssdlite.weights.torchvision import read_torchvision_ssd

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
