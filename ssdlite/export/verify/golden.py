"""The steps from a picture to detections, each on its own, as ``ssdlite.runtime.model`` takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ssdlite.errors import ContractError, ExportError
from ssdlite.export.verify.vectors import (
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
    to_golden,
)
from ssdlite.files import write_atomically, write_text
from ssdlite.images.geometry import CropWindow, ImageArray
from ssdlite.runtime.backends.base import Backend
from ssdlite.runtime.contract import Contract, ModelSpec
from ssdlite.runtime.files import installed_runtimes, open_backend
from ssdlite.runtime.model import RuntimeDetector


class Reference:
    """One model of a contract, step by step. What the network answers is not checked here: that is what is compared.

    Raises:
        ContractError: the contract asks for steps that nothing here can take.
    """

    def __init__(self, contract: Contract, model: ModelSpec, backend: Backend | None) -> None:
        self.contract = contract
        self.model = model
        self.backend = backend
        self._detector = RuntimeDetector(contract, model, backend or _NoBackend())

    def window(self, size: tuple[int, int]) -> CropWindow:
        """What of a picture of (height, width) the input shows."""
        return self._detector.input_transform.window(size)

    def resized(self, rgb: ImageArray) -> ImageArray:
        """A picture [H, W, 3] -> the same at the input's size."""
        return self.window((rgb.shape[0], rgb.shape[1])).render(rgb, self._detector.input_transform.fill)

    def tensor(self, resized: ImageArray) -> Array:
        """[H, W, 3] at the input's size -> the input tensor [1, ...]."""
        return self._detector.to_input(resized[None].transpose(0, 3, 1, 2))

    def outputs(self, tensor: Array) -> dict[str, Array]:
        """The input tensor [1, ...] -> outputs [1, ...] by meaning, those there are, of whatever shape.

        Raises:
            ContractError: the network cannot be run on it.
        """
        assert self.backend is not None
        values = self.backend.run(np.repeat(tensor, self.model.input.batch or 1, axis=0))
        return {output.meaning: values[output.name][:1] for output in self.model.outputs if output.name in values}

    def detections(
        self, outputs: Mapping[str, Array], size: tuple[int, int], score_threshold: float
    ) -> list[GoldenDetection]:
        """Outputs [1, ...] by meaning -> final detections in the pixels of a picture of (height, width).

        Raises:
            ContractError: labels or counts that the contract does not allow.
        """
        (found,) = self._detector.postprocess(outputs)
        return to_golden(found.to_picture(self.window(size), size).above(score_threshold))


class _NoBackend:
    def run(self, inputs: Array) -> dict[str, Array]:
        raise ContractError("the model's runtime is not installed")


# --- Writing a bundle's golden vectors (their layout: ``ssdlite.export.verify.vectors``). No torch.

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
        reference = Reference(contract, model, open_backend(bundle, model, threads=1))
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
