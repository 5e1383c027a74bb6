"""An exported model in Core ML, through coremltools, which runs it on macOS alone. No torch of our own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ssdlite.errors import ContractError
from ssdlite.runtime.backends.base import Array
from ssdlite.runtime.contract import ModelSpec
from ssdlite.runtime.mlpackage import read_package

OUTPUTS_OF_DETECTOR = ("confidence", "coordinates")
SCORE_THRESHOLD_KEY = "score_threshold"  # of the metadata: from where scores count, where an app asks for no more


class CoreMlBackend:
    """A Core ML package.

    One of variant nms answers with one row for each object that is left; here it gets the shapes of its contract.

    Raises:
        ContractError: a file is missing, too large or damaged, or coremltools is not installed.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".mlpackage",)
    package: ClassVar[str] = "coremltools"
    unsupported: ClassVar[str] = "" if sys.platform == "darwin" else "Core ML runs on Apple's systems only"
    has_weights_file: ClassVar[bool] = False
    carries_contract: ClassVar[bool] = True

    def __init__(self, path: Path, model: ModelSpec | None = None) -> None:
        self.path = path.absolute()
        self._facts = read_package(path)
        self.metadata: dict[str, str] = self._facts.metadata
        self._model = model
        self._loaded: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as what was opened: a loaded model belongs to its process."""
        return CoreMlBackend, (self.path, self._model)

    @classmethod
    def open(cls, path: Path, model: ModelSpec | None, threads: int | None) -> CoreMlBackend:
        """``threads`` are Core ML's own matter."""
        return cls(path, model)

    def check(self, model: ModelSpec) -> None:
        """Raises ContractError where the package has other inputs or outputs than ``model`` promises."""
        self._model = model
        promised = OUTPUTS_OF_DETECTOR if model.variant == "nms" else tuple(output.name for output in model.outputs)
        if self._facts.inputs[:1] != (model.input.name,) or sorted(self._facts.outputs) != sorted(promised):
            found = ", ".join((*self._facts.inputs, *self._facts.outputs))
            raise ContractError(f"{self.path}: expected {model.input.name}, {', '.join(promised)}, found {found[:200]}")

    def run(self, inputs: Array) -> dict[str, Array]:
        """Pixels [1, H, W, 3] uint8 -> the contract's outputs by name. Raises ContractError when Core ML fails."""
        from PIL import Image

        model = self._model
        if self.unsupported or model is None:
            raise ContractError(f"{self.path}: {self.unsupported or 'it was not checked against a contract'}")
        values: dict[str, Any] = {model.input.name: Image.fromarray(np.ascontiguousarray(inputs[0]))}
        if model.variant == "nms" and SCORE_THRESHOLD_KEY in self.metadata:
            values["confidenceThreshold"] = float(self.metadata[SCORE_THRESHOLD_KEY])
        try:
            self._loaded = self._loaded or _load(self.path)
            found = {name: np.asarray(value, np.float32) for name, value in self._loaded.predict(values).items()}
        except (RuntimeError, ValueError, OSError) as error:
            raise ContractError(f"{self.path}: Core ML cannot run it ({str(error)[:200]})") from None
        return found if model.variant != "nms" else to_contract(found, model)


def to_contract(found: dict[str, Array], model: ModelSpec) -> dict[str, Array]:
    """What a detector answers, confidence [N, K] and coordinates [N, 4] -> the outputs of variant nms, best first."""
    confidence, coordinates = (found[name] for name in OUTPUTS_OF_DETECTOR)
    limit = next(output.shape[1] for output in model.outputs if output.meaning == "scores")
    scores = confidence.max(axis=1, initial=0)
    order = np.argsort(-scores, kind="stable")[:limit]
    center, half = coordinates[order, :2], coordinates[order, 2:] / 2
    rows = {
        "boxes": np.concatenate([center - half, center + half], axis=1).astype(np.float32),
        "scores": scores[order].astype(np.float32),
        "labels": (confidence[order].argmax(axis=1) if len(order) else order).astype(np.int32),
        "count": np.int32(len(order)),
    }
    result = {}
    for output in model.outputs:
        shape = [side or 1 for side in output.shape]
        result[output.name] = np.full(shape, -1 if output.meaning == "labels" else 0, output.type)
        if output.meaning == "count":
            result[output.name][0] = rows["count"]
        else:
            result[output.name][0, : len(order)] = rows[output.meaning]
    return result


def _load(path: Path) -> Any:
    try:
        import coremltools
    except ImportError:
        raise ContractError(f'{path}: running it needs coremltools: pip install "ssdlite[coreml]"') from None
    return coremltools.models.MLModel(str(path))
