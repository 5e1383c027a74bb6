"""The mapping of weights: every tensor of a source and every tensor of ours has its place, or is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ssdlite.backbones.batch_norm import recalibrate_norms
from ssdlite.backbones.layers import InvertedResidual
from ssdlite.backbones.registry import build_backbone
from ssdlite.checkpoint import Checkpoint
from ssdlite.config import DetectorConfig, Narrowing
from ssdlite.datasets.shapes import draw_scene
from ssdlite.detector import Detector, detector_from_config, stack_images
from ssdlite.errors import CheckpointError, ConfigError, DataError
from ssdlite.files import listing
from ssdlite.images.geometry import ImageArray, InputTransform
from ssdlite.images.reading import is_picture_name, read_image


@dataclass(frozen=True)
class Imported:
    """A detector with another project's weights.

    Attributes:
        checkpoint: the detector; complete, checked against its own description.
        source: what was read, e.g. ``TensorFlow Object Detection API (TFLite)``.
        matched: (ours, theirs) for every tensor that was taken.
        made: (ours, why) for tensors that were computed, since the source does not hold them.
        left: (theirs, why) for unused tensors of the source.
        notes: for the user, a sentence each.
    """

    checkpoint: Checkpoint
    source: str
    matched: tuple[tuple[str, str], ...]
    made: tuple[tuple[str, str], ...]
    left: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()


LayerPlace = tuple[str, str, Mapping[str, str]]
"""What our names of layers begin with, # for a digit; what theirs do, {0} for the first of these; how both go on."""


def layer_elsewhere(ours: str, places: Iterable[LayerPlace]) -> str:
    """Our name of a layer -> that of another project."""
    for start, theirs, parts in places:
        found = re.fullmatch(re.escape(start).replace(r"\#", r"(\d)") + r"\.(.+)", ours)
        if found and found.groups()[-1] in parts:
            *numbers, rest = found.groups()
            return f"{theirs}.{parts[rest]}".format(*numbers)
    raise KeyError(ours)


class WeightMapping:
    """Moves tensors of a source, by name, into a detector's state dict.

    Errors name ``path`` and ``source``, which is what was read. Loading is strict: ``complete`` raises for an unused
    tensor of the source that was not left with a reason, and for a missing tensor of the detector.
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
        self._misshapen: set[str] = set()
        self._unused = dict.fromkeys(self.tensors)

    def move(self, theirs: str, ours: str, convert: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
        """Take the source's ``theirs`` as our ``ours``; one that is not there is reported by ``complete``."""
        if theirs not in self.tensors:
            self._missing.append(f"{theirs} -> {ours}")
            return
        self._unused.pop(theirs, None)
        self.matched.append((ours, theirs))
        try:
            self.weights[ours] = convert(self.tensors[theirs])
        except (RuntimeError, IndexError, TypeError):  # an axis or a row that is not there
            self.weights[ours] = self.tensors[theirs]
            self._misshapen.add(ours)

    def make(self, ours: str, value: Tensor, why: str) -> None:
        """Fill ``ours`` with what follows from the rest."""
        self.weights[ours] = value
        self.made.append((ours, why))

    def leave(self, names: Iterable[str], why: str) -> None:
        """Tensors of the source that are not needed."""
        for name in names:
            if name in self._unused:
                del self._unused[name]
                self.left.append((name, why))

    def complete(self, config: DetectorConfig) -> Imported:
        """The detector that ``config`` describes, with what was moved.

        Raises:
            CheckpointError: tensors are missing on either side, unused, of another shape or not finite; names them.
        """
        faults = []
        if self._missing:
            faults.append(f"missing keys: {listing(self._missing)}")
        if self._unused:
            faults.append(f"unused keys: {listing(self._unused)}")
        with config_of_source(self.path, self.source):
            own = empty_tensors(config)
        unfilled = [name for name in own if name not in self.weights]
        if unfilled and not self._missing:
            faults.append(f"keys of the detector without a value: {listing(unfilled)}")
        wrong = [
            self._shape_fault(name, tensor)
            for name, tensor in own.items()
            if name in self.weights and (name in self._misshapen or self.weights[name].shape != tensor.shape)
        ]
        wrong_type = [
            f"{self._named(name)} is {str(self.weights[name].dtype).removeprefix('torch.')}"
            for name, tensor in own.items()
            if name in self.weights and tensor.is_floating_point() and not self.weights[name].is_floating_point()
        ]
        if wrong_type:
            faults.append(f"no floats, so quantised or something else: {listing(wrong_type)}")
        if wrong:
            faults.append(f"of another shape: {listing(wrong, separator='; ')}")
        if faults:
            raise CheckpointError(f"{self.path}: read as {self.source}, but {'; '.join(faults)}")
        weights = {name: self.weights[name].to(own[name].dtype).contiguous() for name in own}
        check_finite(weights, self.path, self.matched)
        checkpoint = Checkpoint(config, weights, path=self.path)
        return Imported(checkpoint, self.source, tuple(self.matched), tuple(self.made), tuple(self.left))

    def _named(self, ours: str) -> str:
        """A tensor of ours, behind the source's of it."""
        theirs = dict(self.matched).get(ours)
        return ours if theirs is None else f"{theirs} -> {ours}"

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
    broken = [
        f"{theirs[name]} -> {name}" if name in theirs else name
        for name, tensor in weights.items()
        if not bool(torch.isfinite(tensor).all())
    ]
    if broken:
        raise CheckpointError(f"{path}: values that are not finite in {listing(broken)}")


@contextmanager
def config_of_source(path: str, source: str) -> Iterator[None]:
    """Around what makes a detector's configuration of the file at ``path``, read as ``source``.

    Raises:
        CheckpointError: in place of a ConfigError, which does not name the file.
    """
    try:
        yield
    except ConfigError as error:
        raise CheckpointError(f"{path}: read as {source}, but {error}") from None


def require_tensors(tensors: Mapping[str, Tensor], names: Iterable[str], path: str, source: str) -> None:
    """Raises CheckpointError where one of ``names`` is missing."""
    for name in names:
        if name not in tensors:
            raise CheckpointError(f"{path}: read as {source}, but missing keys: {name}")


def require_filters(tensors: Mapping[str, Tensor], names: Iterable[str], path: str, source: str) -> None:
    """Raises CheckpointError where one of ``names`` is missing, or not [filters, channels, rows, columns]."""
    for name in names:
        require_tensors(tensors, [name], path, source)
        shape = list(tensors[name].shape)
        if len(shape) != 4 or 0 in shape:
            raise CheckpointError(
                f"{path}: read as {source}, but of another shape: {name}: expected filters, got {shape}"
            )


def empty_tensors(config: DetectorConfig) -> dict[str, Tensor]:
    """The state dict that a detector of ``config`` has: names, shapes and types without memory behind them."""
    with torch.device("meta"):
        return detector_from_config(config).state_dict()


# --- Our detector as rows of layers, in the order in which they run: what an importer fills one by one.


@dataclass(frozen=True)
class ConvLayer:
    """A convolution of ours, by its prefix in the state dict.

    ``norm`` is the batch norm behind it, None where it has a bias instead; ``residual_span`` says over how many layers,
    itself included, a residual connection behind it spans, 0 for none.
    """

    conv: str
    norm: str | None
    shape: tuple[int, ...]
    depthwise: bool
    stride: int
    activated: bool
    residual_span: int = 0


@dataclass(frozen=True)
class DetectorLayers:
    """``boxes`` and ``classes`` hold the predictor's layers for each map."""

    trunk: tuple[ConvLayer, ...]
    boxes: tuple[tuple[ConvLayer, ...], ...]
    classes: tuple[tuple[ConvLayer, ...], ...]

    @property
    def all(self) -> list[ConvLayer]:
        """The trunk, what predicts boxes, what predicts classes."""
        return [*self.trunk, *(layer for predictor in (*self.boxes, *self.classes) for layer in predictor)]


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


def _layers(detector: Detector, prefix: str) -> list[ConvLayer]:
    layers: list[ConvLayer] = []
    sums: list[str] = []
    for name, module in detector.get_submodule(prefix).named_modules(prefix=prefix):
        if isinstance(module, nn.Conv2d):
            depthwise = module.groups > 1
            layers.append(ConvLayer(name, None, tuple(module.weight.shape), depthwise, module.stride[0], False))
        elif isinstance(module, nn.BatchNorm2d):
            layers[-1] = replace(layers[-1], norm=name)
        elif isinstance(module, (nn.ReLU, nn.ReLU6)):
            layers[-1] = replace(layers[-1], activated=True)
        elif isinstance(module, InvertedResidual) and module.has_residual:
            sums.append(f"{name}.")
    for block in sums:
        places = [number for number, layer in enumerate(layers) if layer.conv.startswith(block)]
        layers[places[-1]] = replace(layers[places[-1]], residual_span=len(places))
    return layers


def backbone_shapes(backbone: str, width_mult: float, narrowing: Narrowing) -> list[tuple[int, ...]]:
    """Shapes of a backbone's filters, in the order in which they run."""
    with torch.device("meta"):
        network = build_backbone(backbone, width_mult, num_classes=None, narrowing=narrowing)
    return [tuple(module.weight.shape) for module in network.modules() if isinstance(module, nn.Conv2d)]


# --- Batch norms that a file has folded into its convolutions, restored so that training goes on as usual.

PICTURES = 64  # that statistics are measured on; the coarsest map has one cell in each
LEAST_PICTURES = 8  # of a network with a large input
MOST_PIXELS = PICTURES * 512 * 512  # of all of them together
MOST_BATCH_PIXELS = 8 * 320 * 320


def calibrate_restored_norms(imported: Imported, pictures: Path | None) -> Imported:
    """The same function, with batch norms whose statistics are those of pictures: it can be put in training mode.

    ``pictures`` is a folder of them; without it synthetic scenes have to do.

    Raises:
        DataError: the folder of pictures is missing or has none, or one cannot be read.
        CheckpointError: the weights give values that are not finite.
    """
    detector = imported.checkpoint.build_detector()
    recalibrate_norms(detector, picture_batches(detector.config, pictures), rescale=True)
    weights = detector.state_dict()
    check_finite(weights, imported.checkpoint.path, imported.matched)
    return replace(imported, checkpoint=replace(imported.checkpoint, weights=weights))


def picture_batches(config: DetectorConfig, folder: Path | None, most: int | None = None) -> Iterator[Tensor]:
    """Up to ``most`` (``PICTURES``) of a folder, or synthetic scenes, as the detector's input, some at a time."""
    input_transform = InputTransform(config.input.size, config.input.resize)
    pixels = config.input.size[0] * config.input.size[1]
    count = min(most or PICTURES, max(LEAST_PICTURES, MOST_PIXELS // pixels))
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
        raise DataError(f"{folder}: expected a folder of pictures to measure on, found no such folder")
    files = sorted(path for path in folder.rglob("*") if is_picture_name(path.name))
    if not files:
        raise DataError(f"{folder}: expected pictures to measure on, found none")
    chosen = np.unique(np.linspace(0, len(files) - 1, count).round().astype(int))
    for position in chosen:
        yield read_image(files[position])
