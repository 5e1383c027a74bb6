"""An exported model in ncnn, through its Python package. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ssdlite.errors import ContractError
from ssdlite.runtime.backends.base import Array, check_model_file
from ssdlite.runtime.contract import ModelSpec

HALF_PRECISION_OPTIONS = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage")


class NcnnBackend:
    """A pair of ncnn files, on the CPU.

    ncnn knows no batch axis: it takes one image, and the outputs get their batch axis here. A model of precision
    ``fp32`` is computed in float32 throughout; for any other, ncnn's own defaults hold, which use float16 where the
    processor has it.

    Args:
        param: the graph, text.
        weights: the .bin file.
        model: names the input and output blobs and says the precision.
        threads: that compute one run; by default ncnn's choice.

    Raises:
        ContractError: ncnn is not installed, a file is missing, too large or damaged, or has other blobs than
            ``model`` says.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".param",)
    package: ClassVar[str] = "ncnn"
    has_weights_file: ClassVar[bool] = True
    carries_contract: ClassVar[bool] = False

    def __init__(self, param: Path, weights: Path, model: ModelSpec, threads: int | None = None) -> None:
        self.name = str(param)
        self.metadata: dict[str, str] = {}
        self.model = model
        self._ncnn = _import_ncnn(self.name)
        for path in (param, weights):
            check_model_file(path)
        self._net = self._ncnn.Net()
        if threads is not None:
            self._net.opt.num_threads = threads
        if model.precision == "fp32":
            for option in HALF_PRECISION_OPTIONS:
                setattr(self._net.opt, option, False)
        if self._net.load_param(str(param)) != 0:
            raise ContractError(f"{param}: ncnn cannot load it; expected a .param file that pnnx wrote")
        if self._net.load_model(str(weights)) != 0:
            raise ContractError(f"{weights}: ncnn cannot load it; expected the weights of {param.name}, all of them")
        self.check(model)

    @classmethod
    def open(cls, path: Path, model: ModelSpec | None, threads: int | None) -> NcnnBackend:
        if model is None or model.weights_file is None:
            raise ContractError(f"{path}: ncnn needs a contract that names its weights file and its blobs")
        return cls(path, path.with_name(model.weights_file), model, threads)

    def check(self, model: ModelSpec) -> None:
        """Raises ContractError where the file has other blobs than ``model`` says."""
        names = [model.input.name, *(output.name for output in model.outputs)]
        found = [*self._net.input_names(), *self._net.output_names()]
        if sorted(names) != sorted(found):
            raise ContractError(f"{self.name}: expected the blobs {', '.join(names)}, found {', '.join(found)}")

    def run(self, inputs: Array) -> dict[str, Array]:
        """[1, 3, H, W] float32 -> all outputs by blob name, each with the batch axis in front.

        Raises:
            ContractError: another shape or type, or ncnn fails.
        """
        expected = self.model.input.shape
        if inputs.shape != expected or inputs.dtype != np.float32:
            raise ContractError(
                f"{self.name}: expected float32 {list(expected)}, got {inputs.dtype} {list(inputs.shape)}"
            )
        extractor = self._net.create_extractor()
        extractor.input(self.model.input.name, self._ncnn.Mat(np.ascontiguousarray(inputs[0])).clone())
        return {output.name: self._extract(extractor, output.name) for output in self.model.outputs}

    def _extract(self, extractor: Any, name: str) -> Array:
        status, value = extractor.extract(name)
        if status != 0:
            raise ContractError(f"{self.name}: ncnn cannot compute {name!r} (status {status})")
        return np.array(value, np.float32)[None]


def _import_ncnn(name: str) -> Any:
    try:
        import ncnn
    except ImportError:
        raise ContractError(f'{name}: running it needs ncnn: pip install "ssdlite[ncnn]"') from None
    return ncnn
