"""The steps from a picture to detections, each on its own, and the reference vectors of a bundle that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ssdlite.detections import Detection
from ssdlite.errors import ContractError, ExportError
from ssdlite.export.verify.vectors import (
    GOLDEN_FOLDER,
    MAX_GOLDEN_IMAGES,
    GoldenImage,
    GoldenIndex,
    Vectors,
    check_one_size,
    check_side,
    model_hashes,
    save_index,
)
from ssdlite.files import write_atomically
from ssdlite.images.geometry import CropWindow, ImageArray
from ssdlite.runtime.backends.base import Array, Network
from ssdlite.runtime.contract import BoxSpec, Contract, ModelSpec
from ssdlite.runtime.files import installed_runtimes, open_backend
from ssdlite.runtime.model import RuntimeDetector


class Reference:
    """One model of a contract, step by step. What the network answers is not checked here: that is what is compared.

    Raises:
        ContractError: the contract asks for steps that nothing here can take.
    """

    def __init__(self, contract: Contract, model: ModelSpec, backend: Network | None) -> None:
        self.contract = contract
        self.model = model
        self.backend = backend
        self._detector = RuntimeDetector(contract, model, backend or _NoBackend())

    def window(self, size: tuple[int, int]) -> CropWindow:
        """What of a picture of (height, width) the input shows."""
        return self._detector.input_transform.window(size)

    @property
    def boxes(self) -> BoxSpec:
        return self.contract.boxes_of(self.model)

    @property
    def sides(self) -> Array:
        """Width, height, width, height of the input."""
        return np.array([self.model.input.width, self.model.input.height] * 2, np.float32)

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
        values = self._detector.backend.run(np.repeat(tensor, self.model.input.batch or 1, axis=0))
        return {output.meaning: values[output.name][:1] for output in self.model.outputs if output.name in values}

    def detections(
        self, outputs: Mapping[str, Array], size: tuple[int, int], score_threshold: float
    ) -> list[Detection]:
        """Outputs [1, ...] by meaning -> final detections in the pixels of a picture of (height, width).

        Raises:
            ContractError: labels or counts that the contract does not allow.
        """
        (found,) = self._detector.postprocess(outputs)
        return list(found.to_picture(self.window(size), size).above(score_threshold))


class _NoBackend:
    def run(self, inputs: Array) -> dict[str, Array]:
        raise ContractError("the model's runtime is not installed")


def write_golden(
    bundle: Path,
    contract: Contract,
    images: Sequence[ImageArray],
    *,
    score_threshold: float | None = None,
    stand_ins: Mapping[str, Network] | None = None,
) -> None:
    """Replace ``bundle/golden`` 's vectors with those of ``images`` [H, W, 3] RGB and the models in ``bundle``.

    Final detections have at least ``score_threshold``, by default the contract's operating threshold, or where nothing
    in any picture scores so high, the contract's score threshold. contract.json itself is not read. ``stand_ins`` by
    file compute what models should whose runtime this system does not have.

    Raises:
        ExportError: no pictures, too many, or a model's runtime is not installed.
        ContractError: a model is missing or cannot be run, or the models take different inputs.
    """
    if not 1 <= len(images) <= MAX_GOLDEN_IMAGES:
        raise ExportError(f"reference vectors: expected 1 to {MAX_GOLDEN_IMAGES} pictures, got {len(images)}")
    check_one_size(contract, "reference vectors")
    runtimes, stand_ins = installed_runtimes(), stand_ins or {}
    needed = sorted({model.runtime for model in contract.models if model.file not in stand_ins})
    missing = [name for name in needed if name not in runtimes]
    if missing:
        raise ExportError(f"reference vectors: {', '.join(missing)} has to be installed")
    folder = bundle / GOLDEN_FOLDER
    entries = [
        GoldenImage(name=f"image_{number}", height=image.shape[0], width=image.shape[1])
        for number, image in enumerate(images)
    ]
    found: list[tuple[Vectors, GoldenImage, list[Detection]]] = []
    for model in contract.models:
        vectors = Vectors(folder, contract, model)
        network = stand_ins.get(model.file) or open_backend(bundle, model, threads=1)
        reference = Reference(contract, model, network)
        for entry, image in zip(entries, images, strict=True):
            check_side(entry, entry.name)
            found.append((vectors, entry, _write_steps(vectors, reference, entry, image)))
    if score_threshold is None:
        score_threshold = contract.postprocess.operating_threshold
    if not any(one.score >= score_threshold for *_, detections in found for one in detections):
        score_threshold = contract.postprocess.score_threshold
    for vectors, entry, detections in found:
        vectors.save_detections(entry, [one for one in detections if one.score >= score_threshold])
    index = GoldenIndex(
        score_threshold=score_threshold,
        images=tuple(entries),
        sha256={name: value for model in contract.models for name, value in model_hashes(bundle, model).items()},
        runtimes={name: runtimes[name] for name in needed},
    )
    save_index(bundle, index)


def _write_steps(vectors: Vectors, reference: Reference, entry: GoldenImage, rgb: ImageArray) -> list[Detection]:
    """Write the picture and all arrays of it and one model -> its detections of any score."""
    picture = Image.fromarray(np.ascontiguousarray(rgb))
    write_atomically(vectors.folder / f"{entry.name}.png", partial(picture.save, format="PNG"))
    resized = reference.resized(rgb)
    tensor = reference.tensor(resized)
    outputs = reference.outputs(tensor)
    vectors.save("picture", entry, rgb)
    vectors.save("resize", entry, resized)
    vectors.save("input", entry, tensor)
    for meaning, value in outputs.items():
        vectors.save("outputs", entry, value, meaning)
    return reference.detections(outputs, entry.size, 0.0)
