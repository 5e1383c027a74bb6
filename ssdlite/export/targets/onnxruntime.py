"""For ONNX Runtime: .onnx files in every variant and precision, and the .ort files of ONNX Runtime Mobile."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import onnx

from ssdlite.errors import ExportError
from ssdlite.export.int8.quantizer import onnx_spec
from ssdlite.export.onnx import ERRORS_ONLY, attach_contract
from ssdlite.export.options import GraphOptions
from ssdlite.export.targets.job import Artifact, ExportJob
from ssdlite.files import write_atomically, write_text
from ssdlite.runtime.backends.base import quiet
from ssdlite.runtime.contract import Contract

OPERATORS_FILE = "required_operators.config"  # for a reduced build of ONNX Runtime
Optimization = Literal["fixed", "runtime"]


def export(job: ExportJob, graphs: Sequence[GraphOptions]) -> list[Artifact]:
    """A file for every variant and precision; with ``--ort`` a second one, and the operators that they need.

    ``nms`` comes first: it runs wherever ONNX Runtime does, and leaves the app only the scaling of boxes.
    """
    quantizer = job.quantizer(job.options.activations)
    models: dict[str, onnx.ModelProto] = {}
    artifacts = []
    for options in graphs:
        job.notify(f"exporting {options.variant}, {options.precision}, for onnxruntime")
        model, facts = job.onnx_model(options), None
        if options.precision == "int8":
            model, facts = quantizer.quantize(model, options)
        spec = replace(onnx_spec(job, options, model), quantization=facts)
        models[spec.file] = model
        artifacts.append(Artifact(spec, partial(_save_onnx, model)))
        if job.options.ort:
            ort_spec = replace(spec, file=f"{Path(spec.file).stem}.ort")
            artifacts.append(Artifact(ort_spec, partial(_save_ort, model)))
    if job.options.ort:
        with tempfile.TemporaryDirectory() as folder:
            for name, model in models.items():
                onnx.save(model, str(Path(folder, name)))
            write_required_operators([Path(folder, name) for name in models], job.folder / OPERATORS_FILE)
    return artifacts


def _save_onnx(model: onnx.ModelProto, folder: Path, contract: Contract) -> None:
    attach_contract(model, contract)
    write_atomically(folder / contract.models[0].file, lambda file: file.write(model.SerializeToString()))


def _save_ort(model: onnx.ModelProto, folder: Path, contract: Contract) -> None:
    attach_contract(model, contract)
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary, "model.onnx")
        source.write_bytes(model.SerializeToString())
        to_ort_format(source, folder / contract.models[0].file)


# --- ``.ort`` files: the format of ONNX Runtime Mobile, which reduced builds of ONNX Runtime load, and only that.


def to_ort_format(onnx_path: Path, ort_path: Path, *, optimization: Optimization | None = None) -> None:
    """Convert an ONNX file; its metadata, and so the contract, comes along.

    No optimisation is applied that belongs to the processor at hand, so the file runs on any.

    Args:
        optimization: as ``--optimization_style`` of ONNX Runtime's own converter. ``fixed`` writes the graph as the
            CPU wants it, with fused operators; ``runtime`` leaves the operators as they are, so that NNAPI, CoreML
            and XNNPACK find theirs, and notes what the CPU may fuse, which it does where the app sets
            ``session.enable_saved_runtime_optimizations``. By default ``fixed`` for quantised models, whose integer
            kernels come from fusing and run twice as fast, and ``runtime`` for all others.

    Raises:
        ExportError: ONNX Runtime does not take the model.
    """
    import onnxruntime

    style = optimization or ("fixed" if _is_quantized(onnx_path) else "runtime")
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "model.ort")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        options.optimized_model_filepath = str(written)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.save_model_format", "ORT")
        options.add_session_config_entry("session.qdqisint8allowed", "1")  # signed integers stay so: ARM likes them
        if style == "runtime":
            options.add_session_config_entry("optimization.minimal_build_optimizations", "save")
        try:
            onnxruntime.InferenceSession(str(onnx_path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a dozen kinds, without a common base
            raise ExportError(f"{onnx_path}: cannot be converted to .ort: {error}") from None
        write_atomically(ort_path, lambda file: file.write(written.read_bytes()))


def write_required_operators(onnx_paths: Sequence[Path], config_path: Path) -> None:
    """The operators, operator sets and types that the .ort files of these models need: for a build of just these.

    Both optimisation styles are covered. The file goes to ONNX Runtime's
    ``build.sh --include_ops_by_config FILE --enable_reduced_operator_type_support``.

    Raises:
        ExportError: ONNX Runtime does not take a model.
    """
    from onnxruntime.tools.ort_format_model import create_config_from_models

    styles: tuple[Optimization, ...] = ("fixed", "runtime")
    with tempfile.TemporaryDirectory() as folder:
        converted = [Path(folder, f"{i}.{style}.ort") for i in range(len(onnx_paths)) for style in styles]
        for path, (source, style) in zip(converted, itertools.product(onnx_paths, styles), strict=True):
            to_ort_format(source, path, optimization=style)
        written = Path(folder, "operators.config")
        with quiet("ort_format_model.utils"):  # it announces each file
            create_config_from_models(converted, written, enable_type_reduction=True)
        lines = [line for line in written.read_text("utf-8").splitlines() if not line.startswith("#")]
    names = ", ".join(path.name for path in onnx_paths)
    write_text(config_path, "\n".join([f"# operators of {names}", *lines, ""]))


def _is_quantized(onnx_path: Path) -> bool:
    graph = onnx.load(str(onnx_path), load_external_data=False).graph
    return any(node.op_type == "QuantizeLinear" for node in graph.node)
