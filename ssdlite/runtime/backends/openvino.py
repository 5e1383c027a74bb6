"""An exported model in OpenVINO, as its own format: .xml, the graph, and .bin, the weights. No torch."""

from __future__ import annotations

import importlib
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ssdlite.errors import ContractError
from ssdlite.runtime.backends.base import (
    Array,
    TensorInfo,
    check_digest,
    check_input,
    check_promises,
    first_line,
    read_model_file,
)
from ssdlite.runtime.contract import METADATA_KEY, ModelSpec

DEVICE = "CPU"
REPORTER = "openvino_telemetry"
METADATA_PATH = ["ssdlite", "contract"]  # of METADATA_KEY; OpenVINO's metadata are a tree
SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",  # or processors that have it compute in bfloat16, whatever the file says
    "PERFORMANCE_HINT": "LATENCY",
    "ENABLE_CPU_PINNING": False,  # threads stay where their process has them
}
NO_NODES = ("Parameter", "Constant", "Result")
ELEMENT_TYPES = {"u8": "uint8", "f32": "float32", "i32": "int32"}


class OpenVinoBackend:
    """A pair of OpenVINO's files, on the CPU, in float32 and int8 whatever else the processor has.

    Both are read here: the graph can refer to no other file. ``nodes`` is how many it has.

    Args:
        graph: the .xml file.
        weights: the .bin file.
        threads: that compute one run; by default OpenVINO's choice.

    Raises:
        ContractError: openvino is not installed, or a file is missing, too large, damaged, or cannot be run here.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".xml",)
    package: ClassVar[str] = "openvino"
    unsupported: ClassVar[str] = ""
    has_weights_file: ClassVar[bool] = True
    carries_contract: ClassVar[bool] = True

    def __init__(self, graph: Path, weights: Path, threads: int | None = None) -> None:
        self.name = str(graph)
        self._opened = (graph.absolute(), weights.absolute(), threads)
        openvino = _import_openvino(self.name)
        text = read_model_file(graph)
        self._weights_name, self._weights = str(weights), read_model_file(weights)
        settings = {**SETTINGS, "INFERENCE_NUM_THREADS": threads or 0}
        try:
            core = openvino_core()
            model = core.read_model(text, openvino.Tensor(np.frombuffer(self._weights, np.uint8)))
            self.metadata = _metadata(model)
            self._request = core.compile_model(model, DEVICE, settings).create_infer_request()
            self.nodes = sum(node.get_type_name() not in NO_NODES for node in model.get_ops())
            self.inputs, self.outputs = ([*map(_tensor_info, ports)] for ports in (model.inputs, model.outputs))
        except (RuntimeError, ValueError, TypeError) as error:
            raise ContractError(f"{self.name}: OpenVINO cannot load it ({reason(error)})") from None
        self._lock = threading.Lock()  # a request computes one thing at a time

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as what was opened: a network belongs to its process."""
        return OpenVinoBackend, self._opened

    @classmethod
    def open(cls, path: Path, model: ModelSpec | None, threads: int | None) -> OpenVinoBackend:
        weights_file = None if model is None else model.weights_file
        backend = cls(path, path.with_name(weights_file) if weights_file else path.with_suffix(".bin"), threads)
        if model is not None:
            check_digest(backend._weights_name, backend._weights, model)
        return backend

    def check(self, model: ModelSpec) -> None:
        """Raises ContractError where the files have other inputs, outputs or weights than ``model`` promises."""
        check_promises(self.name, self.inputs, self.outputs, model)
        check_digest(self._weights_name, self._weights, model)

    def run(self, inputs: Array) -> dict[str, Array]:
        """The one input tensor -> all outputs by name. Raises ContractError: another shape or type, or it fails."""
        check_input(self.name, self.inputs, inputs)
        try:
            with self._lock:
                values = self._request.infer([np.ascontiguousarray(inputs)])
                return {info.name: np.array(values[number]) for number, info in enumerate(self.outputs)}
        except RuntimeError as error:
            raise ContractError(f"{self.name}: OpenVINO cannot run it ({reason(error)})") from None


def _metadata(model: Any) -> dict[str, str]:
    if not model.has_rt_info(METADATA_PATH):
        return {}
    return {METADATA_KEY: str(model.get_rt_info(METADATA_PATH).astype(str))}


def _tensor_info(port: Any) -> TensorInfo:
    kind, names = port.get_element_type().get_type_name(), sorted(port.get_names())
    shape = tuple(side.get_length() if side.is_static else None for side in port.get_partial_shape())
    return TensorInfo(names[0] if names else "", ELEMENT_TYPES.get(kind, kind), shape)


def reason(error: Exception) -> str:
    """OpenVINO's own, which stands below where in its sources it was found."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from ", "Check '"))]
    return first_line(RuntimeError(*(told or lines)[:1]))


def _import_openvino(name: str) -> Any:
    try:
        return import_without_reports()
    except ImportError:
        raise ContractError(f'{name}: running it needs openvino: pip install "ssdlite[openvino]"') from None


def import_without_reports() -> Any:
    """The package openvino. Importing it reports so to Intel over the network, unless ``openvino_telemetry``, which
    comes with it, is not to be found: nor is it here, where nobody has imported it before.

    Raises:
        ImportError: it is not installed.
    """
    hidden = sys.modules.setdefault(REPORTER, None) is None  # type: ignore[arg-type]  # None: no such module
    try:
        return importlib.import_module("openvino")
    finally:
        if hidden:
            del sys.modules[REPORTER]


@cache
def openvino_core() -> Any:
    """OpenVINO's ``Core``, one for the process and never let go.

    Who compiles first gives the thread another stack for signals, and who lets the last ``Core`` go frees that, but
    puts the old one back in its own thread alone: elsewhere, the next signal ends the process (2026.4).

    Raises:
        ImportError: it is not installed.
    """
    return import_without_reports().Core()
