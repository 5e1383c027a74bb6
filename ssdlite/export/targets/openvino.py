"""For OpenVINO: its own two files, .xml and .bin, of the very graphs that the ONNX export has, int8 included."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from ssdlite.errors import ExportError
from ssdlite.export.graphs import model_spec
from ssdlite.export.options import GraphOptions
from ssdlite.export.targets.job import Artifact, ExportJob
from ssdlite.files import write_atomically
from ssdlite.runtime.backends.openvino import METADATA_PATH, import_without_reports, openvino_core, reason
from ssdlite.runtime.contract import Contract, ModelSpec
from ssdlite.runtime.plain import to_json


def export(job: ExportJob, graphs: Sequence[GraphOptions]) -> list[Artifact]:
    """A pair of files for every variant and precision, with the contract in the graph's ``rt_info``.

    OpenVINO reads the .onnx files as well; its own open without its ONNX reader, and have room for fp16 as it has it:
    weights stored in half the space, and computed with as the device likes best. int8 is our own calibration.
    """
    import_openvino()
    quantizer = job.quantizer(job.options.activations)
    artifacts = []
    for options in graphs:
        job.notify(f"exporting {options.variant}, {options.precision}, for openvino")
        spec = openvino_spec(model_spec(job.detector, options, f"{options.variant}_{options.precision}.xml"))
        model = job.onnx_model(replace(options, precision="fp32"))
        if options.precision == "int8":
            model, facts = quantizer.quantize(model, options)
            spec = replace(spec, quantization=facts)
        artifacts.append(convert_to_openvino(model, spec))
    return artifacts


def openvino_spec(spec: ModelSpec) -> ModelSpec:
    """The contract's entry for the two files of a graph, the second named as OpenVINO finds it by itself."""
    return replace(spec, runtime="openvino", weights_file=f"{Path(spec.file).stem}.bin")


def convert_to_openvino(model: onnx.ModelProto, spec: ModelSpec) -> Artifact:
    """The files that ``spec`` names, of the ONNX graph ``model`` in float32 or QDQ int8.

    Raises:
        ExportError: openvino is not installed, or has no such operator.
    """
    import_openvino()
    # What openvino.convert_model does as well: half of the .xml goes.
    from openvino._offline_transformations import apply_moc_transformations

    try:
        graph = openvino_core().read_model(model.SerializeToString())
        apply_moc_transformations(graph, cf=False, smart_reshape=False)
    except RuntimeError as error:
        raise ExportError(
            f"OpenVINO cannot convert the graph: {_lacking(model, str(error)) or reason(error)}"
        ) from None
    _, weights = _serialize(graph, spec)
    digest = hashlib.sha256(weights).hexdigest()
    return Artifact(replace(spec, sha256={str(spec.weights_file): digest}), partial(_save, graph))


def _lacking(model: onnx.ModelProto, message: str) -> str:
    """The operators that OpenVINO's message names as unknown, each with the first node that needs it; else nothing."""
    found = re.search("No conversion rule found for operations: (.+)", message)
    names = {name.rpartition(".")[2] for name in found[1].split(", ")} if found else set()
    nodes = {node.op_type: node.name for node in reversed(model.graph.node) if node.op_type in names}
    listed = ", ".join(f"{operator} ({name})" for operator, name in sorted(nodes.items()))
    return f"it has no {listed}" if listed else ""


def _save(graph: Any, folder: Path, contract: Contract) -> None:
    (spec,) = contract.models
    graph.set_rt_info(to_json(contract), METADATA_PATH)
    text, weights = _serialize(graph, spec)
    write_atomically(folder / str(spec.weights_file), lambda file: file.write(weights))
    write_atomically(folder / spec.file, lambda file: file.write(text))


def _serialize(graph: Any, spec: ModelSpec) -> tuple[bytes, bytes]:
    """.xml and .bin."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.xml")
        import_openvino().save_model(graph, str(path), compress_to_fp16=spec.precision == "fp16")
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def import_openvino() -> Any:
    """Raises ExportError."""
    try:
        return import_without_reports()
    except ImportError:
        raise ExportError('openvino is not installed: pip install "ssdlite[openvino]"') from None
