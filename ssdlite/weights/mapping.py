"""What a user says about the weights that are imported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ssdlite.backbones.batch_norm import recalibrate_norms
from ssdlite.backbones.layers import InvertedResidual
from ssdlite.backbones.registry import build_backbone
from ssdlite.checkpoint import Checkpoint
from ssdlite.config import COCO_NAMES, MAX_IMAGE_SIDE, DetectorConfig, Narrowing
from ssdlite.datasets.shapes import draw_scene
from ssdlite.detector import Detector, detector_from_config, stack_images
from ssdlite.errors import CheckpointError, ConfigError, DataError
from ssdlite.files import counted, listing
from ssdlite.images.geometry import ImageArray, InputTransform
from ssdlite.images.reading import IMAGE_SUFFIXES, read_image

LEAST_IMAGE_SIDE = 32  # of DetectorConfig


def as_names(value: object) -> tuple[str, ...]:
    """Raises ConfigError where ``value`` is no sequence of names."""
    if isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise ConfigError(f"class_names: expected a sequence of names, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What the file of an import does not say itself; None leaves it to the file.

    Attributes:
        class_names: in the order of the classifier's rows, with or without background in front.
        image_size: side of the input in pixels, for formats that do not hold it.
        pictures: a folder; folded batch norms are measured on its pictures, else on made-up scenes.

    Raises:
        ConfigError: a value that no format could use.
    """

    class_names: tuple[str, ...] | None = None
    image_size: int | None = None
    pictures: Path | None = None

    def __post_init__(self) -> None:
        if self.class_names == ():
            raise ConfigError("class_names: expected names, got none")
        side = self.image_size
        if side is not None and not (
            isinstance(side, (int, np.integer)) and LEAST_IMAGE_SIDE <= side <= MAX_IMAGE_SIDE
        ):
            raise ConfigError(
                f"image_size: expected sides of {LEAST_IMAGE_SIDE} to {MAX_IMAGE_SIDE} pixels, got {side!r}"
            )

    def check_image_size(self, held: tuple[int, int], where: str) -> None:
        """Raises ConfigError where another size was asked for than the source, in its file ``where``, has."""
        side = self.image_size
        if side is not None and (side, side) != held:
            raise ConfigError(
                f"{where}: its input is {held[0]} x {held[1]} pixels, which an import keeps, but image_size "
                f"(--image-size) is {side}; leave it out: `ssdlite train --weights ... --image-size {side}` changes it"
            )

    def refuse_pictures(self, path: str, source: str) -> None:
        """Raises ConfigError where there are pictures: for a ``source`` whose batch norms are not folded away."""
        if self.pictures is not None:
            raise ConfigError(
                f"{path}: read as {source}, which has its batch norms' own statistics: nothing to measure on pictures "
                f"(--pictures {self.pictures}); leave them out"
            )


# --- The books of an import: every tensor of the source and every tensor of ours, accounted for or refused by name.


@dataclass(frozen=True)
class Imported:
    """A detector of ours with another project's weights.

    Attributes:
        checkpoint: the detector; complete, checked against its own description.
        source: what was read, e.g. ``TensorFlow Object Detection API (TFLite)``.
        matched: (ours, theirs) for every tensor that was taken.
        made: (ours, why) for tensors that the source does not hold but implies.
        left: (theirs, why) for tensors of the source that ours has no use for.
    """

    checkpoint: Checkpoint
    source: str
    matched: tuple[tuple[str, str], ...]
    made: tuple[tuple[str, str], ...]
    left: tuple[tuple[str, str], ...]


class WeightMapping:
    """Moves tensors of a source, by name, into a state dict of ours.

    ``path`` is what errors name. Nothing is lost silently: ``close`` refuses a source tensor that was neither moved nor
    left with a reason, and a tensor of ours that nothing filled.
    """

    def __init__(self, tensors: Mapping[str, Tensor], path: str, source: str) -> None:
        self.tensors = dict(tensors)
        self.path = path
        self.source = source
        self.weights: dict[str, Tensor] = {}
        self.matched: list[tuple[str, str]] = []
        self.made: list[tuple[str, str]] = []
        self.left: list[tuple[str, str]] = []
        self._missing: list[str] = []
        self._odd: set[str] = set()
        self._open = dict.fromkeys(self.tensors)

    def move(self, theirs: str, ours: str, convert: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
        """Take the source's ``theirs`` as our ``ours``; one that is not there is reported by ``close``."""
        if theirs not in self.tensors:
            self._missing.append(f"{theirs} -> {ours}")
            return
        self._open.pop(theirs, None)
        self.matched.append((ours, theirs))
        try:
            self.weights[ours] = convert(self.tensors[theirs])
        except (RuntimeError, IndexError):  # an axis or a row that is not there
            self.weights[ours] = self.tensors[theirs]
            self._odd.add(ours)

    def make(self, ours: str, value: Tensor, why: str) -> None:
        """Fill ``ours`` with what follows from the rest."""
        self.weights[ours] = value
        self.made.append((ours, why))

    def leave(self, names: Iterable[str], why: str) -> None:
        """Tensors of the source that are not needed."""
        for name in names:
            if name in self._open:
                del self._open[name]
                self.left.append((name, why))

    def close(self, config: DetectorConfig) -> Imported:
        """The detector that ``config`` describes, with what was moved.

        Raises:
            CheckpointError: tensors are missing on either side, left over, of another shape or not finite; names them.
        """
        faults = []
        if self._missing:
            faults.append(f"not in the file: {listing(self._missing)}")
        if self._open:
            faults.append(f"in the file, but with no place here: {listing(self._open)}")
        try:
            own = empty_tensors(config)
        except ConfigError as error:
            raise CheckpointError(f"{self.path}: {error}") from None
        unfilled = [name for name in own if name not in self.weights]
        if unfilled and not self._missing:
            faults.append(f"of ours, not filled: {listing(unfilled)}")
        wrong = [
            self._shape_fault(name, tensor)
            for name, tensor in own.items()
            if name in self.weights and (name in self._odd or self.weights[name].shape != tensor.shape)
        ]
        if wrong:
            faults.append(f"of another shape: {listing(wrong, separator='; ')}")
        if faults:
            raise CheckpointError(f"{self.path}: read as {self.source}, but {'; '.join(faults)}")
        weights = {name: self.weights[name].to(own[name].dtype).contiguous() for name in own}
        check_finite(weights, self.path, self.matched)
        checkpoint = Checkpoint(config, weights, path=self.path)
        return Imported(checkpoint, self.source, tuple(self.matched), tuple(self.made), tuple(self.left))

    def _shape_fault(self, ours: str, expected: Tensor) -> str:
        theirs = dict(self.matched).get(ours)
        got = list(self.weights[ours].shape)
        fault = f"{ours}: expected {list(expected.shape)}, got {got}"
        if theirs is None:
            return fault
        held = list(self.tensors[theirs].shape)
        return f"{theirs} -> {fault}" + ("" if held == got else f" ({held} in the file)")


def check_finite(weights: Mapping[str, Tensor], path: str, matched: Iterable[tuple[str, str]]) -> None:
    """Raises CheckpointError naming the tensors that have values which are not finite, and the source's of them."""
    theirs = dict(matched)
    odd = [
        f"{theirs[name]} -> {name}" if name in theirs else name
        for name, tensor in weights.items()
        if not bool(torch.isfinite(tensor).all())
    ]
    if odd:
        raise CheckpointError(f"{path}: values that are not finite in {listing(odd)}")


def empty_tensors(config: DetectorConfig) -> dict[str, Tensor]:
    """The state dict that a detector of ``config`` has: names, shapes and types without memory behind them."""
    with torch.device("meta"):
        return detector_from_config(config).state_dict()


# --- Our detector as rows of layers, in the order in which they run: what an importer fills one by one.


@dataclass(frozen=True)
class Layer:
    """A convolution of ours, by its prefix in the state dict.

    ``norm`` is the batch norm behind it, None where it has a bias instead; ``reach`` says over how many layers, itself
    included, a sum behind it reaches back, 0 for none.
    """

    conv: str
    norm: str | None
    shape: tuple[int, ...]
    depthwise: bool
    stride: int
    activated: bool
    reach: int = 0


@dataclass(frozen=True)
class DetectorLayers:
    """``boxes`` and ``classes`` hold the predictor's layers for each map."""

    trunk: tuple[Layer, ...]
    boxes: tuple[tuple[Layer, ...], ...]
    classes: tuple[tuple[Layer, ...], ...]


def detector_layers(config: DetectorConfig) -> DetectorLayers:
    """The layers of the detector that ``config`` describes; takes no memory."""
    with torch.device("meta"):
        detector = detector_from_config(config)
    trunk = [*_layers(detector, "backbone.features"), *_layers(detector, "neck")]
    boxes, classes = (
        tuple(tuple(_layers(detector, f"head.{kind}.{level}")) for level in range(len(config.strides)))
        for kind in ("regression", "classification")
    )
    return DetectorLayers(tuple(trunk), boxes, classes)


def _layers(detector: Detector, prefix: str) -> list[Layer]:
    layers: list[Layer] = []
    sums: list[str] = []
    for name, module in detector.get_submodule(prefix).named_modules(prefix=prefix):
        if isinstance(module, nn.Conv2d):
            depthwise = module.groups > 1
            layers.append(Layer(name, None, tuple(module.weight.shape), depthwise, module.stride[0], False))
        elif isinstance(module, nn.BatchNorm2d):
            layers[-1] = replace(layers[-1], norm=name)
        elif isinstance(module, (nn.ReLU, nn.ReLU6)):
            layers[-1] = replace(layers[-1], activated=True)
        elif isinstance(module, InvertedResidual) and module.has_residual:
            sums.append(f"{name}.")
    for block in sums:
        places = [number for number, layer in enumerate(layers) if layer.conv.startswith(block)]
        layers[places[-1]] = replace(layers[places[-1]], reach=len(places))
    return layers


def backbone_shapes(backbone: str, width_mult: float, narrowing: Narrowing) -> list[tuple[int, ...]]:
    """Shapes of a backbone's filters, in the order in which they run."""
    with torch.device("meta"):
        network = build_backbone(backbone, width_mult, num_classes=None, narrowing=narrowing)
    return [tuple(module.weight.shape) for module in network.modules() if isinstance(module, nn.Conv2d)]


# --- Which rows of a classifier are kept, and what they are called.

COCO_SLOTS = 91  # category ids 0 to 90: background, 80 classes and ten ids that COCO has left out
COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
UNUSED = ("", "???", "n/a", "unused")  # what label files write for a slot without a class
HOW_TO_NAME = "give class_names=..., or on the command line --labels FILE (a name a line) or --class-names"


@dataclass(frozen=True)
class ClassSlots:
    """Slot 0 is background, which some classifiers have no row for.

    Attributes:
        slots: of the source, with background.
        category_ids: the slots of the classes, where they have gaps; otherwise empty, as nobody has said any.
        kept: the slots that become ours, background first.
        background: whether the source has a row for it; a sigmoid classifier can do without.
    """

    slots: int
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    kept: tuple[int, ...]
    background: bool = True

    def select(self, rows: Tensor) -> Tensor:
        """Predictor weights or biases, for each anchor a row for each slot -> [A * (K + 1), ...]."""
        anchors = rows.reshape(-1, self.slots if self.background else self.slots - 1, *rows.shape[1:])
        if not self.background:
            anchors = torch.cat([torch.zeros_like(anchors[:, :1]), anchors], dim=1)
        return anchors[:, torch.tensor(self.kept)].flatten(0, 1)


def count_slots(bias: Tensor, name: str, shapes_per_cell: int, path: str) -> int:
    """Rows for one anchor, background included, of the predictor that ends with ``bias`` [shapes_per_cell * rows].

    Raises:
        CheckpointError: it cannot be that of a classifier.
    """
    slots, rest = divmod(bias.numel(), shapes_per_cell)
    if bias.dim() != 1 or rest or slots < 2:
        raise CheckpointError(
            f"{path}: {name}: expected {shapes_per_cell} values for background and each class, got {list(bias.shape)}"
        )
    return slots


def name_slots(slots: int, names: Sequence[str] | None, score_function: str, path: str, hint: str = "") -> ClassSlots:
    """Names for a classifier of ``slots`` rows, background being the first.

    ``names`` may have background in front, and a name like ``???`` for a slot that is not used: sigmoid classifiers
    drop such rows, softmax ones need them for their sum. Without names, 91 slots are COCO's.

    Raises:
        CheckpointError: names are missing, or there are too many or too few; ``hint`` goes with it.
    """
    if names is None:
        if slots != COCO_SLOTS:
            raise CheckpointError(
                f"{path}: the names of its {slots - 1} classes are not in the file; {HOW_TO_NAME}{hint}"
            )
        names = _coco_names()
    if len(names) not in (slots, slots - 1):
        raise CheckpointError(
            f"{path}: the model has {slots - 1} classes and background, but got {counted(len(names), 'class name')}; "
            f"expected {slots - 1}, or {slots} with background first"
        )
    names = [name.strip() for name in names][len(names) - slots + 1 :]
    used = [slot for slot, name in enumerate(names, 1) if name.lower() not in UNUSED]
    if not used:
        raise CheckpointError(f"{path}: none of its {slots - 1} classes has a name; {HOW_TO_NAME}")
    gaps = len(used) < len(names)
    if score_function == "softmax":
        filled = tuple(name if slot in used else f"unused {slot}" for slot, name in enumerate(names, 1))
        return ClassSlots(slots, filled, tuple(range(1, slots)) if gaps else (), tuple(range(slots)))
    return ClassSlots(slots, tuple(names[slot - 1] for slot in used), tuple(used) if gaps else (), (0, *used))


def _coco_names() -> list[str]:
    names = iter(COCO_NAMES)
    return ["???" if slot in COCO_GAPS else next(names) for slot in range(1, COCO_SLOTS)]


# --- Batch norms that a file has folded into its convolutions, restored so that training goes on as usual.

PICTURES = 64  # that statistics are measured on; the coarsest map has one cell in each
LEAST_PICTURES = 8  # of a network with a large input
MOST_PIXELS = PICTURES * 512 * 512  # of all of them together
MOST_BATCH_PIXELS = 8 * 320 * 320


def calibrate_restored_norms(imported: Imported, options: ImportOptions) -> Imported:
    """The same function, with batch norms whose statistics are those of pictures: it can be put in training mode.

    Raises:
        DataError: the folder of pictures is missing or has none, or one cannot be read.
        CheckpointError: the weights give values that are not finite.
    """
    detector = imported.checkpoint.build_detector()
    recalibrate_norms(detector, _batches(detector.config, options.pictures), rescale=True)
    weights = detector.state_dict()
    check_finite(weights, imported.checkpoint.path, imported.matched)
    return replace(imported, checkpoint=replace(imported.checkpoint, weights=weights))


def _batches(config: DetectorConfig, folder: Path | None) -> Iterator[Tensor]:
    input_transform = InputTransform(config.input.size, config.input.resize)
    pixels = config.input.size[0] * config.input.size[1]
    count = min(PICTURES, max(LEAST_PICTURES, MOST_PIXELS // pixels))
    batch: list[ImageArray] = []
    for picture in _scenes(count) if folder is None else _pictures_in(folder, count):
        batch.append(input_transform.window((picture.shape[0], picture.shape[1])).render(picture))
        if len(batch) * pixels >= MOST_BATCH_PIXELS:
            yield stack_images(batch)
            batch = []
    if batch:
        yield stack_images(batch)


def _scenes(count: int) -> Iterator[ImageArray]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield draw_scene(rng, with_objects=True).image


def _pictures_in(folder: Path, count: int) -> Iterator[ImageArray]:
    """Up to ``count`` of a folder, evenly taken from all of them: files are often sorted by scene."""
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of pictures to measure batch norms on, found no such folder")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise DataError(f"{folder}: expected pictures to measure batch norms on, found none")
    chosen = np.unique(np.linspace(0, len(files) - 1, count).round().astype(int))
    for position in chosen:
        yield read_image(files[position])
