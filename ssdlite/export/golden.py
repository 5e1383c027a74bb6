"""Writing a bundle's golden vectors (their layout: ``ssdlite.export.vectors``). No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ssdlite.contract import Contract
from ssdlite.errors import ExportError
from ssdlite.export.reference import Reference, installed_runtimes, open_backend
from ssdlite.export.vectors import (
    GOLDEN_FOLDER,
    INDEX_FILE,
    MAX_IMAGES,
    Array,
    GoldenDetection,
    GoldenImage,
    GoldenIndex,
    check_one_size,
    check_side,
    detections_file,
    encode_detections,
    encode_index,
    model_hashes,
    output_file,
    resized_file,
    rgb_file,
    tensor_file,
)
from ssdlite.files import write_atomically, write_text
from ssdlite.image import ImageArray

SCORE_THRESHOLD = 0.3


def write_golden(
    bundle: Path, contract: Contract, images: Sequence[ImageArray], *, score_threshold: float = SCORE_THRESHOLD
) -> None:
    """Replace ``bundle/golden`` 's vectors with those of ``images`` [H, W, 3] RGB and the models in ``bundle``.

    Final detections have at least ``score_threshold``, or where nothing in any picture scores so high, the contract's
    own threshold. contract.json itself is not read.

    Raises:
        ExportError: no pictures, too many, or a model's runtime is not installed.
        ContractError: a model is missing or cannot be run, or the models take different inputs.
    """
    if not 1 <= len(images) <= MAX_IMAGES:
        raise ExportError(f"golden vectors: expected 1 to {MAX_IMAGES} pictures, got {len(images)}")
    check_one_size(contract, "golden vectors")
    runtimes = installed_runtimes()
    needed = {model.runtime for model in contract.models}
    if needed - set(runtimes):
        raise ExportError(f"golden vectors: {', '.join(sorted(needed - set(runtimes)))} has to be installed")
    folder = bundle / GOLDEN_FOLDER
    entries = tuple(
        GoldenImage(name=f"image_{number}", height=image.shape[0], width=image.shape[1])
        for number, image in enumerate(images)
    )
    for entry, image in zip(entries, images, strict=True):
        check_side(entry.height, entry.width, entry.name)
        _write_png(folder / f"{entry.name}.png", image)
        _write(folder / rgb_file(entry.name), image)
    found = _write_models(bundle, contract, entries, images)
    if not any(one.score >= score_threshold for detections in found.values() for one in detections):
        score_threshold = contract.postprocess.score_threshold
    for name, detections in found.items():
        above = [one for one in detections if one.score >= score_threshold]
        write_text(folder / name, encode_detections(above))
    index = GoldenIndex(
        score_threshold=score_threshold,
        images=entries,
        sha256={name: value for model in contract.models for name, value in model_hashes(bundle, model).items()},
        runtimes={name: runtimes[name] for name in sorted(needed)},
    )
    write_text(folder / INDEX_FILE, encode_index(index))


def _write_models(
    bundle: Path, contract: Contract, entries: Sequence[GoldenImage], images: Sequence[ImageArray]
) -> dict[str, list[GoldenDetection]]:
    """Write resized pictures, tensors and outputs -> all detections, by the name of their file."""
    folder = bundle / GOLDEN_FOLDER
    found = {}
    for model in contract.models:
        reference = Reference(contract, model, open_backend(bundle, model))
        for entry, image in zip(entries, images, strict=True):
            resized = reference.resized(image)
            tensor = reference.tensor(resized)
            outputs = reference.outputs(tensor)
            _write(folder / resized_file(entry.name), resized)
            _write(folder / tensor_file(entry.name, model.input), tensor)
            for meaning, value in outputs.items():
                _write(folder / output_file(entry.name, model, meaning), value)
            size = (entry.height, entry.width)
            found[detections_file(entry.name, model)] = reference.detections(outputs, size, 0.0)
    return found


def _write(path: Path, values: Array) -> None:
    """All numbers little-endian, rows first."""
    content = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    write_atomically(path, lambda file: file.write(content))


def _write_png(path: Path, image: ImageArray) -> None:
    picture = Image.fromarray(np.ascontiguousarray(image))
    write_atomically(path, lambda file: picture.save(file, "PNG"))
