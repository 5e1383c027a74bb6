"""The folder that a Core ML package is, checked and read without Core ML: on systems that do not have it, and before it
reads what anyone may have written.

::

    NAME.mlpackage/Manifest.json                                what is where
    NAME.mlpackage/Data/com.apple.CoreML/model.mlmodel          the specification: protobuf, a program without weights
    NAME.mlpackage/Data/com.apple.CoreML/weights/weight.bin     the weights: blobs, each behind 64 bytes about it

Field numbers are those of Model.proto and MIL.proto of https://github.com/apple/coremltools (mlmodel/format), the
layout of the weights that of MILBlob/Blob/StorageFormat.hpp there.
"""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ssdlite.errors import ContractError, quote
from ssdlite.protobuf import BYTES, DamagedError, read_fields, read_messages, read_text, to_number
from ssdlite.runtime.plain import PlainError, parse_json

PACKAGE_SUFFIX = ".mlpackage"
MANIFEST_FILE = "Manifest.json"
DATA_FOLDER = "Data"
PARTS = {"com.apple.CoreML/model.mlmodel": "Model Specification", "com.apple.CoreML/weights": "Model Weights"}
SPECIFICATION_FILE = f"{DATA_FOLDER}/com.apple.CoreML/model.mlmodel"
WEIGHTS_FILE = f"{DATA_FOLDER}/com.apple.CoreML/weights/weight.bin"
WEIGHTS_NAME = "@model_path/weights/weight.bin"  # as the program has it
PACKAGE_FILES = {MANIFEST_FILE: 1 << 20, SPECIFICATION_FILE: 1 << 26, WEIGHTS_FILE: 1 << 30}  # and their most bytes

BLOB_ALIGNMENT = 64  # also of the header, and of what stands before each blob
BLOB_SENTINEL = 0xDEADBEEF
BLOB_STORAGE_VERSION = 2
DESCRIPTION, PIPELINE, PROGRAM = 2, 202, 502  # of a Model
FEATURE_INPUT, FEATURE_OUTPUT, METADATA = 1, 10, 100  # of a ModelDescription
USER_DEFINED = 100  # of Metadata
BLOB_VALUE = 5  # of a Value
VALUE_PATHS = {  # by message, the fields that lead to values, and the message in each; a map's entry holds it in 2
    "Program": {2: "FunctionEntry"},
    "FunctionEntry": {2: "Function"},
    "Function": {3: "BlockEntry"},
    "BlockEntry": {2: "Block"},
    "Block": {3: "Operation"},
    "Operation": {2: "ArgumentEntry", 4: "Block", 5: "ValueEntry"},
    "ArgumentEntry": {2: "Argument"},
    "Argument": {1: "Binding"},
    "Binding": {2: "Value"},
    "ValueEntry": {2: "Value"},
}
MAX_MESSAGES_DEEP = 40  # blocks inside operations inside blocks


@dataclass(frozen=True)
class PackageFacts:
    """What a package says of itself.

    Attributes:
        inputs: names.
        outputs: names.
        metadata: the user-defined, by name.
        blobs: where in the weights file those begin that the program uses.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: dict[str, str]
    blobs: tuple[int, ...] = field(repr=False)


def is_package(path: Path) -> bool:
    """Whether it is named as a package, which is a folder and yet one model."""
    return path.name.lower().endswith(PACKAGE_SUFFIX)


def manifest_text() -> str:
    """Of a package with one specification and its weights. The identifiers follow from the paths: they need be unique
    within a package only. Keys are sorted, as coremltools writes them into each package that it opens."""
    names = {path: str(uuid.uuid5(uuid.NAMESPACE_URL, path)).upper() for path in PARTS}
    entries = {
        names[path]: {
            "author": "com.apple.CoreML",
            "description": f"CoreML {what}",
            "name": path.rpartition("/")[2],
            "path": path,
        }
        for path, what in PARTS.items()
    }
    root = next(iter(names.values()))
    document = {"fileFormatVersion": "1.0.0", "itemInfoEntries": entries, "rootModelIdentifier": root}
    return json.dumps(document, indent=4, sort_keys=True) + "\n"


def read_package(path: Path) -> PackageFacts:
    """What the package at ``path`` says of itself, after a check of all its files.

    Raises:
        ContractError: a file is missing, too large, damaged or a link, or the package refers to others.
    """
    if not path.is_dir():
        raise ContractError(
            f"{path}: expected a Core ML package, which is a folder, found {'a file' if path.exists() else 'nothing'}"
        )
    _check_manifest(_read(path, MANIFEST_FILE), path / MANIFEST_FILE)
    content = _read(path, SPECIFICATION_FILE)
    try:
        facts = _read_model(memoryview(content))
    except (DamagedError, UnicodeDecodeError, RecursionError) as error:
        raise ContractError(
            f"{path / SPECIFICATION_FILE}: not the specification of a Core ML model, or damaged ({error})"
        ) from None
    _check_weights(path, facts.blobs)
    return facts


def _read(package: Path, name: str) -> bytes:
    file = package / name
    try:
        if not file.is_file():
            raise ContractError(f"{file}: no such file; a Core ML package has one")
        if file.resolve() != package.resolve() / name:
            raise ContractError(f"{file}: a link that leads elsewhere is not followed")
        size = file.stat().st_size
        if not 0 < size <= PACKAGE_FILES[name]:
            raise ContractError(f"{file}: expected 1 to {PACKAGE_FILES[name]} bytes, got {size}")
        return file.read_bytes()
    except OSError as error:
        raise ContractError(f"{file}: cannot be read ({error.strerror})") from None


def _check_manifest(content: bytes, file: Path) -> None:
    """It names the two parts, and nothing else."""
    try:
        document = parse_json(content)
        entries = document["itemInfoEntries"]
        found = {key: entry["path"] for key, entry in entries.items()}
        root = found[document["rootModelIdentifier"]]
    except (PlainError, KeyError, TypeError, AttributeError):
        raise ContractError(f"{file}: expected the manifest of a Core ML package, JSON with its parts") from None
    paths = sorted(map(str, found.values()))
    if paths != sorted(PARTS) or root != next(iter(PARTS)):
        raise ContractError(f"{file}: expected the parts {', '.join(PARTS)}, got {quote(', '.join(paths))}")


def _read_model(message: memoryview) -> PackageFacts:
    """Of a program, or a pipeline with one in it."""
    features: dict[int, list[str]] = {FEATURE_INPUT: [], FEATURE_OUTPUT: []}
    metadata: dict[str, str] = {}
    for description in read_messages(message, DESCRIPTION):
        for number, names in features.items():
            names += [read_text(feature, 1) for feature in read_messages(description, number)]
        for part in read_messages(description, METADATA):
            metadata |= {read_text(entry, 1): read_text(entry, 2) for entry in read_messages(part, USER_DEFINED)}
    stages = [stage for pipeline in read_messages(message, PIPELINE) for stage in read_messages(pipeline, 1)]
    programs = [program for model in (message, *stages) for program in read_messages(model, PROGRAM)]
    if len(programs) != 1:
        raise DamagedError(f"expected one ML program in it, found {len(programs)}")
    if not all(features.values()):
        raise DamagedError("it names no inputs or no outputs")
    blobs = tuple(sorted(set(_blobs(programs[0], "Program", 0))))
    return PackageFacts(tuple(features[FEATURE_INPUT]), tuple(features[FEATURE_OUTPUT]), metadata, blobs)


def _blobs(message: memoryview, kind: str, depth: int) -> Iterator[int]:
    """Where the values begin that a program keeps in its weights file. Raises DamagedError for any other file."""
    if depth > MAX_MESSAGES_DEEP:
        raise DamagedError(f"messages {depth} deep")
    if kind == "Value":
        for content in read_messages(message, BLOB_VALUE):
            name = read_text(content, 1)
            if name != WEIGHTS_NAME:
                raise DamagedError(f"it refers to the file {quote(name)}")
            yield next((to_number(wire, value) for number, wire, value in read_fields(content) if number == 2), 0)
        return
    paths = VALUE_PATHS[kind]
    for number, wire, content in read_fields(message):
        if number in paths and wire == BYTES:
            yield from _blobs(content, paths[number], depth + 1)


def _check_weights(path: Path, offsets: tuple[int, ...]) -> None:
    """Every blob lies within the file, and the program refers to blobs only."""
    file = path / WEIGHTS_FILE
    content = _read(path, WEIGHTS_FILE)
    count, version = struct.unpack_from("<II", content.ljust(8))
    if version != BLOB_STORAGE_VERSION:
        raise ContractError(f"{file}: expected the weights of an ML program, of version {BLOB_STORAGE_VERSION}")
    position, known = BLOB_ALIGNMENT, set()
    for number in range(count):
        if position + BLOB_ALIGNMENT > len(content):
            raise ContractError(f"{file}: expected {count} blobs, it ends within number {number + 1}")
        sentinel, _, size, start = struct.unpack_from("<IIQQ", content, position)
        if sentinel != BLOB_SENTINEL or start != position + BLOB_ALIGNMENT:
            raise ContractError(f"{file}: damaged at byte {position}: expected blob number {number + 1} of {count}")
        if start + size > len(content):
            raise ContractError(f"{file}: expected {count} blobs, it ends within number {number + 1}")
        known.add(position)
        position = -(-(start + size) // BLOB_ALIGNMENT) * BLOB_ALIGNMENT
    if not known.issuperset(offsets):
        raise ContractError(f"{file}: not the weights of {SPECIFICATION_FILE}, which has values at other places")
