"""The steps from a picture to detections, each on its own, as ``ssdlite.runtime`` takes them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssdlite.backends import Backend, OnnxBackend
from ssdlite.contract import Contract, ModelSpec, Runtime
from ssdlite.errors import ContractError
from ssdlite.export.vectors import GoldenDetection, to_golden
from ssdlite.image import ImageArray, View
from ssdlite.model_files import inner_file
from ssdlite.prediction import to_picture
from ssdlite.runtime import RuntimeDetector

Array = npt.NDArray[Any]
RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "ncnn")


def installed_runtimes() -> dict[Runtime, str]:
    """Version of each runtime that is installed here."""
    return {name: importlib.metadata.version(name) for name in RUNTIMES if find_spec(name) is not None}


def open_backend(bundle: Path, model: ModelSpec, threads: int | None = 1) -> Backend:
    """What runs this file of the bundle. Raises ContractError: missing, damaged."""
    path = inner_file(bundle, model.file, "the contract lists it")
    if model.runtime == "ncnn":
        from ssdlite.ncnn_backend import NcnnBackend

        weights = inner_file(bundle, str(model.weights_file), "the contract lists it")
        backend: Backend = NcnnBackend(path, weights, model, threads)
        return backend
    return OnnxBackend(path, threads)


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

    def view(self, size: tuple[int, int]) -> View:
        """What of a picture of (height, width) the input shows."""
        return self._detector.framing.view(size)

    def resized(self, rgb: ImageArray) -> ImageArray:
        """A picture [H, W, 3] -> the same at the input's size."""
        return self.view((rgb.shape[0], rgb.shape[1])).render(rgb, self._detector.framing.fill)

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
        own = to_picture(found, self.view(size), size, self.contract.class_names)
        return to_golden(own.above(score_threshold))


class _NoBackend:
    def run(self, inputs: Array) -> dict[str, Array]:
        raise ContractError("the model's runtime is not installed")
