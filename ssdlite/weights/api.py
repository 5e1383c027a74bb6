"""Other projects' detectors as checkpoints of ours: one function, and the formats that it tells apart by looking."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.validation import suggest
from ssdlite.weights.paddle import PicodetFormat
from ssdlite.weights.pytorch import NanoDetFormat, PytorchSsdFormat, TorchvisionFormat, YoloxFormat
from ssdlite.weights.source import (
    SUFFIXES,
    AnchorOrder,
    ImportOptions,
    ImportSource,
    WeightFormat,
    as_path,
    describe_unknown,
    require_file,
)
from ssdlite.weights.tensorflow import CheckpointFormat, FrozenGraphFormat
from ssdlite.weights.tflite import TfliteFormat

if TYPE_CHECKING:
    from ssdlite.anchors import AnchorConfig
    from ssdlite.weights.mapping import Imported

WEIGHT_FORMATS: dict[str, WeightFormat] = {
    "tflite": TfliteFormat(),
    "tf-checkpoint": CheckpointFormat(),
    "tf-frozen-graph": FrozenGraphFormat(),
    "torchvision": TorchvisionFormat(),
    "pytorch-ssd": PytorchSsdFormat(),
    "yolox": YoloxFormat(),
    "nanodet": NanoDetFormat(),
    "picodet": PicodetFormat(),
}
MAX_LISTED = 3  # files and tensors that an error lists


def import_weights(
    source: str | Path,
    format: str = "auto",
    *,
    class_names: Sequence[str] | None = None,
    image_size: int | None = None,
    pictures: str | Path | None = None,
    anchor_order: AnchorOrder | None = None,
    anchors: AnchorConfig | None = None,
) -> Imported:
    """Read another project's detector; ``.checkpoint`` of the result is for ``save_checkpoint``.

    Args:
        source: a file, the folder or prefix of a TensorFlow checkpoint, or ``torchvision:coco`` for what torchvision
            publishes.
        format: a name in ``WEIGHT_FORMATS``; ``auto`` detects it.
        class_names: in the order of the classifier's rows, with or without background in front; not needed where the
            source holds them or has COCO's rows.
        image_size: side of the input in pixels, where the source does not say.
        pictures: a folder of pictures like those to come. Batch norms that the source has folded away are restored with
            statistics measured on some of them; without it, on synthetic scenes. Where the source does not hold its
            anchors, they are checked on them.
        anchor_order: of a TensorFlow SSD that does not hold its anchors: ``interpolated_second`` for those of mid-2017,
            ``interpolated_last`` (the default) for later ones.
        anchors: all of them, for a detector that was trained with others than its project's usual ones.

    Raises:
        CheckpointError: missing, damaged, hostile, of no known layout, or one that fits only in part; names tensors.
        ConfigError: an unknown format, or a package that reading it needs is not installed.
    """
    options = as_options(class_names, image_size, pictures, anchor_order, anchors)
    as_path(source, "source")
    opened = ImportSource(source)
    try:
        return _find_format(opened, format).read(opened, options)
    except OSError as error:  # no permission, or the file has gone
        raise CheckpointError(f"{source}: cannot be read ({error.strerror or error})") from None


def as_options(
    class_names: Sequence[str] | None,
    image_size: int | None,
    pictures: str | Path | None,
    anchor_order: AnchorOrder | None,
    anchors: AnchorConfig | None,
) -> ImportOptions:
    """Raises ConfigError for a value that no format could use."""
    return ImportOptions(
        class_names=None if class_names is None else as_names(class_names),
        image_size=image_size,
        pictures=None if pictures is None else as_path(pictures, "pictures"),
        anchor_order=anchor_order,
        anchors=anchors,
    )


def as_names(value: object) -> tuple[str, ...]:
    """Raises ConfigError where ``value`` is no sequence of names."""
    if isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise ConfigError(f"class_names: expected a sequence of names, got {value!r}")


def _find_format(source: ImportSource, name: str) -> WeightFormat:
    """The format called ``name``; with ``auto`` the first that recognizes ``source``.

    Raises:
        ConfigError: there is no format of that name.
        CheckpointError: no format recognizes the source, or another one does.
    """
    if name == "auto":
        found = _recognize(source)
        if found is None:
            raise _unrecognized(source, "weights")
        return WEIGHT_FORMATS[found]
    if not isinstance(name, str) or name not in WEIGHT_FORMATS:
        raise ConfigError(f"unknown format {name!r}{suggest(str(name), ['auto', *WEIGHT_FORMATS])}")
    chosen = WEIGHT_FORMATS[name]
    if chosen.recognize(source):
        return chosen
    expected = f"a {chosen.title} (--format {name})"
    fitting, got = [], source.kind
    if source.kind is not None and source.kind not in chosen.kinds:
        fitting = [other for other, one in WEIGHT_FORMATS.items() if source.kind in one.kinds]
    elif found := _recognize(source):
        fitting, got = [found], WEIGHT_FORMATS[found].title
    elif source.kind is not None:
        return chosen  # it says what is missing
    if not fitting:
        raise _unrecognized(source, expected)
    raise CheckpointError(
        f"{source.path}: expected {expected}, got a {got}; leave --format out, or give {' or '.join(fitting)}"
    )


def _recognize(source: ImportSource) -> str | None:
    return next((name for name, one in WEIGHT_FORMATS.items() if one.recognize(source)), None)


def _unrecognized(source: ImportSource, expected: str) -> CheckpointError:
    """The error for a source that is of no format: what it is instead, as far as can be told."""
    from ssdlite.runtime.contract import CONTRACT_FILE
    from ssdlite.runtime.files import is_exported, is_folder

    path = source.path
    if is_folder(path):
        if (path / CONTRACT_FILE).is_file():
            return CheckpointError(
                f"{path}: an exported bundle of ssdlite, which `ssdlite predict`, eval and verify take; expected "
                "weights of another project"
            )
        inside = sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES)
        more = f" (inside are {', '.join(inside[:MAX_LISTED])})" if inside else ""
        return CheckpointError(f"{path}: a folder without a TensorFlow checkpoint{more}; expected a file")
    if not path.is_dir():
        require_file(path)
    if is_exported(path) and path.suffix.lower() not in SUFFIXES:
        return CheckpointError(
            f"{path}: an exported model, which `ssdlite predict` and eval take where it is one of ssdlite; expected "
            "weights of another project"
        )
    if source.state:
        return _unrecognized_state(source)
    got = describe_unknown(path)
    if got or expected != "weights":
        return CheckpointError(f"{path}: expected {expected}, got {got or 'something else'}")
    return CheckpointError(f"{path}: recognised as none of {', '.join(WEIGHT_FORMATS)}")


def _unrecognized_state(source: ImportSource) -> CheckpointError:
    from ssdlite.weights.backbones import recognize_backbone

    try:
        owner = recognize_backbone(source.state, str(source.path)).owner
    except CheckpointError as error:
        return CheckpointError(
            f"{source.path}: recognised as none of {', '.join(WEIGHT_FORMATS)}, nor as a backbone: "
            f"{str(error).removeprefix(f'{source.path}: ')}"
        )
    return CheckpointError(
        f"{source.path}: weights of a backbone alone ({owner}), expected those of a detector; "
        "`ssdlite train --backbone-weights` and build_detector(backbone_weights=...) take them"
    )
