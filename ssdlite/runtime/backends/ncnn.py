"""An exported model in ncnn, through its Python package. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ssdlite.errors import ContractError, quote
from ssdlite.runtime.backends.base import Array, check_model_file, opening
from ssdlite.runtime.contract import ModelSpec

PARAM_MAGIC = "7767517"
MAX_PARAM_BYTES = 1 << 24  # a detector's graph has some 30 kB
LONGEST_WORD = 256  # ncnn's own buffers
FIRST_ARRAY_KEY = -23300  # of ncnn: keys from here down hold arrays, their length first
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
    unsupported: ClassVar[str] = ""
    has_weights_file: ClassVar[bool] = True
    carries_contract: ClassVar[bool] = False

    def __init__(self, param: Path, weights: Path, model: ModelSpec, threads: int | None = None) -> None:
        self.name = str(param)
        self.metadata: dict[str, str] = {}
        self.model = model
        self._ncnn = import_ncnn(self.name)
        self._opened = (param.absolute(), weights.absolute(), model, threads)
        check_param(param)
        check_model_file(weights)
        self._net = self._ncnn.Net()
        if threads is not None:
            self._net.opt.num_threads = threads
        if model.precision == "fp32":
            for option in HALF_PRECISION_OPTIONS:
                setattr(self._net.opt, option, False)
        with opening():
            no_graph = self._net.load_param(str(param)) != 0
            no_weights = not no_graph and self._net.load_model(str(weights)) != 0
        if no_graph:
            raise ContractError(f"{param}: ncnn cannot load it; expected a .param file that pnnx wrote")
        if no_weights:
            raise ContractError(f"{weights}: ncnn cannot load it; expected the weights of {param.name}, all of them")
        self.check(model)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as what was opened: a network belongs to its process."""
        return NcnnBackend, self._opened

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


# --- ncnn believes a .param file: a wrong count or an unknown blob makes it write outside of its memory.


def read_layers(path: Path) -> list[str]:
    """The kinds of all layers of a .param file, checked as ``check_param`` does."""
    check_param(path)
    return [line.split()[0] for line in path.read_text("utf-8").splitlines()[2:] if line.strip()]


def check_param(path: Path) -> None:
    """Check the counts and blobs of a .param file, before ncnn reads it.

    Raises:
        ContractError: names the line that is wrong.
    """
    check_model_file(path)
    if path.stat().st_size > MAX_PARAM_BYTES:
        raise ContractError(f"{path}: expected a graph of at most {MAX_PARAM_BYTES} bytes")
    lines = path.read_bytes().decode("utf-8", "replace").splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    layers = [line.split() for line in lines[2:]]
    if not lines or lines[0].strip() != PARAM_MAGIC:
        raise ContractError(f"{path}: expected {PARAM_MAGIC} in its first line, got {quote(lines[0] if lines else '')}")
    blobs: set[str] = set()
    for number, words in enumerate(layers, start=3):
        if fault := _layer_fault(words, blobs):
            raise ContractError(f"{path}: line {number}: {fault}")
    counts = [str(len(layers)), str(len(blobs))]
    if lines[1:2] == [] or lines[1].split() != counts:
        found = quote(lines[1]) if lines[1:] else "nothing"
        raise ContractError(f"{path}: line 2: expected the counts of layers and blobs, {' '.join(counts)}, got {found}")


def _layer_fault(words: Sequence[str], blobs: set[str]) -> str | None:
    """What is wrong with a layer: type, name, numbers of inputs and outputs, these blobs, values. Adds its outputs."""
    if len(words) < 4 or not all(word.isascii() and word.isdigit() and len(word) < 6 for word in words[2:4]):
        return "expected a type, a name, and the numbers of inputs and outputs"
    first, last = 4 + int(words[2]), 4 + int(words[2]) + int(words[3])
    inputs, outputs, values = words[4:first], words[first:last], words[last:]
    if len(words) < last or any(len(word) >= LONGEST_WORD for word in words[:last]):
        return f"expected {words[2]} inputs and {words[3]} outputs"
    if unknown := [name for name in inputs if name not in blobs]:
        return f"no layer before gives the input {quote(unknown[0])}"
    if len(set(outputs)) != len(outputs) or not blobs.isdisjoint(outputs):
        return "an output has the name of another blob"
    blobs.update(outputs)
    return next(filter(None, map(_value_fault, values)), None)


def _value_fault(value: str) -> str | None:
    key, equals, content = value.partition("=")
    if not equals or not re.fullmatch(r"-?\d{1,5}", key):
        return f"expected values as number=value, got {quote(value)}"
    parts = content.split(",")
    if int(key) <= FIRST_ARRAY_KEY and parts[0] != str(len(parts) - 1):
        return f"expected an array of {quote(parts[0])} values, got {len(parts) - 1}"
    return None


def import_ncnn(name: str) -> Any:
    """The package; ``name`` is the file that needs it. Raises ContractError where it is not installed."""
    try:
        import ncnn
    except ImportError:
        raise ContractError(f'{name}: running it needs ncnn: pip install "ssdlite[ncnn]"') from None
    return ncnn
