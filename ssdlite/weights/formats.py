"""The formats that can be imported, told apart by looking, and the one function that reads them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ssdlite.config import suggest
from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.weights.options import ImportOptions

if TYPE_CHECKING:
    from ssdlite.weights.ledger import Imported

__all__ = ["FORMATS", "Format", "ImportOptions", "import_weights"]


@dataclass(frozen=True)
class Format:
    """A kind of source.

    Attributes:
        recognises: whether a file or folder is one; only looks.
        read: the whole import; raises CheckpointError for what does not fit.
    """

    name: str
    title: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, ImportOptions], Imported]


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
        source: a file, or a folder for TensorFlow checkpoints.
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
    path = Path(source)
    return find_format(path, format).read(path, options)


def find_format(path: Path, name: str) -> Format:
    """The format called ``name``; with ``auto`` the one that recognises ``path``."""
    if name != "auto" and name not in FORMATS:
        raise ConfigError(f"unknown format {name!r}{suggest(name, ['auto', *FORMATS])}")
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    if name != "auto":
        return FORMATS[name]
    for candidate in FORMATS.values():
        if candidate.recognises(path):
            return candidate
    raise CheckpointError(
        f"{path}: recognised as none of the formats that can be imported: "
        + ", ".join(f"{one.name} ({one.title})" for one in FORMATS.values())
    )


def _is_tflite(path: Path) -> bool:
    from ssdlite.weights.tflite_file import is_tflite

    if not path.is_file():
        return False
    with path.open("rb") as file:
        return is_tflite(file.read(8))


def _read_tflite(path: Path, options: ImportOptions) -> Imported:
    from ssdlite.weights.tflite_ssd import read_tflite_ssd

    return read_tflite_ssd(path, options)


FORMATS: dict[str, Format] = {
    one.name: one
    for one in (Format("tflite", "SSD and SSDLite MobileNets as TensorFlow Lite files", _is_tflite, _read_tflite),)
}
