"""Golden vectors: what every step makes of a few pictures, so that an app's own steps can be compared one by one.

The folder ``golden/`` of a bundle, all numbers little-endian, rows from the top::

    golden.json                          ``GoldenIndex``: the pictures, the score threshold, the files' hashes
    image_0.png                          a picture, 8-bit RGB
    image_0.rgb.bin                      its pixels: uint8 [height, width, 3], RGB
    image_0.resized.bin                  uint8 [H, W, 3], RGB, at the input's size, before anything else
    image_0.uint8_NCHW.bin               the input tensor of one picture, named after type and layout of the input
    image_0.MODEL_FILE.MEANING.bin       one output of that model, without the batch axis, e.g. ...onnx.scores.bin
    image_0.MODEL_FILE.detections.json   [{"name", "label", "score", "box": [x0, y0, x1, y1] in the picture's pixels}]

A dump of an app has any subset of these names. Needs numpy, Pillow and OpenCV only.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ssdlite.detections import Detections
from ssdlite.errors import ContractError
from ssdlite.images.geometry import ImageArray
from ssdlite.images.reading import read_image, read_image_size
from ssdlite.runtime.contract import MAX_SIDE, Contract, InputSpec, ModelSpec
from ssdlite.runtime.contract_file import is_plain_file_name
from ssdlite.runtime.plain import PlainError, from_plain, parse_json, to_plain

FORMAT = "ssdlite-golden"
FORMAT_VERSION = 1
GOLDEN_FOLDER = "golden"
INDEX_FILE = "golden.json"
MAX_IMAGES = 64
MAX_INDEX_BYTES = 1 << 20
MAX_DETECTION_BYTES = 64 << 20
Array = npt.NDArray[Any]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class GoldenImage:
    """A picture; ``name`` is the part of its files' names before the first dot."""

    name: str
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class GoldenIndex:
    """golden.json. Final detections are those with at least ``score_threshold``."""

    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    score_threshold: float
    images: tuple[GoldenImage, ...]
    sha256: dict[str, str]  # of each file of the models, as they were when the vectors were made
    runtimes: dict[str, str] = field(default_factory=dict)  # their versions then


@dataclass(frozen=True, kw_only=True)
class GoldenDetection:
    """One final detection, ``box`` xyxy in the picture's own pixels."""

    name: str
    label: int
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class _DetectionList:
    detections: tuple[GoldenDetection, ...]


class Vectors:
    """The files of a folder with the layout above; a dump has only some. All sizes follow from the contract.

    Every method gives None where the file is not there.

    Raises:
        ContractError: a file has not the size that the contract and golden.json give it, or another content.
    """

    def __init__(self, folder: Path, contract: Contract) -> None:
        self.folder = folder
        self.contract = contract

    def rgb(self, image: GoldenImage) -> ImageArray | None:
        return self._read(rgb_file(image.name), "uint8", (image.height, image.width, 3))

    def resized(self, image: GoldenImage, spec: InputSpec) -> ImageArray | None:
        return self._read(resized_file(image.name), "uint8", (spec.height, spec.width, 3))

    def tensor(self, image: GoldenImage, spec: InputSpec) -> Array | None:
        """[1, ...], as the model takes it."""
        return self._read(tensor_file(image.name, spec), spec.type, (1, *_sides(spec.shape[1:])))

    def outputs(self, image: GoldenImage, model: ModelSpec) -> dict[str, Array] | None:
        """Outputs [1, ...] by meaning, those that are there; None where there are none."""
        values: dict[str, Array | None] = {
            output.meaning: self._read(
                output_file(image.name, model, output.meaning), output.type, (1, *_sides(output.shape[1:]))
            )
            for output in model.outputs
        }
        there = {meaning: value for meaning, value in values.items() if value is not None}
        return there or None

    def detections(self, image: GoldenImage, model: ModelSpec) -> list[GoldenDetection] | None:
        path = self.folder / detections_file(image.name, model)
        if not path.exists():
            return None
        return parse_detections(_read_bytes(path, 0, MAX_DETECTION_BYTES), str(path), self.contract)

    def _read(self, name: str, kind: str, shape: tuple[int, ...]) -> Array | None:
        path = self.folder / name
        if not path.exists():
            return None
        dtype = np.dtype(kind).newbyteorder("<")
        wanted = dtype.itemsize * math.prod(shape)
        return np.frombuffer(_read_bytes(path, wanted, wanted), dtype).reshape(shape).astype(kind)


class Golden(Vectors):
    """The golden vectors of a bundle, all there."""

    def __init__(self, bundle: Path, contract: Contract) -> None:
        super().__init__(bundle / GOLDEN_FOLDER, contract)
        self.index = _read_index(self.folder, contract)

    def has(self, model: ModelSpec) -> bool:
        """Whether vectors were made for this model."""
        return model.file in self.index.sha256

    def picture(self, image: GoldenImage) -> ImageArray:
        """The PNG as decoded here."""
        path = self.folder / f"{image.name}.png"
        size, _ = read_image_size(path)
        if size != (image.height, image.width):
            raise ContractError(f"{path}: expected {image.width} x {image.height} pixels, got {size[1]} x {size[0]}")
        return read_image(path)

    def rgb(self, image: GoldenImage) -> ImageArray:
        return _present(super().rgb(image), self.folder / rgb_file(image.name))

    def resized(self, image: GoldenImage, spec: InputSpec) -> ImageArray:
        return _present(super().resized(image, spec), self.folder / resized_file(image.name))

    def tensor(self, image: GoldenImage, spec: InputSpec) -> Array:
        return _present(super().tensor(image, spec), self.folder / tensor_file(image.name, spec))

    def outputs(self, image: GoldenImage, model: ModelSpec) -> dict[str, Array]:
        values = super().outputs(image, model) or {}
        for output in model.outputs:
            _present(values.get(output.meaning), self.folder / output_file(image.name, model, output.meaning))
        return values

    def detections(self, image: GoldenImage, model: ModelSpec) -> list[GoldenDetection]:
        return _present(super().detections(image, model), self.folder / detections_file(image.name, model))

    @cached_property
    def file_names(self) -> set[str]:
        """Every name that the folder may have, and a dump as well."""
        names = {INDEX_FILE}
        for image in self.index.images:
            names |= {f"{image.name}.png", rgb_file(image.name), resized_file(image.name)}
            for model in self.contract.models:
                names |= {tensor_file(image.name, model.input), detections_file(image.name, model)}
                names |= {output_file(image.name, model, output.meaning) for output in model.outputs}
        return names


def rgb_file(name: str) -> str:
    return f"{name}.rgb.bin"


def resized_file(name: str) -> str:
    return f"{name}.resized.bin"


def tensor_file(name: str, spec: InputSpec) -> str:
    return f"{name}.{spec.type}_{spec.layout}.bin"


def output_file(name: str, model: ModelSpec, meaning: str) -> str:
    return f"{name}.{model.file}.{meaning}.bin"


def detections_file(name: str, model: ModelSpec) -> str:
    return f"{name}.{model.file}.detections.json"


def parse_detections(content: bytes, where: str, contract: Contract) -> list[GoldenDetection]:
    """A detections.json. Raises ContractError: not a list of at most ``max_detections`` detections."""
    try:
        found = from_plain(_DetectionList, {"detections": parse_json(content)}, where).detections
    except PlainError as error:
        raise ContractError(f"{where}: {error}") from None
    limit = contract.postprocess.max_detections
    if len(found) > limit:
        raise ContractError(
            f"{where}: {len(found)} detections, more than max_detections {limit}; there is no suppression, or no limit"
        )
    return list(found)


def to_golden(found: Detections) -> list[GoldenDetection]:
    return [GoldenDetection(name=one.name, label=one.label, score=one.score, box=one.box) for one in found]


def encode_index(index: GoldenIndex) -> str:
    return json.dumps(to_plain(index), indent=2, allow_nan=False) + "\n"


def encode_detections(found: Sequence[GoldenDetection]) -> str:
    """One detection a line."""
    lines = (json.dumps(to_plain(one), allow_nan=False, ensure_ascii=False) for one in found)
    return "[\n" + ",\n".join(lines) + "\n]\n"


def model_hashes(bundle: Path, model: ModelSpec) -> dict[str, str]:
    """SHA-256 of each of the model's files."""
    return {name: hashlib.sha256((bundle / name).read_bytes()).hexdigest() for name in model.files}


def _read_index(folder: Path, contract: Contract) -> GoldenIndex:
    path = folder / INDEX_FILE
    if not path.is_file():
        raise ContractError(f"{path}: no such file; a bundle has its golden vectors there")
    try:
        values = parse_json(_read_bytes(path, 0, MAX_INDEX_BYTES))
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise PlainError(f"expected an object with format {FORMAT!r}")
        if values.get("format_version") != FORMAT_VERSION:
            raise PlainError(f"format version {values.get('format_version')!r}; this reads {FORMAT_VERSION}")
        index = from_plain(GoldenIndex, values, "golden")
    except PlainError as error:
        raise ContractError(f"{path}: {error}") from None
    _check_index(index, str(path))
    check_one_size(contract, str(path))
    return index


def _check_index(index: GoldenIndex, where: str) -> None:
    names = [image.name for image in index.images]
    if not 1 <= len(names) <= MAX_IMAGES or len(set(names)) != len(names):
        raise ContractError(f"{where}: expected 1 to {MAX_IMAGES} pictures of different names, got {len(names)}")
    if not 0 <= index.score_threshold <= 1:
        raise ContractError(f"{where}: score_threshold: expected 0 to 1, got {index.score_threshold}")
    for image in index.images:
        if not is_plain_file_name(image.name) or "." in image.name:
            raise ContractError(
                f"{where}: expected a picture's name without folder and suffix, got {image.name[:80]!r}"
            )
        check_side(image.height, image.width, f"{where}: {image.name}")


def check_side(height: int, width: int, where: str) -> None:
    """Raises ContractError for a picture without pixels or larger than golden vectors may be."""
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ContractError(f"{where}: expected sides of 1 to {MAX_SIDE} pixels, got {width} x {height}")


def check_one_size(contract: Contract, where: str) -> None:
    """Raises ContractError unless all inputs have one size and those of one type and layout one normalisation."""
    sizes = {(model.input.height, model.input.width) for model in contract.models}
    tensors = {tensor_file("", model.input) for model in contract.models}
    recipes = {(tensor_file("", m.input), m.input.color_order, m.input.mean, m.input.std) for m in contract.models}
    if len(sizes) > 1 or len(recipes) > len(tensors):
        raise ContractError(f"{where}: expected models that take the same pictures, but their inputs differ")


def _sides(shape: Sequence[int | None]) -> tuple[int, ...]:
    return tuple(side for side in shape if side is not None)


def _read_bytes(path: Path, least: int, most: int) -> bytes:
    """The content of a regular file of ``least`` to ``most`` bytes; what is larger is not read."""
    try:
        if not path.is_file() or path.resolve().parent != path.parent.resolve():
            raise ContractError(f"{path}: expected a file in this folder, not a link out of it or something else")
        size = path.stat().st_size
        if not least <= size <= most:
            expected = f"{least}" if least == most else f"{least} to {most}"
            raise ContractError(f"{path}: expected {expected} bytes, got {size}")
        return path.read_bytes()
    except OSError as error:
        raise ContractError(f"{path}: cannot be read ({error.strerror})") from None


def _present(value: T | None, path: Path) -> T:
    if value is None:
        raise ContractError(f"{path}: no such file; golden.json says that there is one")
    return value
