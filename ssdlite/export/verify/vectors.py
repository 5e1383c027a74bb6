"""Reference vectors: what every step makes of a few pictures, so that an app's own steps can be compared one by one.

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
from pathlib import Path
from typing import Any

import numpy as np

from ssdlite.detections import Detection
from ssdlite.errors import ContractError
from ssdlite.export.verify.report import Step
from ssdlite.files import write_atomically, write_text
from ssdlite.runtime.backends.base import Array
from ssdlite.runtime.contract import CONTRACT_FILE, MAX_SIDE, Contract, ModelSpec
from ssdlite.runtime.contract_file import is_plain_file_name
from ssdlite.runtime.mlpackage import PACKAGE_FILES, is_package
from ssdlite.runtime.plain import PlainError, from_plain, parse_json, to_plain

GOLDEN_FORMAT = "ssdlite-golden"
GOLDEN_VERSION = 1
GOLDEN_FOLDER = "golden"
INDEX_FILE = "golden.json"
MAX_GOLDEN_IMAGES = 64
MAX_INDEX_BYTES = 1 << 20
MAX_DETECTION_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class GoldenImage:
    """A picture; ``name`` is the part of its files' names before the first dot."""

    name: str
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.height, self.width


@dataclass(frozen=True, kw_only=True)
class GoldenIndex:
    """golden.json. Final detections are those with at least ``score_threshold``."""

    format: str = GOLDEN_FORMAT
    format_version: int = GOLDEN_VERSION
    score_threshold: float
    images: tuple[GoldenImage, ...]
    sha256: dict[str, str]  # of each file of the models, as they were when the vectors were made
    runtimes: dict[str, str] = field(default_factory=dict)  # their versions then


@dataclass(frozen=True)
class _DetectionList:
    detections: tuple[Detection, ...]


class MissingVectorError(ContractError):
    """A file of the vectors is not there."""


@dataclass(frozen=True)
class Vectors:
    """The files of one model in a folder with the layout above. All sizes follow from the contract.

    ``is_dump``: some outputs of a picture may be missing.
    """

    folder: Path
    contract: Contract
    model: ModelSpec
    is_dump: bool = False

    def path(self, step: Step, image: GoldenImage, meaning: str = "") -> Path:
        """``meaning`` is that of an output."""
        return self.folder / file_name(step, image.name, self.model, meaning)

    def load(self, step: Step, image: GoldenImage) -> Any:
        """What ``step`` made of a picture: pixels [H, W, 3], the tensor [1, ...], outputs [1, ...] by meaning, or a
        list of detections.

        Raises:
            MissingVectorError: it is not there.
            ContractError: a file has not the size that the contract and golden.json give it, or another content.
        """
        if step == "detections":
            return self._load_detections(self.path(step, image))
        if step == "outputs":
            return self._load_outputs(image)
        spec = self.model.input
        shapes: dict[Step, tuple[int | None, ...]] = {
            "picture": (image.height, image.width, 3),
            "resize": (spec.height, spec.width, 3),
            "input": (1, *spec.shape[1:]),
        }
        source = (
            INDEX_FILE if step == "picture" else f"{CONTRACT_FILE}, whose input is {spec.width} x {spec.height} pixels"
        )
        return _load_array(self.path(step, image), spec.type if step == "input" else "uint8", shapes[step], source)

    def _load_outputs(self, image: GoldenImage) -> dict[str, Array]:
        paths = {output: self.path("outputs", image, output.meaning) for output in self.model.outputs}
        there = {output: path for output, path in paths.items() if not self.is_dump or path.exists()}
        if not there:
            raise MissingVectorError(f"{self.folder}: no output of {self.model.file} for {image.name}")
        return {
            own.meaning: _load_array(path, own.type, (1, *own.shape[1:]), CONTRACT_FILE) for own, path in there.items()
        }

    def _load_detections(self, path: Path) -> list[Detection]:
        try:
            values = parse_json(_read(path, 0, MAX_DETECTION_BYTES))
            found = from_plain(_DetectionList, {"detections": values}, str(path)).detections
        except PlainError as error:
            raise ContractError(f"{path}: {error}") from None
        limit = self.contract.postprocess.max_detections
        if len(found) > limit:
            raise ContractError(
                f"{path}: {len(found)} detections, more than max_detections {limit}; there is no suppression, or no "
                "limit"
            )
        return list(found)

    def save(self, step: Step, image: GoldenImage, value: Array, meaning: str = "") -> None:
        content = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()
        write_atomically(self.path(step, image, meaning), lambda file: file.write(content))

    def save_detections(self, image: GoldenImage, found: Sequence[Detection]) -> None:
        """One detection a line."""
        lines = (json.dumps(one.to_dict(), allow_nan=False, ensure_ascii=False) for one in found)
        write_text(self.path("detections", image), "[\n" + ",\n".join(lines) + "\n]\n")


def _load_array(path: Path, kind: str, shape: Sequence[int | None], source: str) -> Array:
    """Of the type and shape that ``source`` gives it, which a file of another size contradicts."""
    dtype = np.dtype(kind).newbyteorder("<")
    sides = [side or 0 for side in shape]
    wanted = dtype.itemsize * math.prod(sides)
    return (
        np.frombuffer(_read(path, wanted, wanted, f" ({kind} {sides} by {source})"), dtype).reshape(sides).astype(kind)
    )


def file_name(step: Step, image: str, model: ModelSpec, meaning: str = "") -> str:
    """The name of what ``step`` makes of the picture called ``image``; ``meaning`` is that of an output."""
    endings = {
        "picture": "rgb.bin",
        "resize": "resized.bin",
        "input": f"{model.input.type}_{model.input.layout}.bin",
        "outputs": f"{model.file}.{meaning}.bin",
        "detections": f"{model.file}.detections.json",
    }
    return f"{image}.{endings[step]}"


def file_names(contract: Contract, index: GoldenIndex) -> set[str]:
    """Every name that the folder may have, and a dump as well."""
    names = {INDEX_FILE, *(f"{image.name}.png" for image in index.images)}
    for image in index.images:
        for model in contract.models:
            names |= {file_name(step, image.name, model) for step in ("picture", "resize", "input", "detections")}
            names |= {file_name("outputs", image.name, model, output.meaning) for output in model.outputs}
    return names


def model_hashes(bundle: Path, model: ModelSpec) -> dict[str, str]:
    """SHA-256 of each of the model's files; of a package that of its files' names and hashes, in their order."""
    return {name: _hash(bundle / name) for name in model.files}


def _hash(path: Path) -> str:
    if not is_package(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    parts = (f"{name} {_hash(path / name)}\n" for name in sorted(PACKAGE_FILES) if (path / name).is_file())
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def load_index(bundle: Path, contract: Contract) -> GoldenIndex:
    """golden.json of a bundle.

    Raises:
        ContractError: it is missing, damaged or hostile, or the contract's models take different pictures.
    """
    path = bundle / GOLDEN_FOLDER / INDEX_FILE
    if not path.is_file():
        raise ContractError(f"{path}: no such file; a bundle has its reference vectors there")
    try:
        values = parse_json(_read(path, 0, MAX_INDEX_BYTES))
        if not isinstance(values, dict) or values.get("format") != GOLDEN_FORMAT:
            raise PlainError(f"expected an object with format {GOLDEN_FORMAT!r}")
        if values.get("format_version") != GOLDEN_VERSION:
            raise PlainError(f"format version {values.get('format_version')!r}; this reads {GOLDEN_VERSION}")
        index = from_plain(GoldenIndex, values, "golden")
    except PlainError as error:
        raise ContractError(f"{path}: {error}") from None
    _check_index(index, str(path))
    check_one_size(contract, str(path))
    return index


def save_index(bundle: Path, index: GoldenIndex) -> None:
    write_text(bundle / GOLDEN_FOLDER / INDEX_FILE, json.dumps(to_plain(index), indent=2, allow_nan=False) + "\n")


def _check_index(index: GoldenIndex, where: str) -> None:
    names = [image.name for image in index.images]
    if not 1 <= len(names) <= MAX_GOLDEN_IMAGES or len(set(names)) != len(names):
        raise ContractError(f"{where}: expected 1 to {MAX_GOLDEN_IMAGES} pictures of different names, got {len(names)}")
    if not 0 <= index.score_threshold <= 1:
        raise ContractError(f"{where}: score_threshold: expected 0 to 1, got {index.score_threshold}")
    for image in index.images:
        if not is_plain_file_name(image.name) or "." in image.name:
            raise ContractError(
                f"{where}: expected a picture's name without folder and suffix, got {image.name[:80]!r}"
            )
        check_side(image, f"{where}: {image.name}")


def check_side(image: GoldenImage, where: str) -> None:
    """Raises ContractError for a picture without pixels or larger than reference vectors may be."""
    if not (1 <= image.height <= MAX_SIDE and 1 <= image.width <= MAX_SIDE):
        raise ContractError(f"{where}: expected sides of 1 to {MAX_SIDE} pixels, got {image.width} x {image.height}")


def check_one_size(contract: Contract, where: str) -> None:
    """Raises ContractError unless all inputs have one size and those of one type and layout one normalisation."""
    specs = [(file_name("input", "", model), model.input) for model in contract.models]
    sizes = {(spec.height, spec.width) for _, spec in specs}
    recipes = {(tensor, spec.color_order, spec.mean, spec.std) for tensor, spec in specs}
    if len(sizes) > 1 or len(recipes) > len({tensor for tensor, _ in specs}):
        raise ContractError(f"{where}: expected models that take the same pictures, but their inputs differ")


def _read(path: Path, least: int, most: int, reason: str = "") -> bytes:
    """The content of a regular file of ``least`` to ``most`` bytes, for a ``reason``; what is larger is not read."""
    try:
        if not path.exists():
            raise MissingVectorError(f"{path}: no such file; golden.json says that there is one")
        if not path.is_file() or path.resolve().parent != path.parent.resolve():
            raise ContractError(f"{path}: expected a file in this folder, not a link out of it or something else")
        size = path.stat().st_size
        if not least <= size <= most:
            expected = f"{least}" if least == most else f"{least} to {most}"
            raise ContractError(f"{path}: expected {expected} bytes{reason}, got {size}")
        return path.read_bytes()
    except OSError as error:
        raise ContractError(f"{path}: cannot be read ({error.strerror})") from None
